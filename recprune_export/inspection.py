"""`inspect`: inputs, parameters, prunable channels, and frozen axes with the reasons."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from recprune_export.channels.analysis import Analysis
from recprune_export.channels.dependency_sets import Reason
from recprune_export.channels.groups import Channel, FrozenAxis, Group
from recprune_export.channels.inferred_rules import InferredRule
from recprune_export.channels.rule_trials import TRIAL_ROWS, infer_channel_rules
from recprune_export.channels.walk import RETURNED
from recprune_export.codec import FLATTENED, JsonForm, ToDictMixin, encode, json_name
from recprune_export.onnx._translate import list_foreign_operators
from recprune_export.program.loading._load_program import load_program
from recprune_export.program.output_selection import select_outputs
from recprune_export.program.program import Program
from recprune_export.program.requests.random_requests import sample_request
from recprune_export.program.signature import Signature
from recprune_export.pruning.allocation.parameter_counts import ParameterCounter, ParameterCounts
from recprune_export.pruning.fields.field_selection import field_channels, with_fields

REASONS = 3  # in the summary


@dataclass(frozen=True)
class FieldRemovability(ToDictMixin):
    """Whether a field can be removed: the number of parameters removed with this field alone, or the reason why it cannot."""

    ENCODED = ("name", "removable", "parameters", "frozen")

    name: str = field(metadata=json_name("field"))
    parameters: int
    frozen: Reason | None = field(default=None, metadata=FLATTENED)

    @property
    def removable(self) -> bool:
        """Whether the field can be removed."""
        return self.frozen is None


def _encode_groups(groups: Iterable[Group]) -> list[dict[str, Any]]:
    return [
        {"name": g.name, "label": g.label, "kind": g.kind, "width": g.width, "axes": encode(g.axes())} for g in groups
    ]


@dataclass(frozen=True)
class Inspection(ToDictMixin):
    """Result of the channel analysis of a model; `minimum_sizes` are its sizes with one channel in each group.

    `fields` is None if they were not analyzed; fields that can only be removed together are one entry.
    """

    ENCODED = (
        "name", "kind", "signature", "sizes", "prunable_fraction", "summary", "groups", "inferred", "frozen", "fields", "notes"
    )  # fmt: skip

    name: str
    kind: str = field(metadata=json_name("model_kind"))
    signature: Signature
    sizes: ParameterCounts = field(metadata=json_name("parameter_counts"))
    minimum_sizes: ParameterCounts
    groups: Annotated[tuple[Group, ...], JsonForm(_encode_groups)]
    frozen: tuple[FrozenAxis, ...]
    inferred: tuple[InferredRule, ...] = field(default=(), metadata=json_name("inferred_rules"))
    fields: tuple[FieldRemovability, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def prunable_fraction(self) -> float:
        """The fraction of the parameters in prunable channels."""
        total = self.sizes.tables + self.sizes.rest
        return 1.0 - (self.minimum_sizes.tables + self.minimum_sizes.rest) / total if total else 0.0

    @property
    def summary(self) -> str:
        """Return one sentence: the prunable fraction, and the most frequent reasons why other parameters are frozen."""
        counts: dict[str, int] = defaultdict(int)
        for axis in self.frozen:
            if axis.reason.text != RETURNED:  # every model has such axes, so they are not worth listing
                counts[axis.reason.text] += 1
        most = sorted(counts, key=lambda text: -counts[text])[:REASONS]
        frozen = f"; frozen: {'; '.join(f'{text} ({counts[text]}×)' for text in most)}" if most else ""
        return f"{self.prunable_fraction:.0%} of the parameters can be pruned{frozen}."


def inspect_program(program: Program, name: str, kind: str, *, fields: bool = False) -> Inspection:
    """Analyze a program; with `fields`, also whether each of them can be removed."""
    analysis = program.analysis
    model = ParameterCounter(program)
    return Inspection(
        name=name,
        kind=kind,
        signature=program.signature,
        sizes=model.sizes(),
        minimum_sizes=model.sizes(_all_but_one(analysis)),
        groups=analysis.groups,
        frozen=analysis.frozen,
        inferred=analysis.inferred,
        fields=find_removable_fields(program) if fields else None,
        notes=(*program.notes, *list_foreign_operators(program)),
    )


def inspect_file(
    path: Path, *, fields: bool = False, outputs: Sequence[str] = (), infer_rules: bool = False, **source: Any
) -> Inspection:
    """Load a model file as `load_program` does, and analyze it; `outputs` are the served outputs, all by default.

    With `infer_rules`, missing channel rules are inferred on random requests.
    """
    loaded = load_program(path, **source)
    program = select_outputs(loaded.program, outputs)
    if infer_rules:
        program = infer_channel_rules(program, sample_request(program.signature, TRIAL_ROWS, seed=0))
    return inspect_program(program, path.name, loaded.kind.value, fields=fields)


def find_removable_fields(program: Program) -> tuple[FieldRemovability, ...]:
    """Return whether each field can be removed, in the order of the request; those that cannot come last."""
    program = with_fields(program)
    analysis = program.analysis
    model = ParameterCounter(program)
    dense = model.sizes()

    def count_saved(channel: Channel) -> int:
        remaining = model.sizes(frozenset((channel.identity,)))
        return dense.tables + dense.rest - remaining.tables - remaining.rest

    removable = [FieldRemovability(channel.name, count_saved(channel)) for channel in field_channels(analysis)]
    return (*removable, *(FieldRemovability(f.field.name, 0, f.reason) for f in analysis.frozen_fields))


def _all_but_one(analysis: Analysis) -> frozenset[int]:
    return frozenset(c.identity for group in analysis.groups for c in group.channels[1:])
