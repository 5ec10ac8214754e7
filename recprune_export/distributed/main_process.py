"""Work that only the first process does, and whose result or error the others receive: files, measurements, decisions that depend on
time."""

import contextlib
import io
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from recprune_export.distributed.lost_process import describe_failure, read_failure
from recprune_export.distributed.ranks import current_run, is_divided, is_main, work_alone

T = TypeVar("T")
FINISHED = "finished"  # key of the store: the first process has done everything
_WAIT_SECONDS = 0.02
_calls = 0


class LeaveToMain(SystemExit):
    """Ends the work of a process when only the first one has work left, for which it then waits."""

    def __init__(self) -> None:
        super().__init__(0)


def leave_to_main() -> None:
    """Continue only in the first process. The others raise `LeaveToMain`, which frees their memory."""
    if not is_main():
        raise LeaveToMain
    work_alone(True)


def call_on_main(function: Callable[[], T], *, share: bool = True) -> T:
    """Return the result of `function` in the first process, which is the only one to call it; it may take any time.

    The others get a copy, which must be picklable, or None without `share`. An error is raised in all of them. Processes of a run trust
    each other, as in `torch.distributed`.
    """
    if not is_divided():
        return function()
    global _calls
    _calls += 1
    key, store = f"main/{_calls}", current_run().store
    if is_main():
        work_alone(True)
        try:
            result = function()
        except Exception as error:
            store.set(key, pickle.dumps(_describe(error)))
            raise
        finally:
            work_alone(False)
        store.set(key, pickle.dumps((None, result if share else None)))
        return result
    wait_for_key(store, key)
    described, shared = pickle.loads(store.get(key))
    if described is not None:
        raise _restore(*described)
    result_of_main: T = shared
    return result_of_main


def meet() -> None:
    """Wait until all processes of the run reach this call. Raises `LostProcess` if one has failed."""
    if not is_divided():
        return
    global _calls
    _calls += 1
    run = current_run()
    run.store.set(f"meet/{_calls}/{run.rank}", b"")
    for number in range(run.world_size):
        wait_for_key(run.store, f"meet/{_calls}/{number}")


@contextlib.contextmanager
def enter_on_main(make: Callable[[], AbstractContextManager[T]], otherwise: T) -> Iterator[T]:
    """Enter a context only in the first process, such as a lock; the others get `otherwise`, or the error that entering it raised."""
    with contextlib.ExitStack() as stack:
        value = call_on_main(lambda: stack.enter_context(make()), share=False)
        yield value if is_main() else otherwise


def wait_for_key(store: Any, key: str) -> None:
    """Wait without a limit until a process has set `key`.

    Raises `LostProcess` if a process has failed meanwhile.
    """
    waits = 0
    while not store.check([key]):
        time.sleep(_WAIT_SECONDS)
        waits += 1
        failure = read_failure(store) if waits % 10 == 0 else None
        if failure is not None:
            raise describe_failure(failure)


def _describe(error: Exception) -> tuple[Any, None]:
    """Return the class, arguments and attributes of an error, as far as they can be pickled."""
    described = (type(error), error.args, error.__dict__)
    try:
        pickle.dump(described, io.BytesIO())
    except Exception:
        described = (RuntimeError, (str(error),), {})
    return described, None


def _restore(kind: type[Exception], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    error = kind.__new__(kind, *arguments)  # constructors may take other arguments
    error.args = arguments
    error.__dict__.update(attributes)
    return error
