"""Call a function in a process of its own: memory and first times cannot be told apart in one that has done other things.

    python -m recprune_export.validation.latency.fresh_process module:function < arguments.json

Arguments and answer are JSON; the answer is the last line that is printed.
"""

import importlib
import json
import subprocess
import sys
from typing import Any

from recprune_export.errors import RecpruneError, ValidationFailed


def call_fresh(function: str, /, **arguments: Any) -> Any:
    """Call `function`, given as "module:name", with JSON arguments in a new Python process; return its JSON answer.

    Raises what the function raised where that is the user's to solve, else `ValidationFailed` with its last words.

    >>> call_fresh("math:hypot_of_nothing")
    Traceback (most recent call last):
    ...
    recprune_export.errors.ValidationFailed: math:hypot_of_nothing failed in a process of its own: AttributeError: ...
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, function],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    words = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
    name, _, sentence = words[-1].partition(": ")
    kind = vars(sys.modules[RecpruneError.__module__]).get(name.rpartition(".")[2])
    if isinstance(kind, type) and issubclass(kind, RecpruneError):
        raise kind(sentence)
    raise ValidationFailed(f"{function} failed in a process of its own: {words[-1]}")


def _answer(function: str) -> None:
    module, _, name = function.partition(":")
    print(json.dumps(getattr(importlib.import_module(module), name)(**json.load(sys.stdin))))  # noqa: T201


if __name__ == "__main__":
    _answer(sys.argv[1])
