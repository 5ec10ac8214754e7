"""Run the golden request of an ONNX file of a bundle in the ONNX Runtime, or OpenVINO, that this interpreter finds.

    python run_golden.py onnxruntime|openvino BUNDLE FILE

Needs NumPy and the runtime alone. Prints "pass", or the reason in one line.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def make_onnxruntime(path: Path) -> Callable[[Arrays], Arrays]:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda request: dict(zip(names, session.run(names, request), strict=True))


def make_openvino(path: Path) -> Callable[[Arrays], Arrays]:
    import openvino

    core = openvino.Core()
    # By default OpenVINO computes in bfloat16, and rounds the operands of layers whose weights are integers.
    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    compiled = core.compile_model(str(path), "CPU", options)

    def answer(request: Arrays) -> Arrays:
        response = compiled(request)
        return {name: response[output] for output in compiled.outputs for name in output.get_names()}

    return answer


def judge(make: Callable[[Path], Callable[[Arrays], Arrays]], bundle: Path, name: str, entry: dict) -> str:
    """Return "pass", or the first line of what failed."""
    request, golden = (dict(np.load(bundle / entry[key])) for key in ("inputs", "outputs"))
    try:
        answer = make(bundle / name)(request)
    except Exception as error:  # runtimes have no common base
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    for output, expected in golden.items():
        got = np.asarray(answer[output])
        if expected.dtype.kind not in "fiub":
            if got.astype(str).tolist() != expected.astype(str).tolist():
                return f"'{output}' has other texts"
            continue
        size = (
            float(np.sqrt(np.mean(np.square(expected[np.isfinite(expected)], dtype=np.float64))))
            if expected.size
            else 0.0
        )
        allowed = entry["absolute"] + entry["relative"] * np.maximum(np.abs(expected), size)
        same = (got == expected) | (np.isnan(got) & np.isnan(expected)) | (np.abs(got - expected) <= allowed)
        if not same.all():
            return f"'{output}' differs by {np.nanmax(np.abs(got.astype(np.float64) - expected)):.1e}"
    return "pass"


def list_files(bundle: Path) -> dict[str, dict]:
    """Return, by the name of each ONNX file, its samples and tolerances."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    samples = {"inputs": "samples/inputs.npz", "outputs": "samples/outputs.npz"}
    files = {"model.onnx": {**samples, **manifest["tolerances"]}}
    return files | {name: {**of["samples"], **of["tolerances"]} for name, of in manifest["models"].items()}


if __name__ == "__main__":
    make = {"onnxruntime": make_onnxruntime, "openvino": make_openvino}[sys.argv[1]]
    bundle, name = Path(sys.argv[2]), sys.argv[3]
    print(judge(make, bundle, name, list_files(bundle)[name]))
