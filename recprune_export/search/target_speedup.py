"""`find_sparsity_for_speedup`: the smallest sparsity at which the artifact is as many times faster as the user wants."""

from collections.abc import Callable
from dataclasses import replace

from recprune_export.errors import PruningError
from recprune_export.finetuning.task import Task
from recprune_export.pipeline.planning import plan_fields, plan_pruning, remove_fields_and_rows
from recprune_export.pipeline.prune import rotate_channels
from recprune_export.program.program import Program
from recprune_export.progress import show_status
from recprune_export.pruning.apply.apply_plan import apply_plan
from recprune_export.pruning.plan import FieldPlan
from recprune_export.search.bisection import MAX_SPARSITY, bisect_largest
from recprune_export.search.measure_artifact import ArtifactMeasurements, measure_artifact
from recprune_export.settings import Settings


def find_sparsity_for_speedup(
    program: Program, settings: Settings, task: Task, target: float, tell: Callable[[str], None] = lambda text: None
) -> float:
    """Bisect by structure alone: nothing is tuned, for weights do not change the time.

    The speed-up is that over the dense model in ONNX Runtime, the geometric mean over the batch sizes.

    Raises `PruningError` where even the largest sparsity is not enough.
    """
    tried: dict[float, ArtifactMeasurements] = {}
    fields = plan_fields(program, settings, task)

    def too_slow(sparsity: float) -> bool:
        pruned = _pruned(program, settings, task, sparsity, fields)
        tried[sparsity], _ = measure_artifact(program, pruned, replace(settings, quantize="none"), task)
        speed = tried[sparsity].overall
        tell(f"sparsity {sparsity:.3f}: {speed.estimate:.2f} [{speed.low:.2f}, {speed.high:.2f}] times faster")
        return speed.estimate < target

    *_, last = bisect_largest(too_slow, settings.sparsity)
    if last.lower >= MAX_SPARSITY:
        reached = tried[last.lower].overall
        raise PruningError(
            f"At a sparsity of {last.lower:g} the model is {reached.estimate:.2f} times as fast as the dense one in ONNX Runtime, not "
            f"{target:g} times: ask for less, or see `recprune-export profile` for what takes the time."
        )
    return last.upper


def _pruned(program: Program, settings: Settings, task: Task, sparsity: float, fields: FieldPlan) -> Program:
    settings = replace(settings, sparsity=sparsity, embedding_sparsity=None, hidden_sparsity=None)
    with show_status(f"Choosing what goes at sparsity {sparsity:.3f}"):
        plan = plan_pruning(program, settings, task, fields=fields)
    dense = rotate_channels(remove_fields_and_rows(program, plan, settings, task), plan)
    return apply_plan(dense, plan)
