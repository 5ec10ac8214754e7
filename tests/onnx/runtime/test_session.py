"""Sessions answer requests, and say what is missing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from recprune_export.errors import ExportError, UsageError
from recprune_export.onnx import SessionOptions, make_session, run
from tests.onnx.test_counts import DIM, mlp, write


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model.onnx", *mlp())


def test_answers_have_the_names_of_the_outputs(model: Path) -> None:
    answers = run(make_session(model, threads=1), {"ids": np.zeros((3, 2), dtype=np.int64)})
    # Row 1 of the table and the positions give 1 in each of 8 places, of which `w1` leaves out 5 for its first unit.
    hidden = np.array([3 * 0.5 + 0.5, 2 * DIM * 0.5 + 0.5, 2 * DIM * 0.5 + 0.5]) * 0.25
    expected = hidden @ np.array([0.0, 0.5, 0.5]) + 0.5
    assert list(answers) == ["out"]
    np.testing.assert_allclose(answers["out"], np.full((3, 1), expected), rtol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_session_runs_on_the_threads_that_were_asked_for(model: Path, threads: int) -> None:
    options = make_session(model, threads).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)


def test_the_provider_is_the_cpu_alone(model: Path) -> None:
    assert make_session(model, 1).get_providers() == ["CPUExecutionProvider"]


def test_what_the_model_does_not_take_is_left_out(model: Path) -> None:
    session = make_session(model, 1)
    ids = np.ones((2, 2), dtype=np.int64)
    alone, beside = run(session, {"ids": ids}), run(session, {"ids": ids, "user": np.zeros(2)})
    np.testing.assert_array_equal(alone["out"], beside["out"])


def test_a_missing_input_is_named(model: Path) -> None:
    with pytest.raises(UsageError, match="'ids'"):
        run(make_session(model, 1), {"id": np.zeros((1, 2), dtype=np.int64)})


def test_a_file_that_is_no_model_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ExportError, match="cannot load") as caught:
        make_session(path, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        SessionOptions(),
        SessionOptions(threads=3, spinning=False),
        SessionOptions(arena=False, optimization="basic", prepacking=False),
        SessionOptions(optimization="extended"),
    ],
)
def test_the_code_to_paste_makes_the_same_options(options: SessionOptions, model: Path) -> None:
    names: dict[str, Any] = {"ort": onnxruntime}
    exec(options.code(), names)
    pasted, made = names["options"], make_session(model, options=options).get_session_options()
    for attribute in (
        "intra_op_num_threads",
        "inter_op_num_threads",
        "enable_cpu_mem_arena",
        "graph_optimization_level",
    ):
        assert getattr(pasted, attribute) == getattr(made, attribute)
    for entry, off in (("session.intra_op.allow_spinning", "0"), ("session.disable_prepacking", "1")):
        assert (f'"{entry}", "{off}"' in options.code()) == (_entry(made, entry) == off)


def _entry(options: onnxruntime.SessionOptions, name: str) -> str | None:
    try:
        return str(options.get_session_config_entry(name))
    except RuntimeError:  # there is no such entry
        return None


def test_options_survive_json() -> None:
    options = SessionOptions(threads=2, arena=False)
    assert SessionOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"optimization": "most"}])
def test_options_that_there_are_not_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SessionOptions(**wrong)


def test_threads_go_before_the_options(model: Path) -> None:
    session = make_session(model, 2, SessionOptions(threads=1, arena=False))
    made = session.get_session_options()
    assert (made.intra_op_num_threads, made.enable_cpu_mem_arena) == (2, False)
