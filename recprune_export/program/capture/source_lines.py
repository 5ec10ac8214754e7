"""Where in the user's own code something happened."""

import re
import traceback
from pathlib import Path

import torch

NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")


def find_user_line(error: BaseException) -> str:
    """The innermost line outside of torch that led to an error: `file, line N`."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(NOT_THE_USERS)]
    in_text = [m for m in re.findall(r'File "([^"]+)", line (\d+)', str(error)) if not m[0].startswith(NOT_THE_USERS)]
    places = [(f.filename, f.lineno) for f in frames] + in_text
    return f"{places[-1][0]}, line {places[-1][1]}" if places else ""
