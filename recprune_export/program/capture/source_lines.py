"""Lines of the user's code in tracebacks, and through another capture of a graph."""

import contextlib
import functools
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx
from torch.fx.traceback import preserve_node_meta

NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]), contextlib.__file__, "<")


def find_user_line(error: BaseException) -> str:
    """Return the innermost line outside torch in the traceback of an error, as `file, line N`."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(NOT_THE_USERS)]
    in_text = [m for m in re.findall(r'File "([^"]+)", line (\d+)', str(error)) if not m[0].startswith(NOT_THE_USERS)]
    locations = [(f.filename, f.lineno) for f in frames] + in_text
    return f"{locations[-1][0]}, line {locations[-1][1]}" if locations else ""


@contextlib.contextmanager
def keep_lines(module: fx.GraphModule) -> Iterator[None]:
    """Inside the block, another capture of a captured module takes the lines of the user's code from its nodes."""
    generated = module.forward

    @functools.wraps(generated)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_exporting():
            return generated(*args, **kwargs)
        with preserve_node_meta():
            answers = fx.Interpreter(module).run(*pytree.tree_leaves((args, kwargs)), enable_io_processing=False)
        return module.graph.process_outputs(answers)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward  # that of the class remains
