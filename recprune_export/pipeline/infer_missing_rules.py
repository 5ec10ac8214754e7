"""`infer_missing_rules`: channel rules by trial on rows of the task, for jobs with `--infer-rules`."""

from dataclasses import replace

from recprune_export.channels.rule_trials import TRIAL_ROWS, infer_channel_rules
from recprune_export.finetuning.task import Task
from recprune_export.pipeline.streamed_models import refuse_streamed
from recprune_export.program.loading._load_program import LoadedModel
from recprune_export.settings import Settings


def infer_missing_rules(loaded: LoadedModel, task: Task, settings: Settings) -> LoadedModel:
    """Return the model with inferred channel rules for operators without a written one, if `settings` request this.

    Raises `UsageError` for a model that is larger than memory.
    """
    if not settings.pruning.infer_rules:
        return loaded
    refuse_streamed(loaded.program, "--infer-rules")
    return replace(loaded, program=infer_channel_rules(loaded.program, task.requests(TRIAL_ROWS, settings.seed)))
