"""`model.top_k.onnx` gives the best items with the caller's ids, as NumPy chooses them."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recprune_export.bundle import read_manifest, verify
from recprune_export.derived import SourceModel
from recprune_export.derived.top_k import TOP_K, ItemIds, ItemRanking, derive_top_k, make_column_ids, plan_ranking
from recprune_export.errors import UsageError
from recprune_export.onnx import OnnxFile, export_onnx, make_session, run
from recprune_export.onnx.export import ServingConfig
from recprune_export.pipeline import compress_program
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.settings import ExportSettings, Settings
from recprune_export.validation.parity import Tolerances

ITEMS, LENGTH = 12, 5


class NextItem(nn.Module):
    """The mean of the vectors of a history, scored against the table; ids are 0 to `ITEMS` - 1."""

    def __init__(self, levels: int = 0) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, 8)
        if levels:  # few different scores, so that many are equal
            self.items.weight.data = torch.randint(0, levels, (ITEMS, 8)).float()

    def forward(self, history: Tensor) -> Tensor:
        return self.items(history).sum(1) @ self.items.weight.T


class Ranker(nn.Module):
    def __init__(self, fields: int = 1) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(20, 4), nn.Embedding(30, 4)
        self.more = nn.Embedding(5, 4) if fields > 1 else None

    def forward(self, user: Tensor, item: Tensor, kind: Tensor | None = None) -> Tensor:
        vectors = self.items(item) if self.more is None else self.items(item) + self.more(kind)
        return (self.users(user) * vectors).sum(1)


def capture_next_item(levels: int = 0) -> Program:
    torch.manual_seed(0)
    return capture(NextItem(levels), (torch.arange(2 * LENGTH).reshape(2, LENGTH),))


def make_source(program: Program, folder: Path, shared: tuple[str, ...] = (), external: bool = False) -> SourceModel:
    serving = ServingConfig((1, 8), shared)
    file = export_onnx(program, folder / "model.onnx", 0 if external else 1 << 20, serving=serving)
    session = make_session(file.path, 1)
    return SourceModel(file, lambda request: run(session, request), {}, Tolerances())


def answer(folder: Path, file: OnnxFile, request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return run(make_session(file.path, 1), request)


@pytest.mark.parametrize("external", [False, True])
def test_the_best_items_are_those_of_numpy(tmp_path: Path, external: bool) -> None:
    source = make_source(capture_next_item(), tmp_path, external=external)
    ids = ItemIds(np.array(["", *(f"item {n}" for n in range(1, ITEMS))]), np.arange(ITEMS) > 0)
    model = derive_top_k(source, tmp_path, ranking=ItemRanking(3, "output", ids))
    request = {"history": np.random.default_rng(0).integers(0, ITEMS, (7, LENGTH))}
    scores = source.answer(request)["output"][:, 1:]
    best = np.argsort(-scores, axis=1)[:, :3]
    found = answer(tmp_path, model.file, request)
    assert found["top_item_ids"].tolist() == [[f"item {n + 1}" for n in row] for row in best]
    assert np.allclose(found["top_scores"], np.take_along_axis(scores, best, 1))
    assert (tmp_path / TOP_K).stat().st_size < 10_000


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[int, SourceModel]:
    """Models whose scores are all different, and of which many are equal; ids out of range count as 0."""
    models = {}
    for levels in (0, 2):
        program = capture_next_item(levels)
        (history,) = program.signature.inputs
        guarded = replace(program.signature, inputs=(replace(history, bad_ids=(0,)),))
        models[levels] = make_source(program.with_signature(guarded), tmp_path_factory.mktemp("source"))
    return models


@settings(max_examples=40)
@given(
    histories=st.lists(st.lists(st.integers(-3, ITEMS + 3), min_size=LENGTH, max_size=LENGTH), min_size=1, max_size=4),
    excluded=st.sets(st.integers(0, ITEMS - 1), max_size=ITEMS - 1),
    k=st.integers(1, ITEMS),
    seen=st.booleans(),
    text=st.booleans(),
    levels=st.sampled_from([0, 2]),
)
def test_any_catalogue_and_history(
    tmp_path_factory: pytest.TempPathFactory,
    sources: dict[int, SourceModel],
    histories: list[list[int]],
    excluded: set[int],
    k: int,
    seen: bool,
    text: bool,
    levels: int,
) -> None:
    folder = tmp_path_factory.mktemp("top")
    source = sources[levels]
    values = np.arange(100, 100 + ITEMS)
    ids = ItemIds(values.astype(str) if text else values, np.ones(ITEMS, dtype=bool)).without(sorted(excluded))
    model = derive_top_k(source, folder, ranking=ItemRanking(k, "output", ids, "history" if seen else None))
    request = {"history": np.array(histories)}
    scores = source.answer(request)["output"]
    session = onnxruntime.InferenceSession(model.file.path)
    best, chosen = session.run(None, request)
    for row, history in enumerate(histories):
        left_out = excluded | (set(history) if seen else set())
        order = sorted(set(range(ITEMS)) - left_out, key=lambda column: (-scores[row, column], column))[:k]
        expected = [100 + column for column in order] + [-1] * (k - len(order))
        as_text = ["" if number == -1 else str(number) for number in expected]
        assert list(chosen[row]) == (as_text if text else expected)
        assert best[row].tolist() == [scores[row, column] for column in order] + [-np.inf] * (k - len(order))


def test_candidates_come_back_by_their_rows_and_ids(tmp_path: Path) -> None:
    program = capture(Ranker(), (torch.arange(4), torch.arange(4)))
    source = make_source(program, tmp_path, ("user",))
    ranking = plan_ranking(source.file.signature, ExportSettings(top_k=3), None)
    model = derive_top_k(source, tmp_path, ranking=ranking)
    request = {"user": np.array([7]), "item": np.array([4, 9, 11, 20, 2])}
    scores = source.answer(request)["output"]
    best = np.argsort(-scores)[:3]
    found = answer(tmp_path, model.file, request)
    assert found["top_positions"].tolist() == [best.tolist()]
    assert found["top_item_ids"].tolist() == [request["item"][best].tolist()]
    few = answer(tmp_path, model.file, {name: values[:2] for name, values in request.items()})
    assert few["top_positions"][0, 2] == few["top_item_ids"][0, 2] == -1
    assert few["top_scores"][0, 2] == -np.inf


def test_candidates_of_several_ids_come_back_by_their_rows_alone(tmp_path: Path) -> None:
    program = capture(Ranker(2), (torch.arange(4), torch.arange(4), torch.arange(4)))
    source = make_source(program, tmp_path, ("user",))
    model = derive_top_k(source, tmp_path, ranking=plan_ranking(source.file.signature, ExportSettings(top_k=2), None))
    assert [output.name for output in model.file.signature.outputs] == ["top_scores", "top_positions"]


def test_an_input_may_have_the_name_of_an_output(tmp_path: Path) -> None:
    program = capture_next_item()
    renamed = tuple(replace(i, name="top_scores") for i in program.signature.inputs)
    source = make_source(program.with_signature(replace(program.signature, inputs=renamed)), tmp_path)
    model = derive_top_k(source, tmp_path, ranking=ItemRanking(2, "output", make_column_ids(ITEMS)))
    assert [output.name for output in model.file.signature.outputs] == ["top_scores_", "top_item_ids"]
    request = {"top_scores": np.arange(2 * LENGTH).reshape(2, LENGTH) % ITEMS}
    expected = model.expected(request)
    for name, values in answer(tmp_path, model.file, request).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5)


@pytest.mark.parametrize("name", ["k", "lowest", "item_ids"])
def test_an_input_may_have_the_name_of_a_constant(tmp_path: Path, name: str) -> None:
    program = capture_next_item()
    renamed = tuple(replace(i, name=name) for i in program.signature.inputs)
    source = make_source(program.with_signature(replace(program.signature, inputs=renamed)), tmp_path)
    ids = make_column_ids(ITEMS).without([0])
    model = derive_top_k(source, tmp_path, ranking=ItemRanking(2, "output", ids, name))
    request = {name: np.arange(2 * LENGTH).reshape(2, LENGTH) % ITEMS}
    np.testing.assert_array_equal(
        answer(tmp_path, model.file, request)["top_item_ids"], model.expected(request)["top_item_ids"]
    )


@pytest.mark.parametrize("shared", [(), ("user",)])
def test_what_cannot_be_ranked_is_refused(shared: tuple[str, ...]) -> None:
    signature = capture(Ranker(), (torch.arange(4), torch.arange(4))).signature.with_shared(shared)
    if not shared:
        with pytest.raises(UsageError, match=r"nothing to rank.*--shared-inputs"):
            plan_ranking(signature, ExportSettings(top_k=3), None)
        return
    with pytest.raises(UsageError, match="--item-ids applies to scores"):
        plan_ranking(signature, ExportSettings(top_k=3, item_ids="items.csv"), None)
    with pytest.raises(UsageError, match="send only candidates that were not seen"):
        plan_ranking(signature, ExportSettings(top_k=3, exclude_seen=True), None)


def test_more_than_all_items_are_refused() -> None:
    signature = capture_next_item().signature
    with pytest.raises(UsageError, match="--top-k 13 is greater than the number of items that 'output' scores, 12"):
        plan_ranking(signature, ExportSettings(top_k=13), None)


def test_a_history_is_the_input_whose_ids_are_the_columns() -> None:
    signature = capture_next_item().signature
    options = ExportSettings(top_k=3, exclude_seen=True)
    ranking = plan_ranking(signature, options, None)
    assert isinstance(ranking, ItemRanking)
    assert ranking.history == "history"
    (history,) = signature.inputs
    other = replace(signature, inputs=(replace(history, ids=((0, ITEMS),)),))
    with pytest.raises(UsageError, match=r"ids 0 to 11; none does"):
        plan_ranking(other, options, None)
    twice = replace(signature, inputs=(history, replace(history, name="bought")))
    with pytest.raises(UsageError, match=r"history, bought all do"):
        plan_ranking(twice, options, None)


def test_a_bundle_with_the_file_is_whole(tmp_path: Path) -> None:
    program = capture_next_item()
    ranking = plan_ranking(program.signature, ExportSettings(top_k=3, exclude_seen=True), None)
    options = Settings(sparsity=0.3, epochs=0, latency_batch_sizes=(1,), quick=True)
    derive = (partial(derive_top_k, ranking=ranking),)
    bundle = compress_program(program, tmp_path / "bundle", options, derive=derive).target
    entry = read_manifest(bundle).models[TOP_K]
    assert entry["parity"]["passed"]
    assert "the 3 best of 12 items of each row by 'output', without those in 'history'" in entry["purpose"]
    assert TOP_K in {output.file for output in verify(bundle).outputs}
