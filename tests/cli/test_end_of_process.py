"""The console script ends at once, and yet runs what Python runs at the end of a process."""

import subprocess
import sys

PROGRAM = """
import atexit, sys, threading, time
from recprune_export import __main__, cli
atexit.register(print, "closed")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread ended"))).start()
def main():
    sys.exit({code})

main.commands = {{}}
cli.main = main
__main__.run()
"""


def test_threads_and_exit_functions_end_before_the_process() -> None:
    for code, expected in (("7", 7), ("None", 0)):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(code=code)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout.split("\n")) == (expected, ["thread ended", "closed", ""])
