"""`model.top_k.onnx`: `model.onnx` followed by the choice of the best items, in standard operators."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass

from recprune_export.derived.derived_model import DerivedModel, SourceModel
from recprune_export.derived.top_k.item_ids import NO_ITEM
from recprune_export.derived.top_k.item_ranking import CandidateRanking, ItemRanking
from recprune_export.onnx.export import OnnxFile
from recprune_export.onnx.graph import add_initializer, get_output
from recprune_export.onnx.saving import save_with_weights_beside
from recprune_export.program.signature import BATCH, Output
from recprune_export.validation.edge_requests import RequestArrays, make_edge_requests, squeeze_shared_inputs
from recprune_export.validation.parity import NamedOutputs

TOP_K = "model.top_k.onnx"
SCORES, ITEM_IDS, POSITIONS = "top_scores", "top_item_ids", "top_positions"
_DTYPES = {"str": ir.DataType.STRING, "int64": ir.DataType.INT64, "int32": ir.DataType.INT32}


def derive_top_k(source: SourceModel, folder: Path, *, ranking: ItemRanking | CandidateRanking) -> DerivedModel:
    """Write the file of a ranking.

    Outputs of an `ItemRanking`: `top_scores` and `top_item_ids`, [batch, k] each; a rank without an item has the score -inf and the id
    -1, or "". Outputs of a `CandidateRanking`: `top_scores` and `top_positions`, [1, k] each, the rows of the request, and the ids in
    these rows. Equal scores are in the order of columns or rows. External weights stay in their file.
    """
    model = ir.load(source.file.path)
    graph = _RankedGraph(model, source, ranking.output)
    outputs = graph.rank_items(ranking) if isinstance(ranking, ItemRanking) else graph.rank_candidates(ranking)
    model.graph.outputs[:] = outputs
    RemoveUnusedNodesPass()(model)
    NameFixPass()(model)
    # External weights stay in their file, so this file must be in the same folder.
    path = (folder if source.file.data is None else source.file.path.parent) / TOP_K
    save_with_weights_beside(model, path)
    rows = 1 if isinstance(ranking, CandidateRanking) else BATCH
    signature = source.file.signature
    dtype = next(o.dtype for o in signature.outputs if o.name == ranking.output)
    described = [Output(v.name or "", _name_dtype(v, dtype), (rows, ranking.k)) for v in outputs]
    file = OnnxFile(path, source.file.opset, None, type(signature)(signature.inputs, tuple(described)))

    def expected(request: RequestArrays) -> NamedOutputs:
        scores = source.answer(request)[ranking.output]
        chosen = (
            choose_items(ranking, scores, request)
            if isinstance(ranking, ItemRanking)
            else choose_candidates(ranking, scores, request)
        )
        return {output.name: values for output, values in zip(described, chosen.values(), strict=True)}

    requests = {
        label: squeeze_shared_inputs(request, signature) for label, request in make_edge_requests(signature).items()
    }
    return DerivedModel(
        file,
        _describe(ranking, source.file),
        expected,
        source.rows,
        lambda request: request,
        source.tolerances,
        {
            # The order of NaN is not defined.
            label: request
            for label, request in requests.items()
            if not np.isnan(source.answer(request)[ranking.output]).any()
        },
    )


def choose_items(ranking: ItemRanking, scores: np.ndarray, request: RequestArrays) -> NamedOutputs:
    """Return the output of an `ItemRanking` for scores [batch, items], by NumPy."""
    masked = np.where(ranking.ids.is_item, scores, -np.inf).astype(scores.dtype)
    if ranking.history is not None:
        history = request[ranking.history]
        row, place = np.nonzero((history >= 0) & (history < scores.shape[1]))
        masked[row, history[row, place]] = -np.inf
    order = np.argsort(-masked, axis=1, kind="stable")[:, : ranking.k]
    best = np.take_along_axis(masked, order, 1)
    ids = np.where(best == -np.inf, np.array(ranking.ids.no_item, ranking.ids.values.dtype), ranking.ids.values[order])
    return {SCORES: best, ITEM_IDS: ids}


def choose_candidates(ranking: CandidateRanking, scores: np.ndarray, request: RequestArrays) -> NamedOutputs:
    """Return the output of a `CandidateRanking` for scores [batch] or [batch, 1], by NumPy."""
    flat = scores.reshape(-1)
    order = np.argsort(-flat, kind="stable")[: ranking.k]
    missing = ranking.k - len(order)

    def fill(values: np.ndarray, value: float) -> np.ndarray:
        return np.concatenate([values[order], np.full(missing, value, values.dtype)])[None]

    answer = {SCORES: fill(flat, -np.inf), POSITIONS: fill(np.arange(len(flat)), NO_ITEM)}
    return answer if ranking.item is None else {**answer, ITEM_IDS: fill(request[ranking.item], NO_ITEM)}


class _RankedGraph:
    """Adds nodes after an output of a graph, in the order in which they run."""

    def __init__(self, model: ir.Model, source: SourceModel, output: str) -> None:
        self._graph = model.graph
        self._scores = next(v for v in model.graph.outputs if v.name == output)
        self._inputs = {v.name: v for v in model.graph.inputs}
        self._names = set(self._inputs)
        assert self._scores.dtype is not None
        self._lowest = np.array(-np.inf, self._scores.dtype.numpy())

    def rank_items(self, ranking: ItemRanking) -> list[ir.Value]:
        scores, ids = self._scores, ranking.ids
        if not ids.is_item.all():
            scores = self._add(
                "Where", self._constant("is_item", ids.is_item), scores, self._constant("lowest", self._lowest)
            )
        if ranking.history is not None:
            scores = self._leave_out(scores, self._inputs[ranking.history], len(ids.values))
        best, order = self._top_k(scores, ranking.k)
        chosen = self._add("Gather", self._constant("item_ids", ids.values), order)
        is_none = self._add("Equal", best, self._constant("lowest", self._lowest))
        none = self._constant("no_item", np.array(ids.no_item, ids.values.dtype))
        return [
            self._describe(best, SCORES, self._scores.dtype, (BATCH, ranking.k)),
            self._describe(self._add("Where", is_none, none, chosen), ITEM_IDS, _DTYPES[ids.dtype], (BATCH, ranking.k)),
        ]

    def rank_candidates(self, ranking: CandidateRanking) -> list[ir.Value]:
        row = self._constant("one_row", np.array([1, -1]))
        flat = self._constant("flat", np.array([-1]))
        scores = self._add("Reshape", self._scores, row)
        count = self._add("Shape", self._add("Reshape", self._scores, flat))
        padding = self._constant("padding", np.full((1, ranking.k), self._lowest))
        best, order = self._top_k(self._add("Concat", scores, padding, axis=1), ranking.k)
        is_candidate = self._add("Less", order, count)
        none = self._constant("no_item", np.array(NO_ITEM))
        positions = self._add("Where", is_candidate, order, none)
        outputs = [
            self._describe(best, SCORES, self._scores.dtype, (1, ranking.k)),
            self._describe(positions, POSITIONS, ir.DataType.INT64, (1, ranking.k)),
        ]
        if ranking.item is not None:
            item = self._inputs[ranking.item]
            assert item.dtype is not None
            none = self._constant("no_items", np.full(ranking.k, NO_ITEM, item.dtype.numpy()))
            ids = self._add("Gather", self._add("Concat", item, none, axis=0), order)
            outputs.append(self._describe(ids, ITEM_IDS, item.dtype, (1, ranking.k)))
        return outputs

    def _leave_out(self, scores: ir.Value, history: ir.Value, columns: int) -> ir.Value:
        """Set the scores of the items of a history, [batch, length], to -inf; ids out of range are not items."""
        if history.dtype != ir.DataType.INT64:
            history = self._add("Cast", history, to=ir.DataType.INT64)
        first, last = self._constant("first_item", np.array(0)), self._constant("last_item", np.array(columns - 1))
        is_item = self._add("And", self._add("GreaterOrEqual", history, first), self._add("LessOrEqual", history, last))
        lowest, highest = self._constant("lowest", self._lowest), self._constant("highest", -self._lowest)
        updates = self._add("Where", is_item, lowest, highest)
        columns_of = self._add("Where", is_item, history, first)
        # The minimum with infinity changes nothing.
        return self._add("ScatterElements", scores, columns_of, updates, axis=1, reduction="min")

    def _top_k(self, scores: ir.Value, k: int) -> tuple[ir.Value, ir.Value]:
        node = ir.node("TopK", [scores, self._constant("k", np.array([k]))], {"axis": 1}, num_outputs=2)
        self._graph.append(node)
        best, order = node.outputs
        return best, order

    def _add(self, operator: str, *inputs: ir.Value, **attributes: int | str | ir.DataType) -> ir.Value:
        node = ir.node(
            operator, inputs, {name: int(v) if isinstance(v, ir.DataType) else v for name, v in attributes.items()}
        )
        self._graph.append(node)
        return get_output(node)

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        return add_initializer(self._graph, name, array)

    def _describe(self, value: ir.Value, name: str, dtype: ir.DataType | None, shape: Sequence[int | str]) -> ir.Value:
        """Give an output its name, one that no input has, and its type."""
        assert dtype is not None
        while name in self._names:
            name += "_"
        self._names.add(name)
        value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(dtype)
        return value


def _name_dtype(value: ir.Value, scores: str) -> str:
    names = {number: name for name, number in _DTYPES.items()}
    return scores if value.dtype is None else names.get(value.dtype, scores)


def _describe(ranking: ItemRanking | CandidateRanking, file: OnnxFile) -> str:
    """Return the description of the file, as the end of a sentence that begins with its name."""
    if isinstance(ranking, ItemRanking):
        seen = f", without those in '{ranking.history}'" if ranking.history else ""
        none = '""' if ranking.ids.dtype == "str" else "-1"
        items = int(ranking.ids.is_item.sum())
        text = (
            f"gives the {ranking.k} best of {items:,} items of each row by '{ranking.output}'{seen}, with their scores"
        )
        ends = (
            f"a place that no item takes has the id {none} and the score -inf; equal scores are in the order of columns"
        )
    else:
        ids = f"their '{ranking.item}', " if ranking.item else ""
        text = f"gives the {ranking.k} best candidates of a request by '{ranking.output}': {ids}their rows in the request and their scores"
        ends = (
            "a place that no candidate takes has the row -1 and the score -inf; equal scores are in the order of rows"
        )
    weights = f"; its weights are in '{file.data.name}', which must be in the same folder" if file.data else ""
    return f"{text}; {ends}{weights}"
