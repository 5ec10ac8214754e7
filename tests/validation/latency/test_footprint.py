import time
from pathlib import Path

import pytest

from recprune_export.onnx import SessionOptions
from recprune_export.program import Signature
from recprune_export.progress import quiet
from recprune_export.validation import Footprint, measure_footprints
from recprune_export.validation.latency import footprint as module
from recprune_export.validation.latency.footprint import count_unread_bytes
from tests.gate.models import Shape, plain

ROWS, DIM = 40_000, 64


def test_a_larger_model_takes_more_memory_by_about_its_size(tmp_path: Path) -> None:
    small, large = Shape(rows=ROWS, dim=4), Shape(rows=ROWS, dim=DIM)
    models = {
        name: (plain(tmp_path / f"{name}.onnx", shape), SessionOptions())
        for name, shape in (("small", small), ("large", large))
    }
    with quiet():
        report = measure_footprints(models, small.signature(), batch=8, repeats=2)
    one, other = report.typical("small"), report.typical("large")
    more = 2 * ROWS * (DIM - 4) * 4  # two tables of float32
    assert 0.8 * more < other.memory - one.memory < 3 * more
    assert other.peak >= other.memory
    assert min(one.load, one.first_request) > 0
    assert report.to_dict()["processes"] == {"small": 2, "large": 2}


def test_medians_are_taken_for_each_figure() -> None:
    runs = (Footprint(1, 9, 5, 7), Footprint(3, 4, 2, 8), Footprint(2, 6, 6, 9))
    assert Footprint.typical(runs) == Footprint(2, 6, 5, 8)


def test_a_model_that_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with quiet(), pytest.raises(Exception, match="ONNX Runtime cannot load"):
        measure_footprints({"a": (tmp_path / "model.onnx", SessionOptions())}, Shape().signature(), 1, 1)


def test_pages_of_mapped_weights_that_were_not_read_are_counted(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    maps = [
        ("", 500, 10),
        (f"{model}.data", 100, 40),
        (f"{tmp_path}/other.onnx.data", 70, 7),
        (f"{model}.data", 8, 8),
        ("[heap]", 60, 6),
    ]
    text = "".join(
        f"7f00-7f01 r--s 00000000 fe:00 260386                     {name}\nSize:                {size} kB\n"
        f"KernelPageSize:        4 kB\nRss:                 {resident} kB\nVmFlags: rd mr mw me\n"
        for name, size, resident in maps
    )
    assert count_unread_bytes(model, text) == 60 << 10


@pytest.mark.parametrize("cores", [1, 2])
def test_figures_belong_to_their_model_on_any_number_of_cores(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    together, most = 0, 0

    def load(_: str, *, path: str, **__: object) -> dict[str, float]:
        nonlocal together, most
        together += 1
        most = max(most, together)
        time.sleep(0.02)
        together -= 1
        return {"load": float(path), "first_request": 0.0, "memory": 0.0, "peak": 0.0}

    monkeypatch.setattr(module, "call_fresh", load)
    monkeypatch.setattr(module, "count_cores", lambda: cores)
    models = {"dense": (Path("1"), SessionOptions()), "pruned": (Path("2"), SessionOptions())}
    report = measure_footprints(models, Signature((), ()), batch=1, repeats=3)
    assert [[run.load for run in report.runs[name]] for name in models] == [[1.0] * 3, [2.0] * 3]
    assert most == cores
