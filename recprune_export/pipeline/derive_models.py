"""Make the further ONNX files of a bundle from `model.onnx`, and hold each to its answers."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.sequences import SequenceEncoder
from recprune_export.derived.derived_model import DeriveModel, SourceModel
from recprune_export.derived.top_k.item_ranking import plan_ranking
from recprune_export.derived.top_k.top_k_file import derive_top_k
from recprune_export.derived.validate_derived import ValidatedModel, validate_derived
from recprune_export.finetuning.task import Task
from recprune_export.pipeline.evaluate_export import choose_measured_batches
from recprune_export.pipeline.export_models import PARITY_ROWS, ExportedModels, make_predictor
from recprune_export.program.signature import Signature
from recprune_export.settings import ExportSettings, LatencySettings


def list_derive_steps(
    signature: Signature, export: ExportSettings, encoder: Encoder | SequenceEncoder | None
) -> tuple[DeriveModel, ...]:
    """Return the steps that make the further files of a bundle that `export` asks for.

    `encoder` is that of a checkpoint. Raises `UsageError` and `DataError` where a file cannot be made of this model.
    """
    steps: list[DeriveModel] = []
    if export.top_k is not None:
        ranking = plan_ranking(signature.with_shared(export.shared_inputs), export, encoder)
        steps.append(partial(derive_top_k, ranking=ranking))
    return tuple(steps)


def derive_models(
    steps: Sequence[DeriveModel],
    exported: ExportedModels,
    task: Task,
    latency: LatencySettings,
    folder: Path,
    *,
    seed: int,
) -> tuple[ValidatedModel, ...]:
    """Take each of `steps` on the pruned file, with rows of `task`, and validate what it makes.

    Raises `ValidationFailed` where a file answers otherwise than `model.onnx`.
    """
    if not steps:
        return ()
    file, objective = exported.pruned, task.objective
    source = SourceModel(
        file,
        make_predictor(file),
        task.requests(PARITY_ROWS, seed=3),
        exported.tolerances,
        {output.name: objective.output_kinds.get(output.name) for output in file.signature.outputs},
    )
    batches = choose_measured_batches(latency)
    models = [derive(source, folder) for derive in steps]
    return tuple(validate_derived(model, source, batches, threads=latency.threads, seed=seed) for model in models)
