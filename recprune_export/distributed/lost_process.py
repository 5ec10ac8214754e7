"""`LostProcess`: the error raised when another process of the run has failed or ended, with the message of that process."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recprune_export.distributed.ranks import Run, current_run, describe_rank, host_name
from recprune_export.errors import RecpruneError

FAILURE = "failure"  # key of the store: the first failure of the run
SECONDS_FOR_MESSAGE = 2.0  # for a failed process to report the reason, before the others report that it ended
_ending = False


class LostProcess(RecpruneError):
    """Another process of the run failed or ended, so this one ends; the exit code is that of the other."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Failure:
    """Why a process failed: its rank, its exit code, and its message, which is empty if that process printed it."""

    rank: int
    exit_code: int
    message: str


def post_failure(store: Any, failure: Failure) -> None:
    """Notify the other processes; the first failure counts. A missing store is ignored."""
    with suppress(Exception):
        store.compare_set(FAILURE, "", json.dumps([failure.rank, failure.exit_code, failure.message]))


def read_failure(store: Any) -> Failure | None:
    """Return the failure that a process reported, if any."""
    with suppress(Exception):
        if store.check([FAILURE]):
            return Failure(*json.loads(store.get(FAILURE)))
    return None


def register_process(run: Run) -> None:
    """Register the host and the id of this process, by which others see whether it still runs."""
    run.store.set(f"process/{run.rank}", json.dumps([host_name(), os.getpid()]))


def find_ended_ranks(processes: Mapping[int, tuple[str, int]]) -> list[int]:
    """Return the ranks among `processes` (rank -> host, process id) on this host that have ended."""
    here = host_name()
    return [number for number, (host, pid) in processes.items() if host == here and not _runs(pid)]


def read_processes(run: Run) -> dict[int, tuple[str, int]]:
    """Return host and process id of the other processes, as far as they have registered."""
    processes: dict[int, tuple[str, int]] = {}
    with suppress(Exception):
        for number in range(run.world_size):
            if number != run.rank and run.store.check([f"process/{number}"]):
                host, pid = json.loads(run.store.get(f"process/{number}"))
                processes[number] = (host, pid)
    return processes


def speaks_for_all(run: Run) -> bool:
    """Return whether this process prints the message of a failure: the first one does, or the second if the first ended without a
    message."""
    if run.rank != 1:
        return run.rank == 0
    failure = read_failure(run.store)
    return 0 in find_ended_ranks(read_processes(run)) and (failure is None or failure.rank != 0)


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Turn the error of a collective, raised because another process ended, into `LostProcess`."""
    try:
        yield
    except RuntimeError as error:
        raise explain_loss(error) from error


def explain_loss(error: BaseException | None = None) -> LostProcess:
    """Return the error with the failed process and the reason, as far as it can be determined."""
    global _ending
    _ending = True
    run = current_run()
    until = time.monotonic() + SECONDS_FOR_MESSAGE
    processes = read_processes(run)
    while time.monotonic() < until:
        failure = read_failure(run.store)
        if failure is not None and failure.rank != run.rank:
            return describe_failure(failure)
        time.sleep(0.05)
    ended = find_ended_ranks(processes)
    return describe_ended(ended, error)


def is_ending() -> bool:
    """Return whether this process is already ending because of another one."""
    return _ending


def describe_failure(failure: Failure) -> LostProcess:
    """Return the error of a process that reported why it failed."""
    return LostProcess(f"{describe_rank(failure.rank)} failed: {failure.message}", failure.exit_code)


def describe_ended(ended: list[int], error: BaseException | None = None) -> LostProcess:
    """Return the error of processes that ended without a message: `ended`, or others, on machines that cannot be seen."""
    if ended:
        who, verb = describe_rank(ended[0]), "was terminated, or ran out of memory"
    else:
        who, verb = "Another process of this run", "no longer responds"
        reason = "" if error is None else next(iter(str(error).splitlines()), "")[:160]
        verb += f" ({reason})" if reason else ""
    return LostProcess(f"{who} {verb}, so the run ended; existing files were not changed.")


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        if Path("/proc/self").exists():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    return state not in ("Z", "X")
