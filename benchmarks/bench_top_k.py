"""HR@k from the ids that `model.top_k.onnx` answers, beside that of the manifest, which ranks the scores of `model.onnx`.

    recprune-export beauty.pt --data beauty.parquet --top-k 10 --exclude-seen -o beauty
    python benchmarks/bench_top_k.py beauty beauty.parquet

The manifest leaves out every item of a user's past, the file those of the history that it is given, the last `max_length`. Users of longer
pasts are counted apart.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from recprune_export.bundle import read_manifest
from recprune_export.data import SequenceEncoder, load_sequences
from recprune_export.data.sequences import HISTORY, NEXT_ITEM
from recprune_export.derived.top_k import TOP_K
from recprune_export.onnx import make_session, run

ROWS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    manifest = read_manifest(arguments.bundle)
    encoder = SequenceEncoder.from_dict(json.loads((arguments.bundle / "encoding.json").read_text()))
    test = load_sequences(arguments.data, encoder.schema, encoder).test
    hits, k = find_hits(arguments.bundle, test.inputs[HISTORY], test.labels[NEXT_ITEM], encoder)
    assert test.excluded_items is not None
    short = test.excluded_items.lengths <= encoder.columns.max_length
    stated = manifest.metrics["pruned"][f"hr@{k}"]
    rows = {
        f"hr@{k} of the manifest": stated,
        f"hr@{k} of the file's ids": float(hits.mean()),
        "users": len(hits),
        "hits by the manifest": round(stated * len(hits)),
        "hits by the file": int(hits.sum()),
        "users of longer pasts": int((~short).sum()),
    }
    for name, value in rows.items():
        print(f"{name:28} {value:.6f}" if isinstance(value, float) else f"{name:28} {value:,}")
    print(json.dumps(rows))


def find_hits(
    bundle: Path, histories: np.ndarray, targets: np.ndarray, encoder: SequenceEncoder
) -> tuple[np.ndarray, int]:
    """Return whether the raw id of each target is among the ids of the file, [users], and their number k."""
    session = make_session(bundle / TOP_K, 1)
    ids = [
        run(session, {HISTORY: histories[start : start + ROWS]})["top_item_ids"]
        for start in range(0, len(histories), ROWS)
    ]
    found = np.concatenate(ids)
    raw = np.array(["", *encoder.items.to_list()])[targets]  # a target of 0 is unknown to the model
    return (found.astype(str) == raw[:, None]).any(axis=1) & (targets > 0), found.shape[1]


if __name__ == "__main__":
    main()
