"""`Plan`: the channels to keep in each group. A plan can be printed, saved as JSON, loaded, and applied again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Self

from recprune_export.channels.analysis import Analysis
from recprune_export.codec import OMIT_DEFAULT, DictMixin, JsonForm, json_name
from recprune_export.errors import InputFileError, PruningError
from recprune_export.program.program import Program
from recprune_export.pruning.rare_ids.row_plan import RowPlan
from recprune_export.pruning.rotation.projections import NO_PROJECTIONS, ProjectionPlan
from recprune_export.pruning.rotation.transform import Transform
from recprune_export.pruning.storage_plan import StoragePlan


def _encode_transform(transform: Transform | None) -> str | None:
    return None if transform is None else transform.to_text()


def _decode_transform(text: str | None) -> Transform | None:
    return Transform.from_text(text) if text else None


@dataclass(frozen=True)
class GroupPlan:
    """`keep`: the positions to keep, of the `width` positions of the group; at least one.

    With a `transform`, positions are counted after it. `turned`: it ends with a random orthogonal matrix (`turn_matrix`).
    """

    group: str
    kind: str
    width: int
    keep: tuple[int, ...]
    transform: Annotated[Transform | None, JsonForm(_encode_transform, _decode_transform)] = None
    turned: bool = field(default=False, metadata=OMIT_DEFAULT)


@dataclass(frozen=True)
class FieldPlan(DictMixin):
    """The removed fields by name; `importance[field]` is the measured increase of the loss without the field, if any."""

    removed: tuple[str, ...] = ()
    importance: Mapping[str, float] = field(default_factory=dict)


NO_FIELDS = FieldPlan()


@dataclass(frozen=True)
class Plan(DictMixin):
    """The channels to keep in each group, and the score by which they were chosen.

    The groups are those of the program without the removed `fields`, then without the rows removed by `rows`, after its
    `projection_plan`. `storage` states the bits of the weights, if they were chosen together with the channels. `next_stage` is the plan
    for the result of this one, after fine-tuning.

    >>> plan = Plan("random", (GroupPlan("table:1", "embedding", 4, (0, 2)),))
    >>> Plan.from_dict(plan.to_dict()) == plan
    True
    """

    ENCODED = ("score", "fields", "rows", "groups", "projection_plan", "storage", "next_stage")

    score: str
    groups: tuple[GroupPlan, ...]
    projection_plan: ProjectionPlan = field(default=NO_PROJECTIONS, metadata=json_name("loosening"))
    fields: FieldPlan = NO_FIELDS
    rows: tuple[RowPlan, ...] = ()
    storage: StoragePlan | None = field(default=None, metadata=OMIT_DEFAULT)
    next_stage: Self | None = field(default=None, metadata=json_name("then") | OMIT_DEFAULT)

    @classmethod
    def from_stages(cls, stages: Sequence[Self]) -> Self:
        """Chain plans, each for the result of the previous one."""
        first, *rest = stages
        return replace(first, next_stage=cls.from_stages(rest) if rest else None)

    @property
    def stages(self) -> tuple[Self, ...]:
        """The plans of the chain, each without its next stage."""
        return (replace(self, next_stage=None), *(self.next_stage.stages if self.next_stage else ()))

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=1))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a plan from JSON. Raises `InputFileError` if the file is not a plan."""
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InputFileError(f"The plan {path} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputFileError(
                f"{path} is not a plan; give the plan.json of a bundle, or the output of --plan-only."
            ) from error

    @property
    def transforms(self) -> dict[str, Transform]:
        """The transforms by the names of their groups."""
        return {g.group: g.transform for g in self.groups if g.transform is not None}

    def removed(self, analysis: Analysis) -> frozenset[int]:
        """Return the removed channels.

        Raises `PruningError` if the plan was made for another program.
        """
        groups = {group.name: group for group in analysis.groups}
        removed: set[int] = set()
        for group_plan in self.groups:
            group = groups.get(group_plan.group)
            if group is None or group.width != group_plan.width:
                actual = "no such group" if group is None else f"a width of {group.width}"
                raise PruningError(
                    f"The plan keeps channels of '{group_plan.group}' (width {group_plan.width}), but this model has {actual}: "
                    "make a plan for this model."
                )
            minimum = 0 if group.kind == "field" else 1
            if len(group_plan.keep) < minimum or not set(group_plan.keep) <= set(range(group_plan.width)):
                raise PruningError(
                    f"The plan must keep between {minimum} and {group_plan.width} channels of '{group.label}'."
                )
            positions = set(group_plan.keep)
            removed |= {c.identity for position, c in enumerate(group.channels) if position not in positions}
        return frozenset(removed)


@dataclass(frozen=True)
class PlannedProgram:
    """A plan, and the `program` whose channels it refers to: fields and rows removed, projections inserted, not yet rotated."""

    plan: Plan
    program: Program
