"""The tables of `formats.py`: quality, size and speed of each format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from typing import Any

import numpy as np
from seeds import mean_of

from recprune_export.evidence import Estimate
from recprune_export.quantization import Mode
from recprune_export.validation import interval_of_few


@dataclass(frozen=True)
class Method:
    """Settings that differ from the default, and the modes in which its file is quantized as well.

    `layers` says that tables stay whole.
    """

    wishes: Mapping[str, Any] = field(default_factory=dict)
    bits: tuple[Mode, ...] = ()
    layers: bool = False


@dataclass(frozen=True)
class Measured:
    """One file of one seed of one case: its metric on the test rows and that of the dense file, bytes, what is gone.

    `tables_gone` and `rest_gone` are fractions of the
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
    value: float
    bytes: int
    tables_gone: float
    rest_gone: float
    file: str
    note: str
    seconds: float


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
        """A table and the notes for each case."""
        return "\n".join(self._of_case(case) for case in dict.fromkeys(row.case for row in self.rows))

    def figures(self) -> dict[str, dict[str, Any]]:
        """By case, sparsity, method and bits: change of the metric, bytes, and times faster by batch."""
        found = {}
        for case, sparsity, method, bits in dict.fromkeys((r.case, r.sparsity, r.method, r.bits) for r in self.rows):
            own = self._find(case, sparsity, method, bits)
            found[f"{case} {sparsity:g} {method} {bits}"] = {
                "notes": list(dict.fromkeys(row.note for row in own if row.note)),
                "change": vars(mean_of([_change(row) for row in own])),
                "bytes": float(np.mean([row.bytes for row in own])),
                "times faster": {batch: vars(self._faster(own, batch)) for batch in self._batches(own)},
            }
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
        parts += [self._line(self._find(case, *key), batches) for key in self._order(own)]
        return "\n".join([*parts, "", *_notes(own), ""])

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

    def _faster(self, rows: Sequence[Measured], batch: str) -> Estimate:
        """Over all seatings of all seeds: the middle mean, and its 95 % interval."""
        speeds = [(self._speeds[row.case, row.seed], row.file) for row in rows if (row.case, row.seed) in self._speeds]
        logarithms = [value for speed, file in speeds for value in speed.faster[file][batch]]
        return interval_of_few(logarithms, confidence=0.95).apply(exp)

    def _batches(self, rows: Sequence[Measured]) -> list[str]:
        keys = dict.fromkeys((row.case, row.seed) for row in rows)
        return list(next((self._speeds[key].dense for key in keys if key in self._speeds), {}))

    def _find(self, case: str, sparsity: float, method: str, bits: str) -> list[Measured]:
        return [r for r in self.rows if (r.case, r.sparsity, r.method, r.bits) == (case, sparsity, method, bits)]


def _change(row: Measured) -> float:
    return row.value - row.dense


def _notes(rows: Sequence[Measured]) -> list[str]:
    """What was said of the files of the first seed that has them."""
    told: dict[tuple[float, str, str], str] = {}
    for row in rows:
        if row.note:
            told.setdefault((row.sparsity, row.method, row.bits), row.note)
    return [f"- {sparsity:g} {method}, {bits}: {note}" for (sparsity, method, bits), note in sorted(told.items())]
