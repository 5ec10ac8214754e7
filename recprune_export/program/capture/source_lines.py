"""Lines of the user's code in tracebacks."""

import contextlib
import re
import traceback
from pathlib import Path

import torch

NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]), contextlib.__file__, "<")


def find_user_line(error: BaseException) -> str:
    """Return the innermost line outside of torch in the traceback of an error, as `file, line N`."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(NOT_THE_USERS)]
    in_text = [m for m in re.findall(r'File "([^"]+)", line (\d+)', str(error)) if not m[0].startswith(NOT_THE_USERS)]
    locations = [(f.filename, f.lineno) for f in frames] + in_text
    return f"{locations[-1][0]}, line {locations[-1][1]}" if locations else ""
