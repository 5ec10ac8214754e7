"""Commands that compress the same model with less loss, printed after a job with a large loss of quality."""

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from recprune_export.cli.reproduce_command import SPARSITY_ONLY, reproduce_command
from recprune_export.evidence import Verdict
from recprune_export.number_formats import format_bytes

if TYPE_CHECKING:
    from recprune_export.pipeline.compress import CompressionResult

_STATE_ONLY = frozenset({"plan_file", "plan_only", "resume"})  # of the finished job


@dataclass(frozen=True)
class Advice:
    """A command to run, and its result."""

    label: str
    command: str


def make_loss_advice(context: click.Context, result: "CompressionResult") -> tuple[Advice, ...]:
    """Return two commands if the loss of a job with a given sparsity is above the usual allowance by its whole interval, else none.

    One writes a file of the same size with the least predicted loss, the other the smallest file within the allowance.
    """
    manifest, options = result.manifest, context.params
    quality = manifest.quality
    searched = any(options.get(name) for name in ("max_bytes", "max_drop", "target_speedup", "target_latency"))
    if searched or not quality or quality["verdict"] != Verdict.FAILS.words:
        return ()
    size, limit = result.counts["pruned"].bytes, f"{quality['limit']:.2g}"
    common = reproduce_command(context, context.command, SPARSITY_ONLY | _STATE_ONLY)

    def complete(*words: str) -> str:
        target = f"{result.target}-{words[0].removeprefix('--')}"
        return shlex.join(["recprune-export", *common, *words, "-o", target])

    return (
        Advice(
            f"The same size ({format_bytes(size)}), with widths and bits chosen together for the least predicted loss",
            complete("--max-bytes", f"{size}B"),
        ),
        Advice(
            f"The smallest file whose {quality['metric']} drops by at most {limit} on the validation rows",
            complete("--max-drop", limit),
        ),
    )
