"""Shape propagation through an edited graph on fake tensors, without another trace by `torch.export`.

A graph that `torch.export` captured and that was then edited holds only operators that need no tracing. Another export
would add only the shapes after the edit, and the proof that they exist: an operator that rejects its operands raises the
same error here.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
import torch.utils._pytree as pytree
from torch import fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.exc import UserError, UserErrorType
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StrictMinMaxConstraint
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._sympy.value_ranges import ValueRanges

from recprune_export.program.canonical import canonicalize
from recprune_export.program.requests.jagged_inputs import list_program_inputs
from recprune_export.program.signature import BATCH, Axis, Signature

LARGEST_BATCH = 1 << 30
# Batch sizes for operators whose behavior depends on the batch size: the condition must hold for all sizes, or the
# shapes must be the same for other sizes, as when a convolution chooses its kernel.
HINT, OTHER_HINTS = 3, (2, 1009)
TRIED_BATCHES = (*range(1, 66), 1009, LARGEST_BATCH - 1)
# Numbers of elements of jagged inputs: distinct, so that none is equated with the batch size or with another one.
ELEMENT_HINTS = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
TRIED_ELEMENTS = (1, 2, 5, 64, 1009, LARGEST_BATCH - 1)

Operand = tuple[Sequence[Axis], torch.dtype]  # the shape of an input, with a name for each size that varies; its dtype


@dataclass(frozen=True)
class _Sizes:
    """A fake tensor mode and its symbolic sizes: the batch, and the number of elements of each jagged input."""

    mode: FakeTensorMode
    environment: ShapeEnv
    symbol: sympy.Symbol
    symbols: frozenset[sympy.Symbol]
    sizes: Mapping[str, torch.SymInt]

    @classmethod
    def new(cls, operands: Sequence[Operand], rows: int = HINT) -> "_Sizes":
        # As in torch.export: facts about strides that cannot be proved for every batch are checked at run time.
        environment = ShapeEnv(prefer_deferred_runtime_asserts_over_guards=True, trace_asserts=True)
        names = dict.fromkeys([BATCH, *(size for shape, _ in operands for size in shape if isinstance(size, str))])
        hints = [rows, *(ELEMENT_HINTS[number % len(ELEMENT_HINTS)] + 100 * number for number in range(len(names) - 1))]
        sizes: dict[str, torch.SymInt] = {}
        symbols: list[sympy.Symbol] = []
        for name, hint in zip(names, hints, strict=True):
            source = ConstantSource(name)
            bounds = StrictMinMaxConstraint(vr=ValueRanges(0, LARGEST_BATCH), warn_only=False)
            symbol = environment.create_symbol(hint, source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=bounds)
            size = environment.create_symintnode(symbol, hint=hint, source=source)
            assert isinstance(size, torch.SymInt)
            sizes[name] = size
            symbols.append(symbol)
        mode = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True, export=True)
        mode.cache_enabled = False  # a cache hit takes longer than running the operator on the small shapes of a graph
        return cls(mode, environment, symbols[0], frozenset(symbols), sizes)

    def tensors(self, operands: Sequence[Operand]) -> list[torch.Tensor]:
        shapes = [[self.sizes[size] if isinstance(size, str) else size for size in shape] for shape, _ in operands]
        with self.mode:
            return [torch.empty(shape, dtype=dtype) for shape, (_, dtype) in zip(shapes, operands, strict=True)]

    def assumed(self) -> list[sympy.Basic]:
        """Return the facts about sizes that operators assumed."""
        asserts = [a.expr for group in self.environment.deferred_runtime_asserts.values() for a in group]
        replaced = [sympy.Eq(symbol, value) for symbol, value in self.environment.replacements.items()]
        return [*(guard.expr for guard in self.environment.guards), *asserts, *replaced]

    def doubtful(self) -> sympy.Basic | None:
        """Return an assumed fact about the sizes that does not hold for all sizes, or None."""
        return next((fact for fact in self.assumed() if fact.free_symbols and not self._holds(fact)), None)

    def _holds(self, fact: sympy.Basic) -> bool:
        if fact.free_symbols == {self.symbol}:
            return all(fact.subs(self.symbol, n) == sympy.true for n in TRIED_BATCHES)
        symbols = sorted(fact.free_symbols, key=str)
        if not self.symbols.issuperset(symbols):
            return True  # about a size that the request does not state
        few = len(symbols) <= 3  # others are tried together
        tried = (
            itertools.product(TRIED_ELEMENTS, repeat=len(symbols))
            if few
            else [[n] * len(symbols) for n in TRIED_ELEMENTS]
        )
        return all(fact.subs(dict(zip(symbols, sizes, strict=True))) == sympy.true for sizes in tried)


def recapture(root: nn.Module | Mapping[str, Any], graph: fx.Graph, operands: Sequence[Operand]) -> fx.GraphModule:
    """Return an edited graph, with the tensors of `root` that it reads, in canonical form, all shapes known.

    `operands` are those of the placeholders. Nodes have the names and the order that another export would give them.

    Raises the error of an operator that rejects its operands, and `torch._dynamo.exc.UserError` for a graph that does not
    run for batches of all sizes.
    """
    module = fx.GraphModule(root if isinstance(root, nn.Module) else dict(root), graph)
    module.graph = _in_order_of_export(module)
    # The nodes of a graph refer to each other, and would leave `module` and its tensors in memory.
    graph.owning_module = None
    propagate_shapes(module, operands)
    return canonicalize(module)


def propagate_shapes(module: fx.GraphModule, operands: Sequence[Operand]) -> None:
    """Set each node's `meta["val"]`, in place, in a new fake tensor mode. Raises the errors of `recapture`.

    The mode is new because a comparison of sizes adds a fact to it, which may not hold for the next graph. Time and memory
    are linear in the graph.
    """
    _propagate(module, operands, _Sizes.new(operands))


def _propagate(module: fx.GraphModule, operands: Sequence[Operand], sizes: _Sizes) -> None:
    _run(module, operands, sizes)
    fact = sizes.doubtful()
    if fact is None:
        return
    violated = UserError(
        UserErrorType.CONSTRAINT_VIOLATION, f"Not all sizes of the batch, {sizes.symbol}, satisfy {fact}."
    )
    if len(fact.free_symbols) > 1:  # sizes that are equal only by chance, which another run would not show
        raise violated
    shapes = _shapes(module)
    for rows in OTHER_HINTS:
        try:
            _run(module, operands, _Sizes.new(operands, rows))
        except Exception as error:  # any error of an operator for a batch of another size
            raise violated from error
        if _shapes(module) != shapes:
            raise violated


def _run(module: fx.GraphModule, operands: Sequence[Operand], sizes: _Sizes) -> None:
    with enable_python_dispatcher():  # otherwise C++ kernels, such as those of padding, read the size of the batch
        FakeTensorProp(module, sizes.mode).propagate_dont_convert_inputs(*sizes.tensors(operands))


def _shapes(module: fx.GraphModule) -> list[str]:
    """Return shapes in terms of the batch, as strings, because a comparison of symbols would add an assumption."""
    leaves = (leaf for node in module.graph.nodes for leaf in pytree.tree_leaves(node.meta.get("val")))
    return [str(leaf.shape) if isinstance(leaf, torch.Tensor) else str(leaf) for leaf in leaves]


def find_operands(signature: Signature) -> list[Operand]:
    """Return the shape and the dtype of each tensor that the program takes."""
    return [(i.shape, getattr(torch, i.dtype)) for i in list_program_inputs(signature)]


def find_graph_operands(graph: fx.Graph) -> list[Operand]:
    """Return the shape and the dtype of each placeholder; its value must be known, and every symbolic size is the batch."""
    values = [node.meta["val"] for node in graph.nodes if node.op == "placeholder"]
    return [([size if isinstance(size, int) else BATCH for size in v.shape], v.dtype) for v in values]


def _in_order_of_export(module: fx.GraphModule) -> fx.Graph:
    """Return the graph with parameters first, then buffers; calls are named after their operators, and numbered."""
    names = [*dict(module.named_parameters()), *dict(module.named_buffers())]
    position = {name: number for number, name in enumerate(names)}
    nodes = list(module.graph.nodes)
    attributes = [node for node in nodes if node.op == "get_attr" and str(node.target) in position]
    attributes.sort(key=lambda node: position[str(node.target)])
    first = frozenset(attributes)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in (*attributes, *(node for node in nodes if node not in first)):
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), copies.__getitem__)
        copies[node] = graph.create_node(node.op, node.target, args, kwargs, _name(graph, node), node.type)
        copies[node].meta = dict(node.meta)
    return graph


def _name(graph: fx.Graph, node: fx.Node) -> str | None:
    if node.op != "call_function":
        return node.name if node.op == "placeholder" else None
    operator: Any = getattr(node.target, "overloadpacket", node.target)
    return "sym_size_int" if operator is torch.ops.aten.sym_size else graph._target_to_str(operator.__name__)
