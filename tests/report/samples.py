"""Manifests as the main job writes them, made without running it, and one whose every name is hostile."""

from typing import Any

import numpy as np

from recprune_export.bundle import Manifest
from recprune_export.validation import DENSE_ONNX, DENSE_TORCH, PRUNED_ONNX, PRUNED_TORCH, LatencyReport
from tests.bundle import samples

HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}\u202e\x00"
TIMES = {DENSE_TORCH: 3.0, PRUNED_TORCH: 2.0, DENSE_ONNX: 1.5, PRUNED_ONNX: 0.7}


def latency(batches: tuple[int, ...] = (1, 32, 256, 1024)) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    taken = {
        batch: {name: ms * (1 + batch / 100) * rng.lognormal(0, 0.1, 60) for name, ms in TIMES.items()}
        for batch in batches
    }
    footprint = {"load": 5.0, "first_request": 2.0, "memory": 1e7, "peak": 2e7}
    return {
        **LatencyReport(taken, threads=1).to_dict(),
        "footprint": {"batch": 1024, "processes": {}, DENSE_ONNX: footprint, PRUNED_ONNX: footprint},
    }


def counts(tables: int, rest: int, size: int) -> dict[str, Any]:
    return {
        "tables": {"parameters": tables, "nonzero": tables - 7},
        "rest": {"parameters": rest, "nonzero": rest},
        "operations": rest + 11,
        "nodes": 35,
        "bytes": size,
    }


def weight(name: str, form: str, reason: str) -> dict[str, Any]:
    """A weight of which a quantization tells."""
    return {
        "name": name, "shape": [100, 32], "form": form, "reason": reason, "speedups": {}, "error": None, "bytes": [12_800, 3_600],
    }  # fmt: skip


def storage(name: str, groups: int) -> dict[str, Any]:
    """Return planned bits, and a curve with points on both sides of the chosen one."""
    tables = {f"{name}.{n}": (4, 8, 16)[n % 3] for n in range(groups)}
    losses = ((95_000, 4e-3), (135_000, 1.5e-3), (160_000, 9e-4), (230_000, 4e-4), (290_000, 1e-4), (380_000, 2e-5))
    return {
        "bits": {"tables": tables, "layers": {name: 8}, "other_layers": 32},
        "max_bytes": 192_000,
        "point": {"bytes": 191_322, "loss": 6e-4},
        "least_loss_estimate": 5.5e-4,
        "curve": [{"bytes": size, "loss": loss} for size, loss in losses],
    }


def tuning(metrics: tuple[float | None, ...] = (None, 0.701, 0.704, 0.703), best: int = 2) -> dict[str, Any]:
    """Return a run of fine-tuning; zeros are set in the epochs without a metric."""
    epochs = [{"loss": 0.5 - 0.01 * number, "metric": metric} for number, metric in enumerate(metrics)]
    return {"metric": "auc", "epochs": epochs, "best": best, "untuned": 0.69}


def rewrite(name: str, *, kept: bool) -> dict[str, Any]:
    """Return a tried rewrite of the graph."""
    reason = "" if kept else f"{name} is estimated to be 7.1% slower at batch 64"
    after = {"1": 0.03, "64": 0.3} if kept else {"1": 0.04, "64": 0.4}
    before = {"1": 0.04, "64": 0.4} if kept else {"1": 0.03, "64": 0.3}
    return {"name": name, "places": 3, "kept": kept, "reason": reason, "error": 1e-7, "before": before, "after": after}


def trial(value: float, change: float, seed: int = 0) -> dict[str, Any]:
    """Return a trial of `--max-drop` at a fraction of the bytes."""
    return {
        "point": {"kind": "bytes", "value": value}, "seed": seed, "metric": "auc", "before": 0.7, "after": 0.7 + change,
        "interval": [change - 0.002, change + 0.002], "error": 0.01, "rows": 900, "artifact": None,
    }  # fmt: skip


