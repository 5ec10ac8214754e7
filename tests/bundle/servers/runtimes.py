"""Interpreters of environments that hold servers; a test that needs one is skipped where there is none.

RECPRUNE_MLSERVER names a Python with mlserver, onnxruntime and tritonclient[http]; RECPRUNE_NODE_MODULES a folder `node_modules` with
onnxruntime-node and onnxruntime-web; RECPRUNE_OPENVINO a folder of Python packages with openvino.
"""

import os
import shutil
from pathlib import Path

import pytest


def find_mlserver() -> Path:
    path = Path(os.environ.get("RECPRUNE_MLSERVER", "/nonexistent"))
    if not path.is_file():
        pytest.skip(
            "RECPRUNE_MLSERVER names no Python with mlserver: pip install mlserver onnxruntime 'tritonclient[http]'"
        )
    return path


def find_node_modules() -> Path:
    path = Path(os.environ.get("RECPRUNE_NODE_MODULES", "/nonexistent"))
    if shutil.which("node") is None or not path.is_dir():
        pytest.skip("RECPRUNE_NODE_MODULES names no node_modules: npm i onnxruntime-node onnxruntime-web")
    return path


def find_openvino() -> Path:
    path = Path(os.environ.get("RECPRUNE_OPENVINO", "/nonexistent"))
    if not path.is_dir():
        pytest.skip("RECPRUNE_OPENVINO names no folder with OpenVINO: pip install --target FOLDER openvino")
    return path
