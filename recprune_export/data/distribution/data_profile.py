"""`DataProfile`: distributions of the ids, numbers and labels of rows, small enough to be saved in a bundle.

Cells are chosen on training rows and counted on held-out rows: on training rows the frequency of the most frequent ids is overestimated,
and unknown ids do not occur.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np

from recprune_export.codec import DictMixin, JsonForm, ToDictMixin, decode, encode
from recprune_export.data.distribution.stability_index import MAJOR, psi, psi_interval, psi_null_quantile
from recprune_export.evidence import Estimate, Verdict, judge_at_most
from recprune_export.number_formats import format_estimate

MAX_LISTED_IDS = 1000  # the most frequent ids
HASH_CELLS = 8  # cells for all other ids, by hash
DECILES = np.arange(1, 10) / 10


@dataclass(frozen=True)
class FieldValues:
    """One field of N rows: ids or numbers of shape [N] or [N, several]; NaN is a missing number.

    `padding` is the id of padding, `unknown` the id of unknown values, if the field has them.
    """

    name: str
    values: np.ndarray
    ids: bool
    padding: int | None = None
    unknown: int | None = None

    @property
    def flat(self) -> np.ndarray:
        """All values except padding and missing numbers, [values]."""
        values = self.values.reshape(-1)
        if not self.ids:
            numbers = values.astype(np.float64)
            return numbers[~np.isnan(numbers)]
        values = values.astype(np.int64)
        return values if self.padding is None else values[values != self.padding]


@dataclass(frozen=True)
class IdCells:
    """`listed[r]` are the ids of rank cell r; all other ids fall into `HASH_CELLS` cells by hash, `unknown` into the last cell."""

    listed: tuple[tuple[int, ...], ...]

    @classmethod
    def choose(cls, column: FieldValues) -> Self:
        """Divide the most frequent ids into cells of about equal share; a very frequent id has a separate cell."""
        ranks = 20
        known = column.flat if column.unknown is None else column.flat[column.flat != column.unknown]
        ids, counts = np.unique(known, return_counts=True)
        order = np.lexsort((ids, -counts))[:MAX_LISTED_IDS]
        cells: list[tuple[int, ...]] = []
        cell: list[int] = []
        share, filled = len(known) / ranks, 0
        for index in order:
            cell.append(int(ids[index]))
            filled += int(counts[index])
            if filled >= share:
                cells.append(tuple(cell))
                cell, filled = [], 0
        return cls(tuple([*cells, tuple(cell)] if cell else cells))

    def count(self, column: FieldValues) -> np.ndarray:
        """Return the number of values in each cell, [ranks + HASH_CELLS + 1]."""
        values = column.flat
        listed = np.array([i for cell in self.listed for i in cell], dtype=np.int64)
        rank = np.repeat(np.arange(len(self.listed)), [len(cell) for cell in self.listed])
        order = listed.argsort()
        # Multiplicative hashing: Knuth, "The Art of Computer Programming", volume 3, section 6.4.
        cells = len(self.listed) + (((values * 2654435761) >> 16) % HASH_CELLS)
        if len(listed):
            index = np.searchsorted(listed[order], values).clip(max=len(listed) - 1)
            is_listed = listed[order][index] == values
            cells = np.where(is_listed, rank[order][index], cells)
        if column.unknown is not None:
            cells = np.where(values == column.unknown, len(self.listed) + HASH_CELLS, cells)
        return np.bincount(cells, minlength=len(self.listed) + HASH_CELLS + 1)


@dataclass(frozen=True)
class NumberCells:
    """The edges between deciles; a value at which several edges coincide has a separate cell."""

    edges: tuple[float, ...]

    @classmethod
    def choose(cls, column: FieldValues) -> Self:
        """Compute the deciles of a column."""
        numbers = column.flat if len(column.flat) else np.zeros(1)  # all of them are missing
        edges, multiplicity = np.unique(np.quantile(numbers, DECILES), return_counts=True)
        return cls(tuple(np.union1d(edges, np.nextafter(edges[multiplicity > 1], np.inf)).tolist()))

    def count(self, column: FieldValues) -> np.ndarray:
        """Return the number of values between the edges, [edges + 1]; a value equal to an edge lies above it."""
        cells = np.searchsorted(np.array(self.edges), column.flat, side="right")
        return np.bincount(cells, minlength=len(self.edges) + 1)


def _encode_cells(cells: IdCells | NumberCells) -> Any:
    return encode(cells.listed if isinstance(cells, IdCells) else cells.edges)


def _decode_cells(values: Any) -> IdCells | NumberCells:
    """Cells of ids are lists, edges are numbers, of which there is at least one."""
    if all(isinstance(cell, list) for cell in values):
        return decode(IdCells, {"listed": values})
    return decode(NumberCells, {"edges": values})


@dataclass(frozen=True)
class FieldProfile(DictMixin):
    """The cells of one field with the number of values in each; for numbers also mean and standard deviation.

    `unknown` is the fraction of unknown values, None if the field has no id for them.
    """

    ENCODED = ("name", "cells", "counts", "unknown", "mean", "deviation", "kind")

    name: str
    cells: Annotated[IdCells | NumberCells, JsonForm(_encode_cells, _decode_cells)]
    counts: tuple[int, ...]
    unknown: float | None = None
    mean: float | None = None
    deviation: float | None = None

    @property
    def kind(self) -> Literal["ids", "numbers"]:
        """The content of the cells."""
        return "ids" if isinstance(self.cells, IdCells) else "numbers"

    @classmethod
    def fit(cls, reference: FieldValues, held_out: FieldValues) -> Self:
        """Choose cells on the reference values and count the held-out values of the same field."""
        cells = IdCells.choose(reference) if reference.ids else NumberCells.choose(reference)
        counts = tuple(cells.count(held_out).tolist())
        if reference.ids:
            return cls(reference.name, cells, counts, unknown_share(held_out))
        if not len(held_out.flat):
            return cls(reference.name, cells, counts)
        return cls(reference.name, cells, counts, None, float(held_out.flat.mean()), float(held_out.flat.std()))


@dataclass(frozen=True)
class Drift(ToDictMixin):
    """The drift of a field: the population stability index of its samples, and its 95 % quantile without drift, `chance`.

    `estimate` is the index of the distributions, without its expected value under chance, with its 95 % interval. `before` and `now` are
    shares of unknown ids, or means of numbers; None if the field has neither.
    """

    ENCODED = ("name", "kind", "psi", "chance", "estimate", "before", "now", "verdict")

    name: str
    kind: str
    psi: float
    chance: float
    estimate: Estimate
    before: float | None
    now: float | None

    @property
    def verdict(self) -> Verdict:
        """The verdict on the claim that there is no major shift."""
        return judge_at_most(self.estimate, MAJOR)

    @property
    def major(self) -> bool:
        """Whether the shift is significantly major."""
        return self.verdict is Verdict.FAILS

    def format_index(self) -> str:
        """Format the index beyond chance with its interval."""
        return format_estimate(self.estimate, ".3f")


@dataclass(frozen=True)
class DataProfile(DictMixin):
    """Profiles of the fields of the rows that an artifact was tuned on, and the number of its test rows."""

    ENCODED = ("tested", "fields")

    fields: tuple[FieldProfile, ...]
    tested: int

    @classmethod
    def fit(cls, reference: Sequence[FieldValues], held_out: Sequence[FieldValues], tested: int) -> Self:
        """Profile columns: cells from `reference`, counts from `held_out`, in the same order of fields.

        A numeric field, such as a label, that is missing in all rows of one of the two has no profile.
        """
        pairs = [(c, d) for c, d in zip(reference, held_out, strict=True) if c.ids or (len(c.flat) and len(d.flat))]
        return cls(tuple(FieldProfile.fit(c, d) for c, d in pairs), tested)

    def drifts(self, columns: Sequence[FieldValues]) -> tuple[Drift, ...]:
        """Compare rows with the profile, for each common field that is not empty."""
        known = {column.name: column for column in columns}
        return tuple(_drift(f, known[f.name]) for f in self.fields if f.name in known and len(known[f.name].flat))


def unknown_share(column: FieldValues) -> float | None:
    """Return the fraction of unknown ids; None if the field has no id for them."""
    if column.unknown is None or not len(column.flat):
        return None
    return float((column.flat == column.unknown).mean())


def _drift(field: FieldProfile, column: FieldValues) -> Drift:
    before, now = np.array(field.counts), field.cells.count(column)
    shift = field.mean, None if column.ids else float(column.flat.mean())
    if isinstance(field.cells, IdCells):
        shift = field.unknown, unknown_share(column)
        if shift[0] is not None and shift[1] is not None and shift[1] < shift[0]:
            before[-1] = now[-1] = 0  # fewer unknown ids are not a problem; they occur if the new rows include old ones
    indices = psi(before, now), psi_null_quantile(before, now), psi_interval(before, now)
    return Drift(field.name, field.kind, *indices, *shift)
