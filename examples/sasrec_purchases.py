"""Predict the next purchase of a customer: SASRec on a log of purchases, trained, compressed, and used for recommendations.

python examples/sasrec_purchases.py                                                        a generated log
python examples/sasrec_purchases.py --data purchases.csv --columns customer,product,time   your own

The log is a CSV or Parquet file with one row per purchase.
"""

import argparse
import json
import os
from pathlib import Path

# Before the import: without it ONNX Runtime writes a device id and sends usage data.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort

from recprune_export import compress
from recprune_export.data import SchemaOverrides, generate_sequences
from recprune_export.training import train

GENERATED = "user,item,position"


def arguments(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the log; without it one is generated")
    parser.add_argument("--columns", default=GENERATED, help="customer, product and time in the log")
    parser.add_argument("--epochs", type=int, default=2, help="of training; a real log wants 30 or more")
    return parser.parse_args(given)


def recommend(bundle: Path, bought: list[str], count: int = 5) -> list[str]:
    """Return the products that a customer who bought these, in this order, will buy next, the likeliest first.

    This is all that a server has to do; it needs numpy and onnxruntime. Products that the model does not know are left out;
    `ValueError` says so where it knows none of them.
    """
    encoding = json.loads((bundle / "encoding.json").read_text())
    products = encoding["items"]  # the id of each is its position, counted from 1; 0 pads
    known = {product: number for number, product in enumerate(products, start=1)}
    session = ort.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    length = session.get_inputs()[0].shape[1]
    ids = [known[str(product)] for product in bought if str(product) in known][-length:]
    if not ids:
        raise ValueError(
            f"None of the products {bought} is in the log that the model was trained on, such as {products[:3]}."
        )
    history = np.array([[0] * (length - len(ids)) + ids], dtype=np.int64)  # the newest is last
    scores = session.run(None, {session.get_inputs()[0].name: history})[0][0]
    scores[[0, *ids]] = -np.inf  # padding is not a product, and purchased products are not recommended again
    return [products[number - 1] for number in np.argsort(-scores)[:count]]


def main(given: list[str] | None = None) -> None:
    """Run the whole example."""
    options = arguments(given)
    log = options.data or Path("purchases.csv")
    if options.data is None:
        generate_sequences(log, rows=4000)
    customer, product, time = options.columns.split(",")
    wishes = SchemaOverrides(sequence=f"{customer},{product},{time}", max_length=20)
    training = train(log, "sasrec", Path("sasrec.pt"), wishes, {"dim": 32}, epochs=options.epochs)
    result = compress(
        training.path, target="artifacts/sasrec", data=log, sparsity=0.7, epochs=1, latency_batch_sizes=(1, 32)
    )
    for name, dense in result.metrics["dense"].items():
        print(f"{name}: {dense:.4f} dense, {result.metrics['pruned'][name]:.4f} pruned")
    print(f"{result.reduction.parameters:.1%} of the parameters are gone; the bundle is {result.target}")
    bought = json.loads((result.target / "encoding.json").read_text())["items"][:3]
    print(f"Who bought {', '.join(bought)} will buy: {', '.join(recommend(result.target, bought))}")
    print(f"Next: recprune-export verify {result.target}")


if __name__ == "__main__":
    main()
