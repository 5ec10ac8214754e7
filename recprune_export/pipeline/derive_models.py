"""Make the derived ONNX files of a bundle from `model.onnx`, and compare the outputs of each."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.sequences import SequenceEncoder
from recprune_export.derived.derived_model import DeriveModel, SourceModel
from recprune_export.derived.raw_inputs.derive_raw_inputs import derive_raw_inputs
from recprune_export.derived.raw_inputs.plan_raw_inputs import plan_of_encoder, plan_of_vocabularies
from recprune_export.derived.raw_inputs.read_vocabulary import parse_vocabulary_options, read_vocabularies
from recprune_export.derived.top_k.item_ranking import plan_ranking
from recprune_export.derived.top_k.top_k_file import derive_top_k
from recprune_export.derived.validate_derived import ValidatedModel, validate_derived
from recprune_export.errors import UsageError
from recprune_export.finetuning.task import Task
from recprune_export.pipeline.evaluate_export import choose_measured_batches
from recprune_export.pipeline.export_models import PARITY_ROWS, ExportedModels, make_predictor
from recprune_export.program.signature import Signature
from recprune_export.settings import ExportSettings, Settings


def choose_derived_models(
    export: ExportSettings, encoder: Encoder | SequenceEncoder | None, signature: Signature
) -> tuple[DeriveModel, ...]:
    """Return the steps that make the derived files of a bundle; `signature` is that of the program, with its rules for bad ids.

    Raises `UsageError` or `DataError` if a file cannot be made for this model.
    """
    steps = list(_choose_raw_inputs(export, encoder, signature))
    if export.top_k is not None:
        ranking = plan_ranking(signature.with_shared(export.shared_inputs), export, encoder)
        steps.append(partial(derive_top_k, ranking=ranking))
    return tuple(steps)


def _choose_raw_inputs(
    export: ExportSettings, encoder: Encoder | SequenceEncoder | None, signature: Signature
) -> tuple[DeriveModel, ...]:
    """Return the step of the file that takes raw values.

    Raises `UsageError` if the model has no vocabularies, and `DataError` if a vocabulary does not fit it.
    """
    if not (export.raw_inputs or export.vocabularies):
        return ()
    if encoder is not None:
        if export.vocabularies:
            raise UsageError("--vocabulary: the checkpoint contains vocabularies; give --raw-inputs instead.")
        return (partial(derive_raw_inputs, make_plan=partial(plan_of_encoder, encoder)),)
    if not export.vocabularies:
        raise UsageError(
            "--raw-inputs: the model has no vocabularies, unlike checkpoints of `recprune-export train`; give them with "
            "--vocabulary INPUT=FILE, with the columns raw and id."
        )
    vocabularies = read_vocabularies(parse_vocabulary_options(export.vocabularies), signature)
    return (partial(derive_raw_inputs, make_plan=partial(plan_of_vocabularies, vocabularies)),)


def derive_models(
    steps: Sequence[DeriveModel],
    exported: ExportedModels,
    task: Task,
    settings: Settings,
    folder: Path,
) -> tuple[ValidatedModel, ...]:
    """Run each of `steps` on the pruned file, with rows of `task`, and validate its result.

    Raises `ExportError` if a file needs a later runtime than the settings allow, and `ValidationFailed` if the answers of one differ from
    those of `model.onnx`.
    """
    if not steps:
        return ()
    file = exported.pruned
    source = SourceModel(file, make_predictor(file), task.requests(PARITY_ROWS, seed=3), exported.tolerances)
    latency = settings.latency
    batches, threads = choose_measured_batches(latency), latency.threads
    models = [derive(source, folder) for derive in steps]
    return tuple(
        validate_derived(model, source, batches, threads=threads, seed=settings.seed, runtime=settings.export.runtime)
        for model in models
    )
