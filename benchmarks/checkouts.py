"""A measurement in a fresh process, with the code of this checkout or of another one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent


def measure_in_fresh_process(
    script: str, checkout: Path, arguments: list[str], *, timeout: float | None = None
) -> dict[str, Any] | None:
    """Run `script` with the package of `checkout`, one thread, and return the JSON of its last line; None after `timeout` seconds.

    Raises `RuntimeError` with the end of its messages where it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, *arguments]
    try:
        done = subprocess.run(
            command, env=environment, cwd=checkout, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed in {checkout}:\n{done.stderr[-2_000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
