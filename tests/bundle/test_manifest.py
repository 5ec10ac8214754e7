import json

import pytest

from recprune_export.bundle.manifest import Manifest, checksum
from recprune_export.errors import BundleError
from tests.bundle.samples import manifest


def values() -> dict[str, object]:
    entry = {"bytes": 1, "sha256": "0" * 64}
    names = ("model.onnx", "samples/inputs.npz", "samples/outputs.npz")
    made = manifest().to_dict() | {"files": dict.fromkeys(names, entry)}
    return made | {"checksum": checksum(made)}


def test_a_manifest_survives_json() -> None:
    read = Manifest.from_dict(json.loads(json.dumps(values())))
    assert read.to_dict() == values()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"opset": "twenty"}, r"\$\.opset"),
        ({"created": "yesterday"}, r"\$\.created"),
        ({"tolerances": {"absolute": -1, "relative": 0}}, r"\$\.tolerances"),
        ({"session": {"options": {"threads": 0}}}, r"\$\.session"),
        ({"session": {"speed": 1}}, r"\$\.session"),
        ({"files": {}}, r"\$\.files"),
        ({"change": {"metric": "auc"}}, r"\$\.change"),
        ({"change": {"better": True}}, r"\$\.change"),
        ({"notes": [1]}, r"\$\.notes"),
        ({"latency": {"milliseconds": {"1": {"dense": {"distribution": [-1.0]}}}}}, r"\$\.latency"),
        ({"surprise": 1}, "schema"),
        ({"signature": {"inputs": [], "outputs": []}}, r"\$\.signature"),
    ],
)
def test_what_the_schema_forbids_is_refused_by_its_place(change: dict[str, object], said: str) -> None:
    made = values() | change
    with pytest.raises(BundleError, match=said):
        Manifest.from_dict(made | {"checksum": checksum(made)})
