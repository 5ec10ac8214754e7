"""Each kind of ONNX file in each release of ONNX Runtime, in node, in wasm and in OpenVINO: pass, or the reason.

    python benchmarks/bench_releases.py --environments FOLDER [--releases 1.17.3,1.32.0] [--node FOLDER] [--openvino FOLDER] [BUNDLE...]

Without bundles, it creates one of each kind. Releases are installed by pip into separate subfolders of FOLDER; `--node` has
`node_modules` with onnxruntime-node and onnxruntime-web, `--openvino` the packages of OpenVINO (pip install --target). The requirements
that a file states are compared with the results. Prints a table, and JSON as the last line.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from releases.run_golden import list_files
from torch import nn

from recprune_export.api import compress
from recprune_export.bundle import read_manifest

HERE = Path(__file__).parent / "releases"
RELEASES = ("1.17.3", "1.18.1", "1.20.1", "1.23.2", "1.32.0")
OLD_NUMPY = "numpy==1.26.4"  # releases before 1.19 were built for NumPy 1
DEPENDENCIES = ("flatbuffers", "protobuf", "packaging", "coloredlogs", "humanfriendly", "sympy", "mpmath")
KINDS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp32, opset 18": {"opset": 18},
    "fp32, opset 21": {"opset": 21},
    "fp16 tables": {"quantize": "fp16"},
    "int8": {"quantize": "int8"},
    "int8, operators onnx": {"quantize": "int8", "operators": "onnx"},
    "int4": {"quantize": "int4"},
    "int4, operators onnx": {"quantize": "int4", "operators": "onnx"},
    "planned bits": {"max_bytes": "12%"},
    "planned bits, operators onnx": {"max_bytes": "12%", "operators": "onnx"},
}


class Ranker(nn.Module):
    """Two tables, a hidden layer of 512 units: large enough that int8 layers are faster."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(5000, 64), nn.Embedding(3000, 64)
        self.mlp = nn.Sequential(
            nn.Linear(128, 512), nn.GELU(), nn.LayerNorm(512), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 1)
        )

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        score: torch.Tensor = self.mlp(torch.cat([self.users(user), self.items(item)], -1)).squeeze(-1)
        return score


def make_bundles(folder: Path) -> list[Path]:
    torch.manual_seed(0)
    model, request = Ranker().eval(), {"user": torch.arange(4), "item": torch.arange(4)}
    bundles = []
    for kind, options in KINDS.items():
        budget = {} if "max_bytes" in options else {"sparsity": 0.5}
        target = folder / kind.replace(", ", "-").replace(" ", "-")
        compress(model, request, target=target, epochs=0, latency_batch_sizes=(1, 64), quick=True, **budget, **options)
        bundles.append(target)
    return bundles


def install(release: str, environments: Path) -> str:
    """Install a release and what it needs, once; return the search path of its interpreter."""
    old = tuple(map(int, release.split(".")[:2])) < (1, 19)
    wanted = [(f"onnxruntime=={release}",), *(((OLD_NUMPY,),) if old else ())]
    folders = [environments / names[0].replace("==", "-") for names in wanted] + [environments / "dependencies"]
    for names, folder in zip([*wanted, DEPENDENCIES], folders, strict=True):
        if not folder.is_dir():
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *names]
            subprocess.run(command, check=True)
    return os.pathsep.join(map(str, folders))


def run_python(kind: str, path: str, bundles: list[Path]) -> dict[str, dict[str, str]]:
    """Return the result of each file; each runs in a separate process, because a runtime may end the process."""
    return {b.name: {name: run_file(kind, path, b, name) for name in list_files(b)} for b in bundles}


def run_file(kind: str, path: str, bundle: Path, name: str) -> str:
    command = [sys.executable, str(HERE / "run_golden.py"), kind, str(bundle), name]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[-1] if done.returncode == 0 else f"the process ended with {done.returncode}"


