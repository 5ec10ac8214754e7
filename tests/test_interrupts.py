"""Processes that are started while interrupts are blocked leave Ctrl-C to the first one."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from recprune_export.interrupts import block_interrupts

BLOCKED = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"


def test_processes_that_are_started_in_the_block_are_not_interrupted() -> None:
    with block_interrupts():
        inside = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True)
    after = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True)
    assert (inside.stdout.strip(), after.stdout.strip()) == ("True", "False")


def test_an_interrupt_that_another_thread_takes_waits_for_the_end_of_the_block() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    reached: list[bool] = []

    def interrupt() -> None:
        with block_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            reached.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
        done.set()
        thread.join()
    assert reached


def test_another_thread_may_start_processes() -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            with block_interrupts():
                pass
        except BaseException as error:  # the thread would only print it
            failures.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert failures == []
