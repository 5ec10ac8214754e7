"""An MLflow model folder of a bundle: `model.onnx` with the flavors onnx and python_function, and its signature.

The layout is that of `mlflow.onnx.save_model` (MLflow 3); MLflow is not needed to write it.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recprune_export.bundle._verify import check_files, read_manifest, reject_invalid_sections
from recprune_export.bundle.manifest.manifest import MODEL, Manifest
from recprune_export.bundle.remeasure_latency import read_session_options
from recprune_export.errors import UsageError
from recprune_export.onnx.runtime.runtime_requirements import RuntimeRequirements
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.output_files import find_existing_folder, make_sibling_path
from recprune_export.program.requests.jagged_inputs import make_file_signature
from recprune_export.program.signature import Input, Output, Signature

# of onnxruntime.GraphOptimizationLevel, by the names of this package
_LEVELS = {"none": 0, "basic": 1, "extended": 2, "all": 99}

_MODEL = """\
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_session_options: {options}
    onnx_version: null
    providers:
    - CPUExecutionProvider
  python_function:
    data: model.onnx
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.onnx
    python_version: '{python}'
signature:
  inputs: {inputs}
  outputs: {outputs}
  params: null
utc_time_created: {created}
metadata: {metadata}
"""
_PYTHON = "3.11"
_REQUIREMENTS = "mlflow\nonnx\nonnxruntime>={release}\n"
_CONDA = "name: mlflow-env\nchannels:\n- conda-forge\ndependencies:\n- python={python}\n- pip\n- pip:\n{requirements}"
_ENVIRONMENT = (
    "python: '{python}'\nbuild_dependencies:\n- pip\n- setuptools\n- wheel\ndependencies:\n- -r requirements.txt\n"
)


def check_mlflow_target(folder: Path) -> None:
    """Raise `UsageError` if no model folder can be written to `folder`; to be called before a long job."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"--mlflow {folder} is not a folder: give a folder that does not exist yet.")
    with _readable_errors(folder):
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"--mlflow {folder} is not empty, so it is not replaced: give another folder.")
        if not os.access(find_existing_folder(folder), os.W_OK):
            raise UsageError(f"--mlflow {folder} cannot be written.")


def write_mlflow_model(bundle: Path, folder: Path) -> Path:
    """Write the MLflow model of a bundle to `folder`, completely or not at all; return it.

    `mlflow.pyfunc.load_model` returns a model whose `predict` takes the inputs of `model.onnx` as a dict of arrays.

    Raises `BundleError` if the bundle is damaged, `UsageError` if the folder is not empty or cannot be written.
    """
    check_mlflow_target(folder)
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    with reject_invalid_sections(bundle):
        texts = _make_texts(manifest)
    models = [name for name in (MODEL, f"{MODEL}.data") if name in manifest.files]
    staging = make_sibling_path(folder.absolute(), ".tmp")
    with _readable_errors(folder):
        try:
            staging.mkdir(parents=True)
            for name, text in texts.items():
                (staging / name).write_text(text, encoding="utf-8")
            for name in models:
                shutil.copyfile(bundle / name, staging / name)
            os.replace(staging, folder)  # replaces an empty folder
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def _make_texts(manifest: Manifest) -> dict[str, str]:
    signature = make_file_signature(Signature.from_dict(manifest.signature))
    runtime = None if manifest.runtime is None else RuntimeRequirements.from_dict(manifest.runtime)
    requirements = _REQUIREMENTS.format(release="1.17" if runtime is None else runtime.onnxruntime)
    model = _MODEL.format(
        options=json.dumps(_make_session_settings(read_session_options(manifest))),
        python=_PYTHON,
        inputs=json.dumps(json.dumps(_describe_tensors(signature.inputs))),
        outputs=json.dumps(json.dumps(_describe_tensors(signature.outputs))),
        created=json.dumps(manifest.created),
        metadata=json.dumps({"bundle": manifest.name}),
    )
    conda = "".join(f"  - {line}\n" for line in requirements.splitlines())
    return {
        "MLmodel": model,
        "requirements.txt": requirements,
        "conda.yaml": _CONDA.format(python=_PYTHON, requirements=conda),
        "python_env.yaml": _ENVIRONMENT.format(python=_PYTHON),
    }


def _make_session_settings(options: SessionOptions) -> dict[str, Any]:
    """Return `onnx_session_options`; MLflow has no option for the memory arena."""
    entries = {} if options.spinning else {"session.intra_op.allow_spinning": "0"}
    entries |= {} if options.prepacking else {"session.disable_prepacking": "1"}
    return {
        "intra_op_num_threads": options.threads,
        "inter_op_num_threads": 1,
        "graph_optimization_level": _LEVELS[options.optimization],
        "extra_session_config": entries,
    }


def _describe_tensors(tensors: Sequence[Input | Output]) -> list[dict[str, Any]]:
    return [
        {
            "name": tensor.name,
            "type": "tensor",
            "tensor-spec": {
                "dtype": tensor.dtype,
                "shape": [size if isinstance(size, int) else -1 for size in tensor.shape],
            },
        }
        for tensor in tensors
    ]


@contextlib.contextmanager
def _readable_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"--mlflow {folder} cannot be written: {error.strerror or type(error).__name__}.") from error
