"""The tables of `formats.py`: quality, size and speed of each format, and tiles beside zeros and beside channels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from seeds import mean_of

from recprune_export.quantisation.plan import Mode
from recprune_export.validation.statistics import Estimate, interval_of_few


@dataclass(frozen=True)
class Method:
    """Settings that differ from the default, and the modes in which its file is quantised as well.

    `zeros` and `channels` name what tiles are held against: the same share of removed channels with zeros one by one, and
    channels alone. `layers` says that tables stay whole; `also` are sparsities beside those that are asked for.
    """

    wishes: Mapping[str, Any] = field(default_factory=dict)
    bits: tuple[Mode, ...] = ()
    zeros: str = ""
    channels: str = ""
    layers: bool = False
    also: tuple[float, ...] = ()


@dataclass(frozen=True)
class Measured:
    """One file of one seed of one case: its metric on the test rows and that of the dense file, bytes, what is gone.

    `value` is None where nothing was made, for the reason in `note`. `tables_gone` and `rest_gone` are fractions of the
    dense parameters; `file` is a path in the cache.
    """

    case: str
    seed: int
    method: str
    sparsity: float
    bits: str
    metric: str
    dense: float
    dense_bytes: int
    value: float | None = None
    bytes: int = 0
    tables_gone: float = 0.0
    rest_gone: float = 0.0
    file: str = ""
    note: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Speed:
    """The files of one seed of one case, all in turns in one process, each seating with new sessions.

    `faster[file][batch]` holds for each seating the logarithm of how many times faster than the dense file it was;
    `dense` the milliseconds of that one.
    """

    case: str
    seed: int
    threads: int
    cpu: str
    dense: Mapping[str, float]
    faster: Mapping[str, Mapping[str, Sequence[float]]]


class Tables:
    """All that was measured of the `methods`, as Markdown and as figures."""

    def __init__(self, methods: Mapping[str, Method], rows: Sequence[Measured], speeds: Sequence[Speed]) -> None:
        self._methods, self.rows = methods, rows
        self._speeds = {(speed.case, speed.seed): speed for speed in speeds}

    def as_markdown(self) -> str:
        """Two tables and the notes for each case."""
        return "\n".join(self._of_case(case) for case in dict.fromkeys(row.case for row in self.rows))

    def figures(self) -> dict[str, dict[str, Any]]:
        """By case, sparsity, method and bits: change of the metric, bytes, and times faster by batch."""
        found = {}
        for case, sparsity, method, bits in dict.fromkeys((r.case, r.sparsity, r.method, r.bits) for r in self.rows):
            own = self._find(case, sparsity, method, bits)
            told: dict[str, Any] = {"notes": list(dict.fromkeys(row.note for row in own if row.note))}
            if made := [row for row in own if row.value is not None]:
                told |= {
                    "change": vars(mean_of([_change(row) for row in made])),
                    "bytes": float(np.mean([row.bytes for row in made])),
                    "times faster": {batch: vars(self._faster(made, batch)) for batch in self._batches(made)},
                }
            found[f"{case} {sparsity:g} {method} {bits}"] = told
        return found

    def _of_case(self, case: str) -> str:
        own = [row for row in self.rows if row.case == case]
        batches = self._batches(own)
        seeds = {row.seed: row for row in own}.values()
        dense = np.array([row.dense for row in seeds])
        spread = f" ± {dense.std(ddof=1):.4f}" if len(dense) > 1 else ""
        slow = [self._speeds[case, row.seed].dense for row in seeds if (case, row.seed) in self._speeds]
        times = ", ".join(f"{np.mean([each[batch] for each in slow]):.3f} ms at batch {batch}" for batch in batches)
        kilobytes = np.mean([row.dense_bytes for row in seeds]) / 1e3
        parts = [
            f"### {case}\n",
            f"Dense ONNX: {own[0].metric} {dense.mean():.4f}{spread}, {len(dense)} seed{'s' if len(dense) > 1 else ''}; "
            f"{kilobytes:,.0f} kB; {times}.\n",
            f"| sparsity | | bits | change of the {own[0].metric} | tables, rest gone | kB | "
            + " | ".join(f"batch {batch}" for batch in batches)
            + " |",
            "|---|---|---|---|---|---:|" + "---:|" * len(batches),
        ]
        for sparsity, method, bits in self._order(own):
            if made := [row for row in self._find(case, sparsity, method, bits) if row.value is not None]:
                parts.append(self._line(made, batches))
        return "\n".join([*parts, "", *self._beside(case), *_notes(own), ""])

    def _order(self, rows: Sequence[Measured]) -> list[tuple[float, str, str]]:
        names = list(self._methods)
        keys = dict.fromkeys((row.sparsity, row.method, row.bits) for row in rows)
        return sorted(keys, key=lambda key: (key[0], names.index(key[1])))

    def _line(self, rows: Sequence[Measured], batches: Sequence[str]) -> str:
        first = rows[0]
        gone = f"{np.mean([r.tables_gone for r in rows]):.1%}, {np.mean([r.rest_gone for r in rows]):.1%}"
        cells = [f"{first.sparsity:g}", first.method, first.bits, str(mean_of([_change(row) for row in rows])), gone]
        cells.append(f"{np.mean([row.bytes for row in rows]) / 1e3:,.0f}")
        for batch in batches:
            ratio = self._faster(rows, batch)
            cells.append(f"{ratio.estimate:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}]")
        return f"| {' | '.join(cells)} |"

    def _beside(self, case: str) -> list[str]:
        """Tiles against zeros and channels, at equal zeros and at equal latency."""
        lines = []
        for sparsity, name, bits in self._order([row for row in self.rows if row.case == case]):
            method = self._methods[name]
            own = self._made(case, sparsity, name, bits)
            if not method.zeros or not own:
                continue
            cells = [
                self._paired(own, self._made(case, sparsity, other, bits)) for other in (method.zeros, method.channels)
            ]
            lines.append(f"| {sparsity:g} | {name} | {' | '.join([*cells, *self._as_fast(own, method.channels)])} |")
        if not lines:
            return []
        head = "| sparsity | tiles, less | zeros one by one, as many | channels alone, as many | channels alone, as fast | which are |"
        return [head, "|---|---|---|---|---|---|", *lines, ""]

    def _as_fast(self, own: Sequence[Measured], channels: str) -> tuple[str, str]:
        """Beside those channels which are nearest to the time of `own` among those that are no slower."""
        known = {row.sparsity for row in self.rows if (row.case, row.method) == (own[0].case, channels)}
        others = [self._made(own[0].case, sparsity, channels, own[0].bits) for sparsity in sorted(known)]
        timed = [(self._overall(other), other) for other in others if other]
        fastest = self._overall(own)
        enough = sorted(pair for pair in timed if pair[0] >= fastest)
        if not enough:
            return ("none is" if timed else ""), ""
        ratio, nearest = enough[0]
        return self._paired(own, nearest), f"{ratio / fastest:.2f}× as fast, at {nearest[0].sparsity:g}"

    def _paired(self, own: Sequence[Measured], other: Sequence[Measured]) -> str:
        theirs = {row.seed: _change(row) for row in other}
        less = [_change(row) - theirs[row.seed] for row in own if row.seed in theirs]
        return str(mean_of(less)) if less else ""

    def _overall(self, rows: Sequence[Measured]) -> float:
        """Times faster than dense, the geometric mean over batch sizes."""
        return float(np.exp(np.mean([np.log(self._faster(rows, batch).estimate) for batch in self._batches(rows)])))

    def _faster(self, rows: Sequence[Measured], batch: str) -> Estimate:
        """Over all seatings of all seeds: the middle mean, and its 95 % interval."""
        speeds = [(self._speeds[row.case, row.seed], row.file) for row in rows if (row.case, row.seed) in self._speeds]
        logarithms = [value for speed, file in speeds for value in speed.faster[file][batch]]
        found = interval_of_few(logarithms, confidence=0.95)
        return Estimate(*np.exp([found.estimate, found.low, found.high]).tolist())

    def _batches(self, rows: Sequence[Measured]) -> list[str]:
        keys = dict.fromkeys((row.case, row.seed) for row in rows)
        return list(next((self._speeds[key].dense for key in keys if key in self._speeds), {}))

    def _find(self, case: str, sparsity: float, method: str, bits: str) -> list[Measured]:
        return [r for r in self.rows if (r.case, r.sparsity, r.method, r.bits) == (case, sparsity, method, bits)]

    def _made(self, case: str, sparsity: float, method: str, bits: str) -> list[Measured]:
        return [row for row in self._find(case, sparsity, method, bits) if row.value is not None]


def _change(row: Measured) -> float:
    assert row.value is not None
    return row.value - row.dense


def _notes(rows: Sequence[Measured]) -> list[str]:
    """What was said of the files of the first seed that has them."""
    told: dict[tuple[float, str, str], str] = {}
    for row in rows:
        if row.note:
            told.setdefault((row.sparsity, row.method, row.bits), row.note)
    return [f"- {sparsity:g} {method}, {bits}: {note}" for (sparsity, method, bits), note in sorted(told.items())]
