"""`user.onnx` and `item.onnx`, which compute the vectors of the two sides of a separable score."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass

from recprune_export.column_names import did_you_mean, list_names
from recprune_export.derived.derived_model import DerivedModel, SourceModel
from recprune_export.derived.towers.expansions import remove_expansions
from recprune_export.derived.towers.score_formula import apply_steps
from recprune_export.derived.towers.separable_score import SeparableScore, Side, find_separable_score
from recprune_export.errors import ModelError, UsageError
from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.export import OnnxFile
from recprune_export.onnx.graph import add_initializer, get_output
from recprune_export.onnx.runtime.in_memory import make_in_memory_session
from recprune_export.onnx.runtime.session import make_session, run
from recprune_export.onnx.saving import save_onnx
from recprune_export.program.requests.jagged_inputs import METADATA, is_packed
from recprune_export.program.signature import BATCH, Input, Output, Signature
from recprune_export.validation.edge_requests import RequestArrays, count_candidates, repeat_rows
from recprune_export.validation.parity import NamedOutputs

USER, ITEM = "user", "item"


@dataclass(frozen=True)
class Tower:
    """One side of a model: "user" or "item", its number in `SeparableScore.sides`, its inputs and the length of its vector."""

    name: str
    side: int
    inputs: tuple[Input, ...]
    width: int

    @property
    def file(self) -> str:
        """The name of its file in the bundle."""
        return f"{self.name}.onnx"

    @property
    def output(self) -> str:
        """The name of its output, which differs from those of all inputs."""
        name = f"{self.name}_vector"
        while name in {spec.name for spec in self.inputs}:
            name += "_"
        return name

    @property
    def signature(self) -> Signature:
        """The inputs and the output of its file, with one row of every input for each vector."""
        return Signature(self.inputs, (Output(self.output, "float32", (BATCH, self.width)),))


class OpenTower:
    """A tower whose file is loaded, on one thread."""

    def __init__(self, tower: Tower, file: Path) -> None:
        self.tower = tower
        self._session = make_session(file, 1)

    def answer(self, request: RequestArrays) -> np.ndarray:
        """Return the vectors, [rows, width], of a request with the inputs of the tower; others are not read."""
        return run(self._session, request)[self.tower.output]


def open_towers(
    path: Path, signature: Signature, user_input: str | None = None
) -> tuple[SeparableScore, tuple[Tower, Tower]]:
    """Return the score of an ONNX file of a bundle, the user's tower and that of the items.

    The user's side is that of `user_input`, otherwise that of shared inputs, otherwise that of the first input.

    Raises `ModelError` if the model cannot be split, `UsageError` if `user_input` is not an input of a side.
    """
    packed = next((i.name for i in signature.inputs if is_packed(i)), None)
    if packed is not None:
        raise ModelError(
            f"The input '{packed}' contains the elements of all rows with their lengths, which cannot be split: make the "
            "bundle with --padded N."
        )
    score = find_separable_score(_open(path).graph)
    side = _find_user_side(score, signature, user_input)
    towers = []
    for name, number in ((USER, side), (ITEM, 1 - side)):
        inputs = tuple(i for i in signature.without_shared().inputs if i.name in score.sides[number].inputs)
        towers.append(Tower(name, number, inputs, _count_numbers(score)))
    return score, (towers[0], towers[1])


def _find_user_side(score: SeparableScore, signature: Signature, user_input: str | None) -> int:
    if user_input is not None:
        known = [i.name for i in signature.inputs if any(i.name in side.inputs for side in score.sides)]
        if user_input not in known:
            raise UsageError(
                f"--user-input: '{user_input}' is not an input of a tower; choose from {list_names(known)}"
                f"{did_you_mean(user_input, known)}"
            )
        return next(number for number, side in enumerate(score.sides) if user_input in side.inputs)
    shared = {i.name for i in signature.inputs if i.shared}
    return next((number for number, side in enumerate(score.sides) if side.inputs & shared), 0)


def _count_numbers(score: SeparableScore) -> int:
    """Return the length of a vector: a term of either side adds one number to both."""
    return score.sides[0].width + sum(bool(side.terms) for side in score.sides)


def _open(path: Path) -> ir.Model:
    model = ir.load(path)
    fill_shapes(model)
    remove_expansions(model)
    return model


def write_tower(path: Path, tower: Tower, target: Path) -> OnnxFile:
    """Write the graph of a tower of the ONNX file at `path` to `target`."""
    model = _make_tower_graph(path, tower)
    data = save_onnx(model, target)
    return OnnxFile(target, model.opset_imports[""], data, tower.signature)


def _make_tower_graph(path: Path, tower: Tower) -> ir.Model:
    model, vector = _add_vector(path, tower)
    graph, names = model.graph, {i.name for i in tower.inputs}
    graph.outputs[:] = [vector]
    graph.inputs[:] = [value for value in graph.inputs if value.name in names]
    for value in graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([BATCH, *list(value.shape)[1:]])
    RemoveUnusedNodesPass()(model)
    for node in graph:  # shapes of a request with one shared row are no longer valid
        for value in node.outputs:
            if value is not vector:
                value.shape = None
    NameFixPass()(model)
    jagged = [of for of in json.loads(model.metadata_props.pop(METADATA, "[]")) if of["name"] in names]
    if jagged:
        model.metadata_props[METADATA] = json.dumps(jagged, separators=(",", ":"))
    return model


def _add_vector(path: Path, tower: Tower) -> tuple[ir.Model, ir.Value]:
    """Return the graph of a file with the nodes that make the vector of a tower, and the vector."""
    model = _open(path)
    score = find_separable_score(model.graph)
    own, other = score.sides[tower.side], score.sides[1 - tower.side]
    vector = _VectorGraph(model.graph).make_vector(
        own,
        score.weights if tower.name == USER else None,
        first=tower.side == 0,
        other_has_terms=bool(other.terms),
    )
    vector.name, vector.shape = tower.output, ir.Shape([BATCH, tower.width])
    vector.type = ir.TensorType(ir.DataType.FLOAT)
    return model, vector


class _VectorGraph:
    """Adds the nodes that make the vector of a side."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph

    def make_vector(self, side: Side, weights: np.ndarray | None, *, first: bool, other_has_terms: bool) -> ir.Value:
        """Return the vector, [batch, width]; the term of the first side comes before that of the second."""
        vector = self._as_rows(side.vector, side.width)
        if weights is not None and not (weights == 1).all():
            vector = self._add("Mul", vector, self._constant("product_weights", weights.astype(np.float32)))
        for value, inverse in side.factors:
            vector = self._add("Div" if inverse else "Mul", vector, self._as_rows(value, 1))
        term = None
        for value, coefficient in side.terms:
            scaled = self._as_rows(value, 1)
            if coefficient != 1.0:
                scaled = self._add("Mul", scaled, self._constant("coefficient", np.array(coefficient, np.float32)))
            term = scaled if term is None else self._add("Add", term, scaled)
        one = self._make_ones(vector) if other_has_terms else None
        parts = [part for part in ((term, one) if first else (one, term)) if part is not None]
        if not parts:
            return self._add("Identity", vector)
        return self._add("Concat", vector, *parts, axis=1)

    def _as_rows(self, value: ir.Value, width: int) -> ir.Value:
        return self._add("Reshape", value, self._constant("as_rows", np.array([-1, width])))

    def _make_ones(self, vector: ir.Value) -> ir.Value:
        """Return ones, [batch, 1]."""
        batch = self._add("Shape", vector, start=0, end=1)
        shape = self._add("Concat", batch, self._constant("one", np.array([1])), axis=0)
        return self._add("Expand", self._constant("one_point", np.array(1.0, np.float32)), shape)

    def _add(self, operator: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(operator, inputs, attributes)
        self._graph.append(node)
        return get_output(node)

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        return add_initializer(self._graph, name, array)


def derive_tower(source: SourceModel, folder: Path, *, tower: Tower, others: RequestArrays) -> DerivedModel:
    """Write the file of a tower; its outputs must equal the same values inside `model.onnx`.

    `others` is a request with the inputs of the other tower, whose rows are used to run `model.onnx`.
    """
    file = write_tower(source.file.path, tower, folder / tower.file)
    inside = _run_inside(source.file.path, tower)
    shared = any(i.shared for i in source.file.signature.inputs)

    def to_source(request: RequestArrays) -> RequestArrays:
        rows = count_candidates(request)
        whole = {**repeat_rows(others, rows), **request}
        return {
            i.name: whole[i.name][:1] if i.shared else whole[i.name]
            for i in source.file.signature.inputs
            if i.name in whole
        }

    def expected(request: RequestArrays) -> NamedOutputs:
        if not shared or tower.name == ITEM:
            return {tower.output: inside(to_source(request))}
        rows = [
            {name: values[row : row + 1] for name, values in request.items()}
            for row in range(count_candidates(request))
        ]
        return {tower.output: np.concatenate([inside(to_source(row)) for row in rows])}

    return DerivedModel(
        file,
        f"gives the vector of {'a user' if tower.name == USER else 'an item'}, one side of the inner product in `model.onnx`",
        expected,
        {i.name: source.rows[i.name] for i in tower.inputs},
        to_source,
        source.tolerances,
    )


def _run_inside(path: Path, tower: Tower) -> Callable[[RequestArrays], np.ndarray]:
    """Return a function that computes the vector of a tower with `model.onnx`, from complete requests."""
    model, vector = _add_vector(path, tower)
    model.graph.outputs[:] = [vector]
    NameFixPass()(model)
    names = [value.name or "" for value in model.graph.inputs]
    answer = make_in_memory_session(model)
    return lambda request: answer([request[name] for name in names])[0]


def combine_vectors(score: SeparableScore, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return the scores, [rows], of pairs of vectors, [rows, width] each, or of the vector of one user with those of several items."""
    products = np.sum(users.astype(np.float64) * items.astype(np.float64), axis=1)
    return apply_steps(score.steps, products)
