"""Support for models whose tables are larger than memory, and the options that do not support them."""

from recprune_export.errors import UsageError
from recprune_export.program.program import Program
from recprune_export.program.streamed_tables.streamed_table import find_streamed_tables
from recprune_export.settings import Settings


def settle_settings(program: Program, settings: Settings) -> Settings:
    """Return the settings of a job on `program`: if its tables are streamed, without zeros and without a dense file in the bundle.

    Raises `UsageError` for an option that would need a whole table, or a second copy of it.
    """
    if not find_streamed_tables(program.module):
        return settings
    _refuse(settings)
    return settings.with_options(structured_fraction=1.0, keep_dense=False)


def refuse_streamed(program: Program, work: str) -> None:
    """Raise `UsageError` if the tables of `program` are streamed, because `work` needs whole tables or their gradients."""
    if find_streamed_tables(program.module):
        raise UsageError(f"{work} does not support models larger than memory: use a machine with more memory.")


def _refuse(settings: Settings) -> None:
    pruning, search = settings.pruning, settings.search
    refused = {
        "--max-drop": (
            search.max_drop is not None and search.minimize == "bytes",
            "it searches for the smallest file, unless --minimize latency is given",
        ),
        "--regularize": (bool(settings.finetuning.regularize), "it trains a second copy of the tables"),
        "--prune-rows": (pruning.prune_rows is not None, "shared rows need a second copy of a table"),
        "--max-bytes": (pruning.max_bytes is not None, "it rounds all rows to compare dimensions with bits"),
        "--score": (pruning.score in ("taylor", "cosine"), f"{pruning.score} needs a second copy of the tables"),
        "--structured-fraction": (
            pruning.structured_fraction not in (None, 1.0),
            "zeros in a table need a mask and a copy of it",
        ),
    }
    for option, (given, reason) in refused.items():
        if given:
            raise UsageError(
                f"{option} does not support models larger than memory, since {reason}: leave it out, or use a machine with more memory."
            )