def breakdown(label: str) -> dict[str, Any]:
    """Return two buckets of id frequency, one of them without a metric, and the calibration of a label."""
    change = {
        "metric": "auc", "before": 0.61, "after": 0.58, "interval": [-0.05, -0.01], "error": 0.02, "rows": 120,
        "greater_is_better": True,
    }  # fmt: skip
    bins = [{"rows": 500, "predicted": 0.1, "observed": 0.12}, {"rows": 312, "predicted": 0.4, "observed": 0.35}]
    calibration = {"predicted": 0.21, "observed": 0.22, "ece": 0.031, "bins": bins}
    return {
        "by": "rarest id of the row",
        "buckets": [
            {"least": 0, "most": 0, "rows": 3, "metrics": {"dense": {}, "pruned": {}}, "change": None},
            {
                "least": 1, "most": 9, "rows": 120, "metrics": {"dense": {"auc": 0.61}, "pruned": {"auc": 0.58}},
                "change": change,
            },
        ],
        "calibration": {label: {"dense": calibration, "pruned": {**calibration, "ece": None}}},
    }  # fmt: skip


def full(name: str = "ctr", groups: int = 3, **changes: Any) -> Manifest:
    """With data; `name` is also that of whatever else has one, `groups` how many there are of each kind, and much else."""
    widths = [
        {"group": f"{name}.{kind}.{n}", "kind": kind, "width": 32 + n % 5, "kept": 8}
        for kind in ("embedding", "hidden")
        for n in range(groups)
    ]
    frozen = [
        {
            "tensor": f"{name}.{n}",
            "axis": 0,
            "count": 3,
            "reason": f"{name} keeps {n % 7}",
            "source": f'"/a/{name}", line {n}',
        }
        for n in range(groups)
    ]
    inputs = [
        {"name": f"{name}{n}", "dtype": "int64", "shape": ["batch", 2], "ids": [[0, 9], None], "observed": None}
        for n in range(groups)
    ]
    errors = [
        {
            "name": f"{name}{n}",
            "dtype": "float32",
            "max_absolute": 1.9e-6,
            "max_relative": 4e-7,
            "worst": name,
            "not_finite": n,
        }
        for n in range(groups)
    ]
    values: dict[str, Any] = {
        "name": name,
        "signature": {"inputs": inputs, "outputs": [{"name": name, "dtype": "float32", "shape": ["batch"]}]},
        "counts": {"dense": counts(62_048, 88_545, 607_878), "pruned": counts(19_390, 26_911, 191_322)},
        "metrics": {"dense": {"auc": 0.64909, "logloss": 0.58569}, "pruned": {"auc": 0.64822, "logloss": 0.58474}},
        "change": {
            "metric": "auc", "before": 0.64909, "after": 0.64822, "interval": [-0.0042, 0.0024], "error": 0.01, "rows": 812,
        },
        "breakdown": breakdown(name),
        "latency": latency(),
        "parity": {
            "outputs": errors, "rows": 779, "requests": ["test rows", name], "tolerances": {"absolute": 1e-5, "relative": 1e-5},
        },
        "plan": {
            "score": name,
            "fields": {"removed": [name], "importance": {name: 1e-4}},
            "groups": widths,
            "frozen": frozen,
            "soundness": {"error": 3.6e-16, "tolerance": 1e-9, "batches": [1, 6]},
            "rows": None,
            "storage": storage(name, groups),
            "finetuning": tuning(),
        },
        "settings": {
            "sparsity": 0.7, "seed": 3, "model": name, "data": name,
            "model_file": {"path": name, "sha256": "a" * 64},
        },
        "environment": {"cpu": name, "cores": 2, "system": name, "python": "3.11", "packages": {"numpy": "2.4.6", name: name}},
        "quantization": {
            "mode": "int8",
            "tables": [weight(f"{name}.{n}", "int8 by row", name) for n in range(groups)],
            "layers": [weight(name, "fp32", name)],
            "loss": {"metric": name, "lost": 4e-5, "limit": 1e-3, "interval": [-2e-5, 9e-5], "passed": True},
            "taken_back": [name],
            "bytes": {"before": 681_262, "after": 264_700},
            "error": 1e-3,
            "errors": {name: 1e-3},
            "spread": 0.0,
            "speedups": {"1": {"estimate": 1.25, "low": 1.2, "high": 1.3}},
        },
        "rewrites": [rewrite(f"{name}.{n}", kept=n % 2 == 0) for n in range(groups)],
        "trials": [trial(0.1, -0.004), trial(0.3, -0.0001), trial(0.3, -0.0002, seed=1)],
        "notes": [name],
        "license": name,
        "provenance": {
            "command": [name, "--data", name],
            "model": {"name": name, "bytes": 1, "sha256": "a" * 64},
            "data": {"name": name, "bytes": 1, "sha256": "b" * 64},
            "seeds": {"compression": 3},
            "commits": {"recprune-export": {"commit": "c" * 40, "changed": True}, "working_directory": None},
        },
    }  # fmt: skip
    return samples.manifest(**{**values, **changes})


