"""`Program`: a model as a graph that is run, trained, rewritten, saved and loaded without the model's source."""

import copy
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, fx

from recprune_export.distributed.layers_over_ranks import batch_norm_over_ranks
from recprune_export.errors import ModelFileError
from recprune_export.program.canonical import canonicalize
from recprune_export.program.lifting import lift
from recprune_export.program.mapped_archive import share_stored_weights
from recprune_export.program.propagation import LARGEST_BATCH, find_operands, propagate_shapes, recapture
from recprune_export.program.requests.jagged_inputs import list_program_inputs, to_program_tensors
from recprune_export.program.requests.random_requests import fill_valid, sample_request
from recprune_export.program.signature import BATCH, Axis, Signature

if TYPE_CHECKING:
    from recprune_export.channels.analysis import Analysis

SIGNATURE_FILE = "recprune_signature.json"

# Position of the argument that switches an operator between training and inference.
_TRAINING_FLAG = {torch.ops.aten.dropout.default: 2, torch.ops.aten.batch_norm.default: 5, batch_norm_over_ranks: 5}


@dataclass(frozen=True)
class Program:
    """A captured model.

    `module` takes the tensors of a request flat, in the order of `signature.inputs`, two for a jagged input
    (`jagged_inputs.py`), and returns a tuple of tensors in the order of `signature.outputs`. Its graph is training IR:
    `aten.linear`, `aten.embedding`, ...
    An edit of the graph makes a new program; only flags that no analysis reads are switched in place.

    The graph does not refer back to `module`, so that the weights are freed as soon as no program refers to them: nodes
    refer to each other, and the objects reachable from them remain until Python's cyclic garbage collector runs.

    `notes` are sentences for the user: choices in the model's file, and parts that the capture left out or changed.
    """

    module: fx.GraphModule
    signature: Signature
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.module.graph.owning_module = None

    def __call__(self, request: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Answer one request; every tensor has the batch on axis 0."""
        outputs = self.module(*to_program_tensors(self.signature, request))
        return {o.name: value for o, value in zip(self.signature.outputs, outputs, strict=True)}

    @cached_property
    def analysis(self) -> "Analysis":
        """The channels of the program; they depend on the graph, not on the values of the parameters."""
        from recprune_export.channels.analysis import analyze  # a later package in the order of imports

        return analyze(self)

    def with_analysis(self, analysis: "Analysis") -> Self:
        """Return the same program with another analysis, such as one in which whole fields are channels."""
        program = type(self)(self.module, self.signature, self.notes)
        program.__dict__["analysis"] = analysis
        return program

    def with_notes(self, notes: Sequence[str]) -> Self:
        """Return the same program with `notes` before its own."""
        return self._with_known_analysis(type(self)(self.module, self.signature, (*notes, *self.notes)))

    def with_signature(self, signature: Signature) -> Self:
        """Return the same program with another signature of the same inputs and outputs."""
        return self._with_known_analysis(type(self)(self.module, signature, self.notes))

    def with_copied_graph(self) -> Self:
        """Return a program that shares the parameters but has a copy of the graph."""
        graph = copy.deepcopy(self.module.graph)
        return type(self)(fx.GraphModule(self.module, graph), self.signature, self.notes)

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return a program with a copy of the graph, in which `tensors` replace those of the same names; others are shared."""
        program = self.with_copied_graph()
        for target, tensor in tensors.items():
            owner, _, name = target.rpartition(".")
            setattr(program.module.get_submodule(owner), name, tensor)
        return self._with_known_analysis(program)

    def with_copied_parameters(self) -> Self:
        """Return a program that has copies of the graph and of the parameters."""
        return self._with_known_analysis(type(self)(copy.deepcopy(self.module), self.signature, self.notes))

    def _with_known_analysis(self, program: Self) -> Self:
        """Return a program with the same channels and the analysis of this one, if that was computed."""
        return program.with_analysis(self.analysis) if "analysis" in self.__dict__ else program

    def set_training(self, training: bool, *, dropout: bool = True) -> None:
        """Switch batch-norm and dropout between training and inference; `dropout=False` keeps dropout off."""
        for node in self.module.graph.nodes:
            position = _TRAINING_FLAG.get(node.target)
            if position is not None:
                node.update_arg(position, training and (dropout or node.target is not torch.ops.aten.dropout.default))
        self.module.recompile()

    def to_exported_program(self) -> torch.export.ExportedProgram:
        """Return the program as `torch.export` captures it, in inference mode, with a symbolic batch."""
        return export_with_symbolic_batch(
            self._serving().module, _sample_distinct_sizes(self.signature), self.signature
        )

    def lifted(self) -> torch.export.ExportedProgram:
        """Return the same as `to_exported_program`, for a converter, without tracing the graph again."""
        module = self._serving().module
        propagate_shapes(module, find_operands(self.signature))
        return lift(module)

    def _serving(self) -> Self:
        serving = self.with_copied_graph()
        serving.set_training(False)
        return serving

    def save(self, path: Path) -> None:
        """Write a `.pt2` file that `load` and `torch.export.load` read. Memory: a copy of the largest tensor.

        A file at `path` is replaced when the new one is complete, since a loaded program may map its weights.
        """
        extra = {SIGNATURE_FILE: json.dumps(self.signature.to_dict())}
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            complete = Path(folder) / path.name  # the archive holds the name of its file
            torch.export.save(self.to_exported_program(), complete, extra_files=extra)
            os.replace(complete, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a `.pt2` file that `save` wrote; its weights stay in the file, from which they are read by pages.

        The file must not be truncated while the program is in use; `save` replaces it safely.

        Raises `ModelFileError` for a `.pt2` of another tool; `capture.program_from_exported` reads those.
        """
        extra = {SIGNATURE_FILE: ""}
        exported = torch.export.load(path, extra_files=extra)
        if not extra[SIGNATURE_FILE]:
            raise ModelFileError(f"{path} is a .pt2 program that was not written by recprune-export.")
        share_stored_weights(exported, path)
        module = exported.module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        return cls(canonicalize(module), Signature.from_dict(json.loads(extra[SIGNATURE_FILE])))

    @classmethod
    def from_graph(cls, graph: fx.Graph, tensors: Mapping[str, Any], signature: Signature) -> Self:
        """Return an edited graph and the tensors that it reads as a program; every shape is checked.

        Raises the error of an operator that rejects its operands, and `torch._dynamo.exc.UserError` for a graph that
        does not run for batches of all sizes.
        """
        return cls(recapture(tensors, graph, find_operands(signature)), signature)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the distinct trainable tensors by name."""
        return dict(self.module.named_parameters())


def make_batch_dim() -> Any:
    """Return the symbolic batch size, bounded because `torch.export` bounds it wherever elements are counted."""
    return torch.export.Dim("batch", max=LARGEST_BATCH)


def make_dynamic_shapes(shapes: Sequence[Sequence[Axis]]) -> tuple[tuple[dict[int, Any], ...]]:
    """Return the dynamic shapes of a module that takes tensors of `shapes` as `*tensors`, with a symbol for each named size."""
    symbols = {BATCH: make_batch_dim()}
    for name in (size for shape in shapes for size in shape if isinstance(size, str)):
        symbols.setdefault(name, torch.export.Dim(f"elements_{len(symbols)}", max=LARGEST_BATCH))
    return (
        tuple({axis: symbols[size] for axis, size in enumerate(shape) if isinstance(size, str)} for shape in shapes),
    )


def export_with_symbolic_batch(
    module: torch.nn.Module, tensors: tuple[Tensor, ...], signature: Signature
) -> torch.export.ExportedProgram:
    """Export a flat module with the batch of `signature` symbolic."""
    (shapes,) = make_dynamic_shapes([i.shape for i in list_program_inputs(signature)])
    # Facts about strides that torch.export cannot prove for every batch are checked at run time.
    return torch.export.export(
        module, tensors, dynamic_shapes=shapes, strict=False, prefer_deferred_runtime_asserts_over_guards=True
    )


def sample_request_tensors(signature: Signature, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Return a valid request of `batch` rows, drawn at random, as the tensors that a program's module takes."""
    return tuple(to_program_tensors(signature, sample_request_rows(signature, batch, seed)))


def sample_request_rows(signature: Signature, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Return a valid request of `batch` rows, drawn at random, by input; a jagged input is a matrix (`jagged_inputs.py`)."""
    return {name: torch.from_numpy(values) for name, values in sample_request(signature, batch, seed).items()}


def _sample_distinct_sizes(signature: Signature) -> tuple[Tensor, ...]:
    """Return a request whose batch size and numbers of elements differ, because `torch.export` may equate equal sizes.

    If rows are too short for this, all of them have the most elements, because it treats 0 and 1 as constants.
    """
    tried, least_batch = 64, 3
    for seed in range(tried):
        tensors = sample_request_tensors(signature, least_batch + seed // 8, seed)
        sizes = {
            spec.shape[0]: len(t) for spec, t in zip(list_program_inputs(signature), tensors, strict=True) if spec.shape
        }
        varying = [size for name, size in sizes.items() if isinstance(name, str)]
        if len(set(varying)) == len(varying) and min(varying, default=2) > 1:
            return tensors
    full = {i.name: fill_valid(i, least_batch) for i in signature.inputs}
    return tuple(map(torch.from_numpy, to_program_tensors(signature, full)))
