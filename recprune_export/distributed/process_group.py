"""`distributed_run`: make this process part of a run of torchrun, from joining the others to ending together with them."""

import contextlib
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NoReturn

from recprune_export.distributed.lost_process import (
    Failure,
    LostProcess,
    explain_loss,
    is_ending,
    post_failure,
    register_process,
    speaks_for_all,
)
from recprune_export.distributed.main_process import FINISHED, wait_for_key
from recprune_export.distributed.ranks import Run, set_run
from recprune_export.distributed.watch import Watch
from recprune_export.progress import quiet

COLLECTIVE_MINUTES, SECONDS_AFTER_FAILURE = 30, 5
INTERRUPTED = 130


@contextlib.contextmanager
def joined_process_group(number: int, processes: int, address: str = "env://") -> Iterator[Run]:
    """Inside the block, be process `number` of `processes`, which connect through `address`, by default that in torchrun's environment.

    Tensors on the CPU use gloo; if each process has a separate GPU, they use NCCL, which is untested.
    """
    import torch
    import torch.distributed as dist

    local = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    backend = "nccl" if torch.cuda.is_available() and torch.cuda.device_count() >= local else "gloo"
    dist.init_process_group(
        backend,
        init_method=address,
        rank=number,
        world_size=processes,
        timeout=timedelta(minutes=COLLECTIVE_MINUTES),
    )
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store: Any = dist.distributed_c10d._get_default_store()
    run = Run(number, processes, store.clone())
    set_run(run)
    try:
        register_process(run)
        yield run
    finally:
        set_run(None)
        with contextlib.suppress(Exception):  # a process group whose other processes have ended
            dist.destroy_process_group()


@contextlib.contextmanager
def distributed_run() -> Iterator[None]:
    """Run a command inside the block as one of several processes, which end together.

    Only the first process writes to the standard streams; a message of another one that fails is printed by the first. If a process fails
    or ends, all end, with its exit code and one message.
    """
    number, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of sockets of processes that have ended
    messages = _Messages()
    if number > 0:
        sys.stdout, sys.stderr = io.StringIO(), messages
    _raise_on_termination()
    with joined_process_group(number, processes) as run, Watch(run):
        store = run.store
        try:
            with quiet(number > 0):
                yield
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except LostProcess as error:
            code = error.exit_code
            sys.stderr.write(f"Error: {error}\n")
        except KeyboardInterrupt:
            code = INTERRUPTED
            sys.stderr.write("Interrupted; no incomplete file was left.\n")
        except BaseException as error:
            post_failure(store, Failure(number, 1, describe_fault(error)))
            traceback.print_exc(file=sys.__stderr__)
            code = 1
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if code:
            post_failure(store, Failure(number, code, messages.last))
            if number > 0 and messages.last and speaks_for_all(run):
                sys.__stderr__.write(f"Error: {messages.last}\n")  # type: ignore[union-attr]
        elif number > 0:
            code = _wait_for_main(store)
    # The process group is closed, so that others do not wait for this process in a collective.
    _end_after_main(store, number, code)


def _wait_for_main(store: Any) -> int:
    """Wait until the first process has finished; return the exit code."""
    try:
        wait_for_key(store, FINISHED)
    except LostProcess as error:
        return error.exit_code
    return 0


def _end_after_main(store: Any, number: int, code: int) -> NoReturn:
    """End this process, after the first one if that failed: torchrun ends all processes when one has failed."""
    with contextlib.suppress(Exception):
        if number == 0:
            store.set(FINISHED, "1")
        until = time.monotonic() + SECONDS_AFTER_FAILURE
        while number > 0 and code and time.monotonic() < until and not store.check([FINISHED]):
            time.sleep(0.05)
    sys.stdout.flush()
    sys.exit(code)


class _Messages(io.StringIO):
    """The output of a process other than the first on standard error."""

    @property
    def last(self) -> str:
        """The last error, without the word before it."""
        text = self.getvalue()
        return text.rpartition("Error: ")[2].strip() if "Error: " in text else text.strip()[-500:]


def describe_fault(error: BaseException) -> str:
    """Return the class and the first line of an error that is not a message for the user."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _raise_on_termination() -> None:
    """Let SIGTERM, by which torchrun ends the processes when one of them has ended, end this one with its message."""

    def end(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the cleaning up
        if not is_ending():
            raise explain_loss()

    signal.signal(signal.SIGTERM, end)
