"""Call a function in a fresh process, so that its memory and first times are not affected by other work.

    python -m recprune_export.validation.latency.fresh_process module:function < arguments.json

Arguments and answer are JSON; the answer is the last printed line.
"""

import importlib
import json
import subprocess
import sys
from typing import Any

from recprune_export.errors import RecpruneError, ValidationFailed


def call_fresh(function: str, /, **arguments: Any) -> Any:
    """Call `function`, given as "module:name", with JSON arguments in a new Python process; return its JSON answer.

    Raises the exception of the function if it is a `RecpruneError`, otherwise `ValidationFailed` with the last line of output.

    >>> call_fresh("math:hypot_of_nothing")
    Traceback (most recent call last):
    ...
    recprune_export.errors.ValidationFailed: math:hypot_of_nothing failed in a separate process: AttributeError: ...
    """
    process = subprocess.run(
        [sys.executable, "-m", __name__, function],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode == 0:
        return json.loads(process.stdout.splitlines()[-1])
    error_lines = process.stderr.strip().splitlines() or [f"it ended with code {process.returncode}"]
    name, _, sentence = error_lines[-1].partition(": ")
    exception = vars(sys.modules[RecpruneError.__module__]).get(name.rpartition(".")[2])
    if isinstance(exception, type) and issubclass(exception, RecpruneError):
        raise exception(sentence)
    raise ValidationFailed(f"{function} failed in a separate process: {error_lines[-1]}")


def _print_answer(function: str) -> None:
    module, _, name = function.partition(":")
    print(json.dumps(getattr(importlib.import_module(module), name)(**json.load(sys.stdin))))  # noqa: T201


if __name__ == "__main__":
    _print_answer(sys.argv[1])
