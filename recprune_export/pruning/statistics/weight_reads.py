"""Statistics of the places that read a weight, from which the loss of rounding the weight is predicted.

Rounding adds an error to each number of a weight. Where a row of a table is looked up, the error of the row reaches the
outputs with the gradients of the looked-up values; where all rows are multiplied, as scores of items are, the error of a
score is that of its row, multiplied by the operand, and reaches the outputs with the gradient of the score; where a layer
multiplies, the error of an output is that of its weights, multiplied by the inputs. All statistics are sums over rows of
calibration data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from recprune_export.data.batch import Batch
from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.program.recorder import ValueRecorder
from recprune_export.pruning.statistics.moments import CurvatureProbe, add_products, mirror_upper

aten = torch.ops.aten

SAMPLED_ROWS = 2048  # of the lookups of a table
MAX_SQUARES = 1 << 22  # squared gradients of products that are in memory at the same time


@dataclass(frozen=True)
class TableReads:
    """Statistics of the reads of one table of D dimensions.

    `rows` [n, D] are looked-up rows, sampled in proportion to their squared gradients: frequent ids are sampled often, masked padding is
    not. `gradients` [D, D] is E[Σ g gᵀ] of the outputs' gradients at the lookups, summed over the lookups of one request. For products of
    all rows with an operand h, `multiplied_rows` [n, D] are rows drawn in proportion to the squared gradients of their products, none
    without products, and `operands` [D, D] is E[Σ |g|² h hᵀ], with g the gradients of the products of one h with all rows.
    """

    rows: Tensor
    gradients: Tensor
    multiplied_rows: Tensor
    operands: Tensor

    @property
    def is_multiplied(self) -> bool:
        """Whether all rows are multiplied by an operand."""
        return len(self.multiplied_rows) > 0


@dataclass(frozen=True)
class LayerReads:
    """Statistics of one linear layer: the mean square of each input, [inputs], and E[Σ g²] of each output, [outputs]."""

    inputs: Tensor
    gradients: Tensor


@dataclass(frozen=True)
class WeightReads:
    """The statistics of tables and of linear layers, by the name of the weight."""

    tables: Mapping[str, TableReads]
    layers: Mapping[str, LayerReads]


@dataclass(frozen=True)
class _Product:
    """A node that multiplies `operand` by a weight."""

    node: str
    operand: str


@dataclass
class _Readers:
    lookups: list[str] = field(default_factory=list)
    products: list[_Product] = field(default_factory=list)
    others: int = 0


def gather_weight_reads(
    program: Program, batches: Sequence[Batch], probe: CurvatureProbe, seed: int = 0
) -> WeightReads:
    """Return the statistics of all tables that only lookups and products read, and of all linear layers.

    Takes one forward and backward pass for each batch, and for a table of D dimensions N · D² multiplications for N lookups.
    """
    readers = _find_readers(program)
    tables = {
        name: read
        for name, read in readers.items()
        if name in program.analysis.tables and read.lookups and not read.others
    }
    layers = {
        name: read
        for name, read in readers.items()
        if name not in program.analysis.tables and read.products and not (read.others or read.lookups)
    }
    sums = _Sums(program, tables, layers)
    generator = torch.Generator().manual_seed(seed)
    for request, _ in batches if tables or layers else ():
        sums.add(request, probe, generator)
    return WeightReads({name: sums.table(name) for name in tables}, {name: sums.layer(name) for name in layers})


def _find_readers(program: Program) -> dict[str, _Readers]:
    """Return the nodes that read each parameter."""
    readers: dict[str, _Readers] = {}
    parameters = program.parameters()
    for node in program.module.graph.nodes:
        name = str(node.target)
        if node.op == "get_attr" and name in parameters and parameters[name].ndim == 2:
            read = readers.setdefault(name, _Readers())
            for user in node.users:
                _add_reader(read, node, user)
    return readers


def _add_reader(read: _Readers, weight: fx.Node, user: fx.Node) -> None:
    if user.target is aten.embedding.default and argument(user, "weight") is weight:
        read.lookups.append(user.name)
    elif user.target is aten.linear.default and argument(user, "weight") is weight:
        operand = argument(user, "input")
        if operand is weight or operand.op == "get_attr":
            read.others += 1
        else:
            read.products.append(_Product(user.name, operand.name))
    elif user.target in (aten.t.default, aten.permute.default, aten.transpose.int, aten.numpy_T.default):
        for product in user.users:
            operand = product.args[0] if product.args else None
            if (
                product.target in (aten.matmul.default, aten.mm.default)
                and isinstance(operand, fx.Node)
                and operand is not user
            ):
                read.products.append(_Product(product.name, operand.name))
            else:
                read.others += 1
    else:
        read.others += 1


class _Sums:
    def __init__(self, program: Program, tables: Mapping[str, _Readers], layers: Mapping[str, _Readers]) -> None:
        self._tables, self._layers = tables, layers
        readers = [*tables.values(), *layers.values()]
        nodes = [name for read in readers for name in read.lookups]
        nodes += [name for read in readers for product in read.products for name in (product.node, product.operand)]
        self._recorder = ValueRecorder(program, nodes, keep_gradients=True)
        self._first_input = program.signature.inputs[0].name
        self._requests = 0
        parameters = program.parameters()
        self._squares: dict[str, Tensor] = {}
        self._rows: dict[str, list[Tensor]] = {name: [] for name in tables}
        self._row_weights: dict[str, Tensor] = {}
        self._parameters = parameters
        self._counts: dict[str, int] = dict.fromkeys(layers, 0)
        for name in tables:
            width = parameters[name].shape[1]
            for kind in ("gradients", "operands"):
                self._squares[f"{name} {kind}"] = torch.zeros(width, width, dtype=torch.float64)
            self._row_weights[name] = torch.zeros(parameters[name].shape[0], dtype=torch.float64)
        for name in layers:
            outputs, inputs = parameters[name].shape
            self._squares[f"{name} inputs"] = torch.zeros(inputs, dtype=torch.float64)
            self._squares[f"{name} gradients"] = torch.zeros(outputs, dtype=torch.float64)

    def add(self, request: Mapping[str, Tensor], probe: CurvatureProbe, generator: torch.Generator) -> None:
        recording = self._recorder(request)
        values = recording.values
        with torch.enable_grad():
            response = probe(recording.answers, generator)
            gradients = dict(
                zip(values, torch.autograd.grad(response, list(values.values()), allow_unused=True), strict=True)
            )
        self._requests += len(request[self._first_input])
        for name, read in self._tables.items():
            for lookup in read.lookups:
                if gradients[lookup] is not None:
                    squares = _samples(gradients[lookup]).double().nan_to_num(0.0, 0.0, 0.0).square().sum(1)
                    self._rows[name].append(_samples(values[lookup])[_draw(squares, generator)])
                    _add_moments(self._squares[f"{name} gradients"], gradients[lookup])
            for product in read.products:
                if gradients[product.node] is not None:
                    self._add_products(name, values[product.operand], gradients[product.node])
        for name, read in self._layers.items():
            for product in read.products:
                inputs = _samples(values[product.operand])
                self._counts[name] += len(inputs)
                self._squares[f"{name} inputs"] += inputs.double().square().sum(0)
                if gradients[product.node] is not None:
                    slopes = _samples(gradients[product.node]).double().nan_to_num(0.0, 0.0, 0.0)
                    self._squares[f"{name} gradients"] += slopes.square().sum(0)

    def _add_products(self, name: str, operands: Tensor, gradients: Tensor) -> None:
        """Add products of operands [..., D] with all rows of a table, by the gradients of the products, [..., rows]."""
        operands, gradients = _samples(operands), _samples(gradients)
        block = max(
            1, MAX_SQUARES // gradients.shape[1]
        )  # scores of all items are by far the largest value of a program
        for some_operands, some_gradients in zip(operands.split(block), gradients.split(block), strict=True):
            squares = some_gradients.double().nan_to_num_(0.0, 0.0, 0.0).square_()
            self._row_weights[name] += squares.sum(0)
            _add_moments(self._squares[f"{name} operands"], some_operands * squares.sum(1, keepdim=True).sqrt())

    def table(self, name: str) -> TableReads:
        rows = torch.cat(self._rows[name]) if self._rows[name] else torch.zeros(0, self._parameters[name].shape[1])
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(rows), generator=generator)[:SAMPLED_ROWS]
        requests = max(self._requests, 1)
        return TableReads(
            rows[chosen].double(),
            mirror_upper(self._squares[f"{name} gradients"]) / requests,
            self._draw_multiplied_rows(name, generator),
            mirror_upper(self._squares[f"{name} operands"]) / requests,
        )

    def _draw_multiplied_rows(self, name: str, generator: torch.Generator) -> Tensor:
        table = self._parameters[name].detach()
        return table[_draw(self._row_weights[name], generator)].double()

    def layer(self, name: str) -> LayerReads:
        return LayerReads(
            self._squares[f"{name} inputs"] / max(self._counts[name], 1),
            self._squares[f"{name} gradients"] / max(self._requests, 1),
        )


def _draw(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Sample `SAMPLED_ROWS` positions in proportion to their weights, [n], by systematic sampling; none if all weights are 0."""
    if not weights.any():
        return torch.zeros(0, dtype=torch.long)
    shares = (weights / weights.sum()).cumsum(0)
    start = torch.rand(1, generator=generator, dtype=torch.float64)
    positions = (torch.arange(SAMPLED_ROWS, dtype=torch.float64) + start) / SAMPLED_ROWS
    return torch.searchsorted(shares, positions).clamp_max(len(weights) - 1)


def _samples(value: Tensor) -> Tensor:
    return value.detach().reshape(-1, value.shape[-1])


def _add_moments(total: Tensor, samples: Tensor | None) -> None:
    """Add XᵀX of [..., D] to the upper triangle of a matrix [D, D]; numbers that are not finite count as zero."""
    if samples is not None:
        add_products(total, _samples(samples).double().nan_to_num(0.0, 0.0, 0.0))