def run_node(kind: str, modules: Path, requests: Path) -> dict[str, dict[str, str]]:
    command = ["node", str(HERE / "run_golden.mjs"), kind, str(modules), str(requests)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_requests(bundles: list[Path], path: Path) -> Path:
    """Write golden requests and answers as JSON, which JavaScript reads."""
    requests: dict[str, Any] = {}
    for bundle in bundles:
        requests[bundle.name] = {
            name: {
                "model": str(bundle / name), "absolute": of["absolute"], "relative": of["relative"],
                **{key: _as_json(dict(np.load(bundle / of[key]))) for key in ("inputs", "outputs")},
            }
            for name, of in list_files(bundle).items()
        }  # fmt: skip
    path.write_text(json.dumps(requests))
    return path


def _as_json(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: {"dtype": _name(a), "shape": a.shape, "data": _list(a)} for name, a in arrays.items()}


def _name(array: np.ndarray) -> str:
    return "string" if array.dtype.kind == "U" else array.dtype.name


def _list(array: np.ndarray) -> list[Any]:
    if array.dtype.kind == "f":
        return [
            value if np.isfinite(value) else str(value).replace("inf", "Infinity").replace("nan", "NaN")
            for value in array.ravel().tolist()
        ]
    return [str(value) if array.dtype == np.int64 else value for value in array.ravel().tolist()]


def is_promised(release: str, needed: str) -> bool:
    return tuple(map(int, release.split(".")[:2])) >= tuple(map(int, needed.split(".")))


@click.command()
@click.option("--environments", type=click.Path(path_type=Path), required=True)
@click.option("--releases", default=",".join(RELEASES), show_default=True)
@click.option("--node", type=click.Path(path_type=Path))
@click.option("--openvino", type=click.Path(path_type=Path))
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path))
def main(
    environments: Path, releases: str, node: Path | None, openvino: Path | None, bundles: tuple[Path, ...]
) -> None:
    environments.mkdir(parents=True, exist_ok=True)
    listed = list(bundles) or make_bundles(environments / "bundles")
    columns: dict[str, dict[str, dict[str, str]]] = {}
    for release in releases.split(","):
        columns[release] = run_python("onnxruntime", install(release, environments), listed)
    if node is not None:
        requests = write_requests(listed, environments / "requests.json")
        columns |= {"node": run_node("node", node, requests), "wasm": run_node("web", node, requests)}
    if openvino is not None:
        columns["OpenVINO"] = run_python("openvino", str(openvino), listed)
    rows, broken, reasons = [], [], {}
    for bundle in listed:
        manifest = read_manifest(bundle)
        for name in list_files(bundle):
            runtime = manifest.runtime if name == "model.onnx" else manifest.models[name]["runtime"]
            assert runtime is not None
            results = {column: found[bundle.name][name] for column, found in columns.items()}
            rows.append({"bundle": bundle.name, "file": name, "needs": runtime["onnxruntime"], **results})
            for column, result in results.items():
                if result != "pass":
                    reasons.setdefault(result, []).append(f"{bundle.name}/{name} in {column}")
                if column[0].isdigit() and is_promised(column, runtime["onnxruntime"]) and result != "pass":
                    broken.append(f"{bundle.name}/{name}: {column}: {result}")
    width = max(len(f"{row['bundle']}/{row['file']}") for row in rows)
    print(f"{'':{width}}  needs  " + "  ".join(f"{column:>8}" for column in columns))
    for row in rows:
        cells = "  ".join(f"{'pass' if row[column] == 'pass' else 'no':>8}" for column in columns)
        print(f"{row['bundle'] + '/' + row['file']:{width}}  {row['needs']:>5}  {cells}")
    for reason, where in reasons.items():
        print(f"{', '.join(where)}: {reason}")
    print(f"Promises that do not hold: {'; '.join(broken) or 'none'}.")
    print(json.dumps({"rows": rows, "broken": broken}))


if __name__ == "__main__":
    main()