def bare() -> Manifest:
    """States nothing that it need not."""
    return samples.manifest()


def without_data() -> Manifest:
    settings = {**full().settings, "data": None}
    return full(metrics={"dense": {}, "pruned": {}}, change={}, settings=settings)


def before_distributions() -> Manifest:
    """Latency as older bundles state it."""
    old = latency()
    del old["percents"]
    for of in old["milliseconds"].values():
        for values in of.values():
            del values["distribution"]
    return full(latency=old)


def sweep() -> dict[str, Any]:
    """Return the result of a sweep over sparsities, as earlier releases wrote it."""
    trials = [
        {
            "sparsity": sparsity,
            "seed": 0,
            "metric": "auc",
            "before": 0.70,
            "after": 0.70 - drop,
            "interval": [-drop - 0.002, -drop + 0.002],
            "error": 0.01,
            "artifact": {"bytes": size, "speedup": {"1": [1.1, 1.0, 1.2], "256": [gain, gain - 0.1, gain + 0.1]}},
        }
        for sparsity, drop, size, gain in (
            (0.5, 0.0005, 300_000, 1.5),
            (0.7, 0.001, 190_000, 2.2),
            (0.9, 0.01, 80_000, 3.3),
        )
    ]
    return {"model": {"path": "model.pt", "sha256": "a" * 64}, "knee": 0.7, "trials": trials}


def sweep_of_points() -> dict[str, Any]:
    """Return the result of a sweep over sparsities and bytes, with the dense model in int8."""
    rows = (
        ("sparsity", 0.3, 0.0002, 420_000, 1.3),
        ("sparsity", 0.5, 0.0005, 300_000, 1.6),
        ("sparsity", 0.7, 0.002, 190_000, 2.2),
        ("sparsity", 0.8, 0.004, 130_000, 2.6),
        ("sparsity", 0.9, 0.010, 80_000, 3.3),
        ("sparsity", 0.95, 0.014, 52_000, 3.6),
        ("bytes", 0.3, 0.0, 182_000, 1.7),
        ("bytes", 0.2, 0.0001, 121_000, 1.9),
        ("bytes", 0.1, 0.0003, 60_000, 2.4),
        ("bytes", 0.07, 0.001, 42_000, 2.7),
        ("bytes", 0.05, 0.0024, 30_000, 2.9),
        ("bytes", 0.03, 0.009, 18_000, 3.2),
        ("dense int8", 0.0, 0.0001, 165_000, 1.9),
    )
    trials = [
        {
            "point": {"kind": kind, "value": value},
            "seed": 0,
            "metric": "auc",
            "before": 0.70,
            "after": 0.70 - drop,
            "interval": [-drop - 0.001, -drop + 0.001],
            "error": 0.01,
            "artifact": {"bytes": size, "speedup": {"1": [1.1, 1.0, 1.2], "256": [gain, gain - 0.1, gain + 0.1]}},
        }
        for kind, value, drop, size, gain in rows
    ]
    return {"model": {"path": "model.pt", "sha256": "a" * 64}, "knee": 0.7, "trials": trials}
