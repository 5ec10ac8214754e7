"""`find_sparsity_for_speedup`: the smallest sparsity at which the artifact reaches a speed-up."""

from collections.abc import Callable

from recprune_export.errors import PruningError
from recprune_export.finetuning.task import Task
from recprune_export.pipeline._prune import rotate_channels
from recprune_export.pipeline.planning import plan_fields, plan_pruning, remove_fields_and_rows
from recprune_export.program.program import Program
from recprune_export.progress import show_status
from recprune_export.pruning.apply._apply_plan import apply_plan
from recprune_export.pruning.plan import FieldPlan
from recprune_export.search.bisection import MAX_SPARSITY, bisect_largest
from recprune_export.search.measure_artifact import ArtifactMeasurements, measure_artifact
from recprune_export.settings import LatencySettings, PruningSettings, QuantizationSettings


def find_sparsity_for_speedup(
    program: Program,
    pruning: PruningSettings,
    latency: LatencySettings,
    task: Task,
    target: float,
    report: Callable[[str], None] = lambda text: None,
    *,
    seed: int = 0,
) -> float:
    """Bisect by structure alone, without fine-tuning or quantization, for weights do not change the time.

    The speed-up is the geometric mean over the batch sizes, over the dense model in ONNX Runtime.

    Raises `PruningError` where even the largest sparsity is not enough.
    """
    measurements: dict[float, ArtifactMeasurements] = {}
    fields = plan_fields(program, pruning.prune_fields, task, seed)

    def too_slow(sparsity: float) -> bool:
        pruned = _prune_structure(program, pruning.at_sparsity(sparsity), task, fields, seed)
        measurements[sparsity], _ = measure_artifact(program, pruned, latency, QuantizationSettings(), task, seed=seed)
        speed = measurements[sparsity].overall
        report(f"sparsity {sparsity:.3f}: {speed.estimate:.2f} [{speed.low:.2f}, {speed.high:.2f}] times faster")
        return speed.estimate < target

    *_, last = bisect_largest(too_slow, pruning.sparsity)
    if last.lower >= MAX_SPARSITY:
        reached = measurements[last.lower].overall
        raise PruningError(
            f"At a sparsity of {last.lower:g} the model is {reached.estimate:.2f} times as fast as the dense one in ONNX Runtime, not "
            f"{target:g} times: ask for less, or see `recprune-export profile` for what takes the time."
        )
    return last.upper


def _prune_structure(program: Program, pruning: PruningSettings, task: Task, fields: FieldPlan, seed: int) -> Program:
    with show_status(f"Choosing what goes at sparsity {pruning.sparsity:.3f}"):
        plan = plan_pruning(program, pruning, task, seed=seed, fields=fields).plan
    dense = rotate_channels(remove_fields_and_rows(program, plan, task, seed), plan)
    return apply_plan(dense, plan)
