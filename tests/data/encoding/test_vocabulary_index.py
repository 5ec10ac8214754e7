"""What the manifest says of an encoding is what the encoder does."""

from pathlib import Path

import polars as pl

from recprune_export.data import Encoder, MultiValued, Schema, encoding_summary

ROWS = pl.DataFrame({"user": ["a", "b", "b"], "tags": ["x|y", "y", None], "age": [1.0, None, 3.0]})
SCHEMA = Schema(categorical=("user",), multi_valued=(MultiValued("tags", "|", 3),), numeric=("age",))


def test_the_ids_are_as_stated(tmp_path: Path) -> None:
    encoder = Encoder.fit(ROWS.lazy(), SCHEMA)
    said = encoding_summary(encoder.to_dict(), "encoding.json")
    strange = encoder.encode(pl.DataFrame({"user": ["?", "b"], "tags": ["?", "x"], "age": [None, 2.0]}))
    user, tags = said["vocabularies"]["user"], said["vocabularies"]["tags"]
    assert strange["user"].tolist() == [user["unknown"], user["first"]]
    assert strange["tags"][0].tolist() == [tags["unknown"], tags["padding"], tags["padding"]]
    assert strange["tags"].shape[1] == tags["max_length"]
    for name, vocabulary in said["vocabularies"].items():
        assert vocabulary["first"] + vocabulary["values"] == encoder.rows[name]
    assert said["numeric"] == ["age"]
