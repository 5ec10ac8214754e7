"""A few processes of one run on loopback, which tests give functions to call together; they live for a test session."""

import multiprocessing
import queue
import socket
import traceback
from collections.abc import Callable
from typing import Any

SECONDS = 60  # that a call may take


class Processes:
    """Processes of a run; a call that fails or takes too long ends them, and the next one starts others."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._running: list[Any] = []

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what `function`, of a module, returns in each process, by rank."""
        if not self._running:
            self._start()
        for inbox in self._inboxes:
            inbox.put((function, arguments))
        results: dict[int, Any] = {}
        failures: list[str] = []
        try:
            for _ in range(self.count):
                number, error, result = self._outbox.get(timeout=2 if failures else SECONDS)
                results[number] = result
                if error is not None:
                    failures.append(f"rank {number}: {error}")
        except queue.Empty:
            failures.append(f"no answer in {SECONDS} seconds")
        if failures:
            self.close()
            raise AssertionError("\n".join(failures))
        return [results[number] for number in range(self.count)]

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.join()
        self._running = []

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._inboxes = [context.Queue() for _ in range(self.count)]
        self._outbox = context.Queue()
        address = f"tcp://127.0.0.1:{free_port()}"
        for number, inbox in enumerate(self._inboxes):
            process = context.Process(
                target=_serve, args=(number, self.count, address, inbox, self._outbox), daemon=True
            )
            process.start()
            self._running.append(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(number: int, count: int, address: str, inbox: Any, outbox: Any) -> None:
    import torch

    from recprune_export.distributed import joined_process_group
    from recprune_export.distributed.ranks import current_run, set_run

    torch.set_num_threads(1)
    with joined_process_group(number, count, address):
        run = current_run()
        while True:
            function, arguments = inbox.get()
            set_run(run)  # a function may have left to the first process
            try:
                outbox.put((number, None, function(*arguments)))
            except BaseException:
                outbox.put((number, traceback.format_exc(), None))
