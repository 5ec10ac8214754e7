"""`export_onnx`: a program as an ONNX file that `onnx.checker` accepts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

from recprune_export.errors import ExportError
from recprune_export.onnx._translate import translate
from recprune_export.onnx.cost.machine import REFERENCE, Machine
from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.file_interface import add_file_interface, name_sizes
from recprune_export.onnx.input_guards import guard_inputs
from recprune_export.onnx.operator_set import set_opset
from recprune_export.onnx.optimizer._rewrite import (
    NO_LIMITS,
    TOLERANCE,
    NonzeroLimits,
    Pass,
    Probe,
    Rewrite,
    largest_relative_difference,
    rewrite,
)
from recprune_export.onnx.optimizer.passes.batch_norm_to_mul_add import batch_norm_to_mul_add
from recprune_export.onnx.optimizer.passes.clamp_masked_scores import clamp_masked_scores
from recprune_export.onnx.optimizer.passes.clear_metadata import clear_metadata
from recprune_export.onnx.optimizer.passes.concat_slice import (
    concat_then_reshape,
    flatten_nested_concat,
    hoist_cast,
    merge_column_slices,
    slice_before_concat,
)
from recprune_export.onnx.optimizer.passes.deduplicate_initializers import deduplicate_initializers
from recprune_export.onnx.optimizer.passes.dft_to_matmul import dft_to_matmul
from recprune_export.onnx.optimizer.passes.eliminate_views import eliminate_views
from recprune_export.onnx.optimizer.passes.fold_attention_projections import fold_attention_projections
from recprune_export.onnx.optimizer.passes.fold_scale_shift import fold_scale_shift
from recprune_export.onnx.optimizer.passes.fold_table_into_gemm import fold_table_into_gemm
from recprune_export.onnx.optimizer.passes.fuse_tables import fuse_tables
from recprune_export.onnx.optimizer.passes.gather_to_gathernd import gather_to_gathernd
from recprune_export.onnx.optimizer.passes.gathernd_to_flat_gather import gathernd_to_flat_gather
from recprune_export.onnx.optimizer.passes.gathernd_to_gather import gathernd_to_gather
from recprune_export.onnx.optimizer.passes.gathernd_to_row_gather import gathernd_to_row_gather
from recprune_export.onnx.optimizer.passes.hoist_gather import hoist_gather
from recprune_export.onnx.optimizer.passes.layer_norm_of_sum_by_rows import layer_norm_of_sum_by_rows
from recprune_export.onnx.optimizer.passes.matmul_add_to_gemm import matmul_add_to_gemm
from recprune_export.onnx.optimizer.passes.merge_tables_of_same_ids import merge_tables_of_same_ids
from recprune_export.onnx.optimizer.passes.name_batch import name_batch
from recprune_export.onnx.optimizer.passes.name_interface import name_interface
from recprune_export.onnx.optimizer.passes.reduce_sum_to_matmul import reduce_sum_to_matmul
from recprune_export.onnx.optimizer.passes.share_transposed_weights import share_transposed_weights
from recprune_export.onnx.optimizer.passes.shared_inputs import share_inputs
from recprune_export.onnx.optimizer.passes.simplify_attention import simplify_attention
from recprune_export.onnx.optimizer.passes.sort_concat_by_width import sort_concat_by_width
from recprune_export.onnx.optimizer.passes.unpack_wide_products import unpack_wide_products
from recprune_export.onnx.optimizer.passes.unpad_layer_norm import unpad_layer_norm
from recprune_export.onnx.optimizer.passes.where_mask_to_product import where_mask_to_product
from recprune_export.onnx.runtime.in_memory import make_in_memory_session
from recprune_export.onnx.saving import EXTERNAL_THRESHOLD, save_onnx
from recprune_export.onnx.weight_bits import collect_bits, plan_bits, plan_other_layers
from recprune_export.program.failures import REPORT, explain_failures
from recprune_export.program.program import Program
from recprune_export.program.requests.jagged_inputs import has_jagged_inputs, list_program_inputs, to_program_tensors
from recprune_export.program.requests.random_requests import fill_input, sample_request
from recprune_export.program.signature import IdRange, Input, Signature
from recprune_export.runtime_releases import ANY_RUNTIME, RuntimeTarget
from recprune_export.stored_bits import StoredBits

PROBE_ROWS = (1, 5)

# Corrections of the exporter's graph: forms that are wrong, too large, or unknown to the other passes.
PASSES: tuple[Callable[[ir.Model], object], ...] = (
    gathernd_to_gather,
    share_transposed_weights,  # reads the Gathers
    batch_norm_to_mul_add,
    simplify_attention,
    name_batch,
    deduplicate_initializers,
    CommonSubexpressionEliminationPass(),
    RemoveUnusedNodesPass(),  # an unused node would seem to need every position
    fill_shapes,  # rewrites need known shapes
)
# Faster forms of the same graph: each is accepted only if its outputs and cost pass the checks.
REWRITES: tuple[Pass, ...] = (
    dft_to_matmul,
    hoist_gather,
    unpad_layer_norm,
    fold_attention_projections,
    clamp_masked_scores,
    where_mask_to_product,
    slice_before_concat,
    flatten_nested_concat,
    fold_scale_shift,
    reduce_sum_to_matmul,
    sort_concat_by_width,
    fold_table_into_gemm,
    fuse_tables,
    merge_column_slices,
    hoist_cast,
    concat_then_reshape,
    gathernd_to_flat_gather,
    gathernd_to_row_gather,
    unpack_wide_products,
    matmul_add_to_gemm,
    layer_norm_of_sum_by_rows,  # reads the rows of layers
    eliminate_views,
    merge_tables_of_same_ids,
    gather_to_gathernd,  # last: the other passes read lookups as Gather
)
# Before inputs are shared: a nested Concat may be all shared within one that is not.
BEFORE_SHARING: tuple[Pass, ...] = (slice_before_concat, flatten_nested_concat)
LAST: tuple[Callable[[ir.Model], object], ...] = (
    deduplicate_initializers,
    CommonSubexpressionEliminationPass(),
    RemoveUnusedNodesPass(),
    clear_metadata,
)
_TRAINING_ONLY = {"Dropout", "BatchNormalization"}


@dataclass(frozen=True)
class ServingConfig:
    """Serving conditions of a model: batch sizes, inputs that all rows of a request share, the machine, and the ONNX Runtime.

    Rewrites are judged by their costs on `machine`; the reference machine gives the same file everywhere.
    """

    batches: tuple[int, ...] = (1, 32, 256, 1024)
    shared: tuple[str, ...] = ()
    machine: Machine = REFERENCE
    runtime: RuntimeTarget = ANY_RUNTIME


DEFAULT_SERVING = ServingConfig()


@dataclass(frozen=True)
class OnnxFile:
    """An exported model: operator set, file of external weights if any, signature, report of the rewrites.

    `bits`: the planned bits of its weights, if any, by their names in the file. A file that is not `guarded` reads ids out of range and
    large numbers unchanged: it is the user's file.
    """

    path: Path
    opset: int
    data: Path | None
    signature: Signature
    rewrites: tuple[Rewrite, ...] = ()
    bits: StoredBits | None = None
    guarded: bool = True

    @property
    def bytes(self) -> int:
        """The size of the model, weights included."""
        return self.path.stat().st_size + (self.data.stat().st_size if self.data else 0)


@explain_failures("The export to ONNX", ExportError, REPORT)
def export_onnx(
    program: Program,
    path: Path,
    external_threshold: int = EXTERNAL_THRESHOLD,
    *,
    serving: ServingConfig = DEFAULT_SERVING,
    rewrites: Sequence[Pass] = REWRITES,
    limits: NonzeroLimits = NO_LIMITS,
    bits: StoredBits | None = None,
) -> OnnxFile:
    """Write `program` to `path`, inputs and outputs named by its signature, the batch symbolic.

    Weights of `external_threshold` bytes or more go to `<path>.data`. The file has no metadata about the source code of
    the model. `rewrites` are tried in order; each is accepted if it gives the same outputs, costs no more for `serving.batches`, and
    leaves no more non-zeros than `limits`. Without rewrites the file is that of PyTorch's exporter, with corrections. Ids out of range
    and large numbers are treated according to the signature (`guard_inputs`). Inputs in `serving.shared` have one row in the file, which
    all rows of a request share. The file holds all weights in fp32; `bits` are planned for their quantization, by the names of the
    parameters. Tables of different bits are not fused, and the file states the bits by the names of its weights.

    Raises `ExportError` if an operator has no ONNX form, or if an input and an output have the same name, and `UsageError` if
    `serving.shared` has a name that is not an input.
    """
    signature = program.signature.with_shared(serving.shared)
    model = translate(program, serving.runtime.opset)
    if bits is not None:
        plan_bits(model, bits, {name: tensor.detach().numpy() for name, tensor in program.parameters().items()})
    if has_jagged_inputs(signature):
        name_sizes(model, signature)
    for graph_pass in PASSES:
        graph_pass(model)
    if bits is not None:
        plan_other_layers(model, bits.other_layers)
    probes = _make_probes(program.signature)
    if serving.shared:
        model, probes = _apply_sharing(model, signature, probes)
    if guard_inputs(model, list_program_inputs(signature)):
        fill_shapes(model)
    model, report = rewrite(model, rewrites, probes, serving.batches, serving.machine, limits)
    for graph_pass in LAST:
        graph_pass(model)
    name_interface(model, [i.name for i in list_program_inputs(signature)], [o.name for o in signature.outputs])
    add_file_interface(model, signature)
    training_operators = sorted({node.op_type for node in model.graph} & _TRAINING_ONLY)
    if training_operators:
        raise ExportError(
            f"The ONNX graph still contains {training_operators[0]}; freeze its statistics in the model (module.eval())."
        )
    set_opset(model, serving.runtime.opset)
    data = save_onnx(model, path, external_threshold)
    final_bits = None if bits is None else collect_bits(model, bits)
    return OnnxFile(path, model.opset_imports[""], data, signature, report, final_bits)


def _make_probes(signature: Signature) -> list[Probe]:
    """Return requests for comparing two graphs: random ones, and one of the lowest ids, where 0 may be padding."""

    def middle(spec: Input, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, sum(spec.observed or (0.0, 0.0)) / 2)

    def lowest(id_range: IdRange, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, id_range[0])

    drawn = [to_program_tensors(signature, sample_request(signature, rows, seed=rows)) for rows in PROBE_ROWS]
    edge = {i.name: fill_input(i, PROBE_ROWS[-1], lowest, middle) for i in signature.inputs}
    return [*drawn, to_program_tensors(signature, edge)]


def _apply_sharing(
    model: ir.Model, signature: Signature, probes: Sequence[Probe], rewrites: Sequence[Pass] = BEFORE_SHARING
) -> tuple[ir.Model, list[Probe]]:
    """Compute values of shared inputs once, after `rewrites`; return the graph with the probes in its form.

    Raises `ExportError` if the outputs change.
    """
    inputs = list_program_inputs(signature)
    names = [i.name for i in signature.inputs if i.shared]
    shared = [position for position, spec in enumerate(inputs) if spec.name in names]
    split = model.clone()
    for graph_pass in rewrites:
        graph_pass(split)
    RemoveUnusedNodesPass()(split)
    share_inputs(split, shared)
    RemoveUnusedNodesPass()(split)
    fill_shapes(split)
    one_row: list[Probe] = [[array[:1] if i in shared else array for i, array in enumerate(probe)] for probe in probes]
    repeated = [
        [array[[0] * len(array)] if i in shared else array for i, array in enumerate(probe)] for probe in probes
    ]
    run_original, run_split = make_in_memory_session(model), make_in_memory_session(split)
    error = max(
        largest_relative_difference(run_original(full_probe), run_split(shared_probe))
        for full_probe, shared_probe in zip(repeated, one_row, strict=True)
    )
    if error > TOLERANCE:
        raise ExportError(
            f"With {', '.join(names)} shared, the outputs of the model "
            f"change (they differ by {error:.1e} of the largest): its rows depend on each other. Export without shared inputs."
        )
    return split, one_row
