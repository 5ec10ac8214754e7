"""Whole files: the reference recommenders, quantized whatever a stopwatch would say, stay near to what they answered."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from recprune_export.onnx import count, estimate_file_cost, export_onnx, make_session, run
from recprune_export.program import Program, RequestArrays, sample_request
from recprune_export.program.capture import capture
from recprune_export.quantization import Mode, QuantizedFile, make_error_judge, quantize
from recprune_export.quantization.quantization_plan import (
    FP16,
    INT4_BY_ROW,
    INT4_BY_ROW_DYNAMIC,
    INT4_IN_BLOCKS,
    INT8_BY_DIMENSION,
    INT8_BY_ROW,
    INT8_BY_ROW_STATIC,
    INT8_DYNAMIC,
    INT8_ONE_SCALE,
    INT8_STATIC,
)
from recprune_export.runtime_releases import RuntimeTarget
from tests.onnx.graphs import floats, graph
from tests.quantization.times import favouring
from tests.recommenders.test_recommenders import make, spec_of

BATCHES = (1, 32)


def program(name: str) -> Program:
    return capture(make(name), (spec_of(name).example_request(),))


def requests(program: Program) -> list[RequestArrays]:
    return [sample_request(program.signature, 64, seed=seed) for seed in range(4)]


def quantized(
    name: str, folder: Path, mode: Mode, *favourites: str, limit: float = 0.1
) -> tuple[Path, Program, QuantizedFile]:
    source, captured = folder / "fp32.onnx", program(name)
    export_onnx(captured, source)
    timed = {batch: [sample_request(captured.signature, batch, seed=batch)] for batch in BATCHES}
    calibration = requests(captured)
    found = quantize(
        source, folder / "q" / "model.onnx", mode, calibration, timed, make_error_judge(calibration, limit),
        stopwatch=favouring(*favourites),
    )  # fmt: skip
    return source, captured, found


def test_lookups_that_overlap_are_found_and_overlap_again(tmp_path: Path) -> None:
    text = "g (int64[batch, 8] ids) => (float[batch, 8, 32] y) { e = Unsqueeze(ids, last) y = GatherND(table, e) }"
    source, rng = tmp_path / "fp32.onnx", np.random.default_rng(0)
    ir.save(graph(text, table=floats(1 << 18, 32), last=np.array([-1])), source)
    calibration = [{"ids": rng.integers(0, 1 << 18, size=(64, 8))} for _ in range(2)]
    stopwatch, judge = favouring(INT8_BY_DIMENSION), make_error_judge(calibration, 0.1)
    timed = {32: calibration[:1], 256: calibration[1:]}
    found = quantize(source, tmp_path / "q" / "model.onnx", "int8", calibration, timed, judge, stopwatch=stopwatch)
    assert found.plan.forms() == {"table": INT8_BY_DIMENSION}
    assert [node.op_type for node in onnx.load(found.path).graph.node].count("GatherND") == 1
    assert count(found.path).tables.parameters == count(source).tables.parameters == 32 << 18


@pytest.mark.parametrize("form", [INT8_STATIC, INT8_DYNAMIC])
@pytest.mark.parametrize(
    "name",
    ["dlrm", "two_tower", *(pytest.param(name, marks=pytest.mark.slow) for name in ("deepfm", "sasrec", "mmoe"))],
)
def test_a_recommender_stays_near(name: str, form: str, tmp_path: Path) -> None:
    source, captured, found = quantized(name, tmp_path, "int8", form, INT8_BY_ROW)
    forms = {form, INT8_ONE_SCALE} if form == INT8_STATIC else {form}
    assert forms & set(found.plan.forms().values())
    assert found.loss.passed
    assert 0 < found.error <= 0.1**0.5
    request = sample_request(captured.signature, 9, seed=99)
    wanted, answer = (run(make_session(path, 1), request) for path in (source, found.path))
    for output, values in wanted.items():
        assert np.abs(values - answer[output]).max() < 0.5 * max(values.std(), 0.1)
    before, after = count(source), count(found.path)
    assert after.total.parameters == before.total.parameters
    assert after.operations == before.operations
    assert after.total.nonzero <= before.total.nonzero


def test_the_file_is_smaller_and_estimated_to_be_faster(tmp_path: Path) -> None:
    source, _, found = quantized("dlrm", tmp_path, "int8", INT8_STATIC, INT8_BY_DIMENSION)
    assert found.bytes == (source.stat().st_size, found.path.stat().st_size)
    before, after = estimate_file_cost(source, 32), estimate_file_cost(found.path, 32)
    assert after.weights < before.weights
    assert after.operations == before.operations
    # The floor includes the start of each node, of which the smaller file has more.
    assert estimate_file_cost(found.path, 4096).floor < estimate_file_cost(source, 4096).floor


@pytest.mark.parametrize(("mode", "form", "bits"), [("fp16", FP16, 2**-10), ("int4", INT4_BY_ROW, 0.3)])
def test_tables_in_other_forms(mode: Mode, form: str, bits: float, tmp_path: Path) -> None:
    _, _, found = quantized("deepfm", tmp_path, mode, form, limit=0.2)
    assert form in found.plan.forms().values()
    assert 0 < found.error < bits


@pytest.mark.parametrize(
    ("mode", "form", "bits"), [("int8", INT8_BY_ROW_STATIC, 8), ("int4", INT4_BY_ROW_DYNAMIC, 4), ("fp16", FP16, 16)]
)
def test_the_item_table_of_sasrec_is_in_the_file_once(mode: Mode, form: str, bits: int, tmp_path: Path) -> None:
    source, captured, found = quantized("sasrec", tmp_path, mode, form, limit=0.5)
    (items,) = found.plan.tables
    assert items.form == form
    numbers = items.shape[0] * items.shape[1]
    assert items.bytes[1] == numbers * bits // 8 + (0 if form == FP16 else items.shape[0])
    held = [tensor for tensor in onnx.load(found.path).graph.initializer if items.shape[0] in tensor.dims]
    large = [tensor for tensor in held if np.prod(tensor.dims) > numbers / 4]
    assert len(large) == 1
    assert large[0].data_type != onnx.TensorProto.FLOAT
    assert count(found.path).tables.parameters == count(source).tables.parameters
    request = sample_request(captured.signature, 9, seed=99)
    wanted, answer = (run(make_session(path, 1), request)["scores"] for path in (source, found.path))
    assert np.corrcoef(wanted.ravel(), answer.ravel())[0, 1] > 0.98


def test_with_nothing_allowed_the_file_is_the_one_that_came(tmp_path: Path) -> None:
    source, _, found = quantized("dlrm", tmp_path, "int8", INT8_STATIC, INT8_BY_ROW, limit=0.0)
    assert found.path == source
    assert found.plan.is_empty
    assert found.relaxations
    assert not (tmp_path / "q").exists()


def test_the_same_times_give_the_same_file(tmp_path: Path) -> None:
    files = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        files.append(quantized("dlrm", tmp_path / name, "int8", INT8_STATIC, INT8_BY_ROW)[2].path.read_bytes())
    assert files[0] == files[1]


def test_a_graph_without_layers_and_tables_stays(tmp_path: Path) -> None:
    import onnx_ir as ir

    model = graph("g (float[batch, 4] x) => (float[batch, 4] y) { a = Mul(x, w) y = Sigmoid(a) }", w=floats(4))
    source = tmp_path / "model.onnx"
    ir.save(model, source)
    request = {"x": floats(3, 4)}
    judge = make_error_judge([request], 0.001)
    found = quantize(
        source, tmp_path / "q.onnx", "int8", [request], {1: [request]}, judge, stopwatch=favouring(INT8_STATIC)
    )
    assert found.path == source
    assert found.plan.choices == ()
    assert found.bytes == (source.stat().st_size, source.stat().st_size)


def test_zeros_stay_zeros(tmp_path: Path) -> None:
    source, _, _ = quantized("dlrm", tmp_path, "int8", INT8_STATIC, INT8_BY_ROW)
    model = onnx.load(source)
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[rng.random(values.shape) < 0.6] = 0.0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, source)
    captured = program("dlrm")
    timed = {batch: [sample_request(captured.signature, batch, seed=batch)] for batch in BATCHES}
    calibration = requests(captured)
    found = quantize(
        source, tmp_path / "sparse.onnx", "int8", calibration, timed, make_error_judge(calibration, 0.5),
        stopwatch=favouring(INT8_STATIC, INT8_BY_ROW),
    )  # fmt: skip
    before, after = count(source), count(found.path)
    assert 0.97 * before.total.nonzero < after.total.nonzero <= before.total.nonzero


def test_fused_and_plain_kernels_agree_to_the_stated_spread(tmp_path: Path) -> None:
    _, captured, found = quantized("dlrm", tmp_path, "int8", INT8_STATIC, INT8_BY_ROW)
    from recprune_export.onnx import SessionOptions

    request = sample_request(captured.signature, 64, seed=7)
    fused = run(make_session(found.path, 1), request)
    plain = run(make_session(found.path, 1, SessionOptions(optimization="none")), request)
    for output, values in fused.items():
        assert np.abs(values - plain[output]).max() <= 1e-5 + found.tolerance


@pytest.mark.parametrize(
    ("runtime", "mode", "form", "present"),
    [
        (RuntimeTarget(), "int8", INT8_STATIC, {"QGemm"}),
        (RuntimeTarget(operators="onnx"), "int8", INT8_STATIC, set()),
        (RuntimeTarget(), "int4", INT4_IN_BLOCKS, {"GatherBlockQuantized"}),
        (RuntimeTarget(operators="onnx"), "int4", INT4_IN_BLOCKS, set()),
        (RuntimeTarget(release="1.22"), "int4", INT4_IN_BLOCKS, set()),
    ],
)
def test_operators_of_com_microsoft_are_limited(
    tmp_path: Path, runtime: RuntimeTarget, mode: Mode, form: str, present: set[str]
) -> None:
    source, captured = tmp_path / "fp32.onnx", program("dlrm")
    export_onnx(captured, source)
    timed = {8: [sample_request(captured.signature, 8, seed=8)]}
    calibration = requests(captured)
    found = quantize(
        source, tmp_path / "q" / "model.onnx", mode, calibration, timed, make_error_judge(calibration, 0.5),
        runtime=runtime, stopwatch=favouring(form),
    )  # fmt: skip
    nodes = onnx.load(found.path).graph.node
    contrib = {node.op_type for node in nodes if node.domain == "com.microsoft"}
    assert not found.plan.is_empty
    assert present <= contrib
    assert bool(contrib) is bool(present)
