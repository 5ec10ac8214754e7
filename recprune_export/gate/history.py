"""A file with one row per check: its measurements and its commit. JSON Lines, append-only."""

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path

from recprune_export.codec import DictMixin
from recprune_export.errors import UsageError
from recprune_export.evidence import Verdict
from recprune_export.gate._check import Check
from recprune_export.provenance import find_commit

COMMIT_VARIABLES = ("GITHUB_SHA", "CI_COMMIT_SHA")  # of GitHub Actions and GitLab


@dataclass(frozen=True)
class RecordedFigure(DictMixin):
    """The compared values of one gate, and its verdict."""

    base: float
    new: float
    unit: str
    verdict: Verdict


@dataclass(frozen=True)
class CheckRecord(DictMixin):
    """One check. `time` is that of its end, in UTC; `commit` is None if neither the CI nor git states one."""

    time: str
    commit: str | None
    new: str
    base: str
    verdict: Verdict
    figures: Mapping[str, RecordedFigure]


def make_record(check: Check) -> CheckRecord:
    """Return the row of a finished check, with the values of all gates that compared two numbers."""
    figures = {
        finding.gate: RecordedFigure(float(finding.base), float(finding.new), finding.unit, finding.verdict)
        for finding in check.findings
        if finding.base is not None and finding.new is not None and isfinite(finding.base) and isfinite(finding.new)
    }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return CheckRecord(now, find_commit_of_run(), check.new, check.base, check.verdict, figures)


def find_commit_of_run() -> str | None:
    """Return the commit of the CI run, otherwise the commit that is checked out; None without either."""
    stated = next((os.environ[name] for name in COMMIT_VARIABLES if os.environ.get(name)), None)
    if stated is not None:
        return stated
    found = find_commit(Path.cwd())
    return None if found is None else str(found["commit"])


def append_record(path: Path, record: CheckRecord) -> None:
    """Append a row completely or not at all; several processes may append to one file.

    Raises `UsageError` if the file cannot be written.
    """
    line = json.dumps(record.to_dict(), separators=(",", ":")).encode("ascii") + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            end = os.fstat(descriptor).st_size
            if end and os.pread(descriptor, 1, end - 1) != b"\n":  # the last line was edited by hand
                line = b"\n" + line
            try:
                if os.write(descriptor, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UsageError(f"--history cannot be written to {path}: {error.strerror}.") from error


def read_history(path: Path) -> tuple[CheckRecord, ...]:
    """Read all rows, the oldest first; empty for a file that does not exist yet.

    Raises `UsageError`, with the number of the line, for a file with other content.
    """
    if not path.exists():
        return ()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--history {path} is not a text file: give another file.") from error
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(CheckRecord.from_dict(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"--history {path}: line {number} is not the result of a check, so nothing is appended: remove the "
                "line, or give another file."
            ) from error
    return tuple(records)
