"""Both ONNX files are compared with PyTorch on every run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recprune_export import compress
from recprune_export.errors import ValidationFailed
from recprune_export.onnx.export import export_onnx
from recprune_export.pipeline import export_models
from recprune_export.program.program import Program


@pytest.mark.parametrize(("file", "model"), [("dense.onnx", "dense"), ("model.onnx", "pruned")])
def test_a_file_that_answers_otherwise_is_named(
    file: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_wrongly(program: Program, path: Path, *args: Any, **options: Any) -> Any:
        if path.name == file:
            program = program.with_copied_parameters()
            with torch.no_grad():
                next(iter(program.parameters().values())).add_(0.1)
        return export_onnx(program, path, *args, **options)

    monkeypatch.setattr(export_models, "export_onnx", export_wrongly)
    net = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    with pytest.raises(ValidationFailed, match=f"does not reproduce the {model} model's outputs"):
        compress(net, torch.arange(6), tmp_path / "b", epochs=0, quick=True)
    assert not (tmp_path / "b").exists()
