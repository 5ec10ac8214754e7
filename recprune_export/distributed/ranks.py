"""The rank of this process and the number of processes of the run; one process alone has rank 0 of 1.

`torch.distributed` is imported only by a run of several processes.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Run:
    """The processes of a run, numbered from 0; `store` is their common key-value store (`torch.distributed.Store`)."""

    rank: int
    world_size: int
    store: Any = None


_ONE_PROCESS = Run(0, 1)
_run = _ONE_PROCESS
_is_alone = False


def rank() -> int:
    """Return the number of this process, 0 for the one that writes and prints."""
    return _run.rank


def world_size() -> int:
    """Return the number of processes of this run; 1 while the first one works without the others."""
    return 1 if _is_alone else _run.world_size


def is_main() -> bool:
    """Return whether this process is the one that writes, prints, exports and times."""
    return _run.rank == 0


def is_divided() -> bool:
    """Return whether several processes work together."""
    return world_size() > 1


def current_run() -> Run:
    """Return the run of this process."""
    return _run


def set_run(run: Run | None) -> None:
    """Make this process one of `run`; None: one process alone."""
    global _run
    _run = _ONE_PROCESS if run is None else run
    work_alone(False)


def work_alone(alone: bool) -> bool:
    """Make the first process work without the others, like a single process, or with them again; return the previous state."""
    global _is_alone
    before, _is_alone = _is_alone, alone
    return before


def started_by_torchrun(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether torchrun started this process as one of several.

    Containers of some schedulers set RANK and WORLD_SIZE for every program, so these alone do not count.

    >>> started_by_torchrun({"RANK": "0", "WORLD_SIZE": "2"})
    False
    """
    return "TORCHELASTIC_RUN_ID" in environment and int(environment.get("WORLD_SIZE", "1")) > 1


def on_one_host(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether all processes of this run are on one machine, according to the environment of torchrun."""
    return int(environment.get("LOCAL_WORLD_SIZE", "0")) == _run.world_size


def describe_rank(number: int) -> str:
    """Return the name of a process in messages.

    >>> describe_rank(0)
    'Process 1 of 1'
    """
    return f"Process {number + 1} of {_run.world_size}"


def host_name() -> str:
    """Return the name of this machine."""
    return socket.gethostname()
