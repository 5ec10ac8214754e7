"""`Plan`: the channels to keep in each group. A plan can be printed, saved as JSON, loaded, and applied again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from recprune_export.channels.analysis import Analysis
from recprune_export.errors import InputFileError, PruningError
from recprune_export.pruning.rare_ids.row_plan import RowPlan
from recprune_export.pruning.rotation.projections import NO_PROJECTIONS, ProjectionPlan
from recprune_export.pruning.rotation.transform import Transform


@dataclass(frozen=True)
class GroupPlan:
    """`keep`: the positions to keep, of the `width` positions of the group; at least one.

    With a `transform`, positions are counted after it.
    """

    group: str
    kind: str
    width: int
    keep: tuple[int, ...]
    transform: Transform | None = None


@dataclass(frozen=True)
class FieldPlan:
    """The removed fields by name; `importance[field]` is the measured rise of the loss without the field, if any."""

    removed: tuple[str, ...] = ()
    importance: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"removed": list(self.removed), "importance": dict(self.importance)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`."""
        importance = {str(name): float(value) for name, value in values.get("importance", {}).items()}
        return cls(tuple(str(name) for name in values.get("removed", ())), importance)


NO_FIELDS = FieldPlan()


@dataclass(frozen=True)
class Plan:
    """The channels to keep in each group, and the score by which they were chosen.

    The groups are those of the program without the removed `fields`, then without the rows removed by `rows`, after its
    `projection_plan`. `next_stage` is the plan for the result of this one, after fine-tuning.

    >>> plan = Plan("random", (GroupPlan("table:1", "embedding", 4, (0, 2)),))
    >>> Plan.from_dict(plan.to_dict()) == plan
    True
    """

    score: str
    groups: tuple[GroupPlan, ...]
    projection_plan: ProjectionPlan = NO_PROJECTIONS
    fields: FieldPlan = NO_FIELDS
    rows: tuple[RowPlan, ...] = ()
    next_stage: Self | None = None

    @classmethod
    def from_stages(cls, stages: Sequence[Self]) -> Self:
        """Chain plans, each for the result of the previous one."""
        first, *rest = stages
        return replace(first, next_stage=cls.from_stages(rest) if rest else None)

    @property
    def stages(self) -> tuple[Self, ...]:
        """The plans of the chain, each without its next stage."""
        return (replace(self, next_stage=None), *(self.next_stage.stages if self.next_stage else ()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        groups = [
            {
                "group": g.group,
                "kind": g.kind,
                "width": g.width,
                "keep": list(g.keep),
                "transform": None if g.transform is None else g.transform.to_text(),
            }
            for g in self.groups
        ]
        values = {
            "score": self.score,
            "fields": self.fields.to_dict(),
            "rows": [row_plan.to_dict() for row_plan in self.rows],
            "groups": groups,
            "loosening": self.projection_plan.to_dict(),
        }
        return {**values, "then": self.next_stage.to_dict()} if self.next_stage else values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`."""
        groups = (
            GroupPlan(
                group=g["group"],
                kind=g["kind"],
                width=int(g["width"]),
                keep=tuple(map(int, g["keep"])),
                transform=Transform.from_text(g["transform"]) if g.get("transform") else None,
            )
            for g in values["groups"]
        )
        return cls(
            score=str(values["score"]),
            groups=tuple(groups),
            projection_plan=ProjectionPlan.from_dict(values.get("loosening", {})),
            fields=FieldPlan.from_dict(values.get("fields", {})),
            rows=tuple(RowPlan.from_dict(row_plan) for row_plan in values.get("rows", ())),
            next_stage=cls.from_dict(values["then"]) if values.get("then") else None,
        )

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=1))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a plan from JSON. Raises `InputFileError` where the file is no plan."""
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InputFileError(f"The plan {path} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputFileError(
                f"{path} is no plan; give the plan.json of a bundle, or the output of --plan-only."
            ) from error

    @property
    def transforms(self) -> dict[str, Transform]:
        """The transforms by the names of their groups."""
        return {g.group: g.transform for g in self.groups if g.transform is not None}

    def removed(self, analysis: Analysis) -> frozenset[int]:
        """Return the removed channels.

        Raises `PruningError` where the plan was made for another program.
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
                    f"The plan must keep between {minimum} and {group_plan.width} channels of '{group_plan.group}'."
                )
            positions = set(group_plan.keep)
            removed |= {c.identity for position, c in enumerate(group.channels) if position not in positions}
        return frozenset(removed)
