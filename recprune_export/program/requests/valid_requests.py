"""A request that a program accepts, for analyses that must run it once."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from recprune_export.column_names import list_names
from recprune_export.errors import ModelError
from recprune_export.program.failures import FAILURES, summarize_failure
from recprune_export.program.program import Program, sample_request_tensors
from recprune_export.program.requests.jagged_inputs import to_program_tensors
from recprune_export.program.requests.random_requests import fill_input
from recprune_export.program.signature import IdRange, Input

DRAWS = 8


def find_valid_request(program: Program, batch: int) -> tuple[Tensor, ...]:
    """Return a request of `batch` rows that `program` accepts: a random one, or else one of lowest values, ones or zeros.

    Raises `ModelError` with the line of the user's code if it accepts none of these.
    """
    first: Exception | None = None
    for tensors in _candidates(program, batch):
        try:
            with torch.no_grad():
                program.module(*tensors)
        except FAILURES as error:
            first = first or error
        else:
            return tensors
    assert first is not None
    unknown = [i.name for i in program.signature.inputs if not i.ids and not i.dtype.startswith("float")]
    advice = (
        f"the valid integers of {list_names(map(repr, unknown))} cannot be determined from the graph: give an example "
        "request that contains the lowest and the highest of each, or check the lookups of the model"
        if unknown
        else "check that the model accepts every id below the number of rows of its tables"
    )
    raise ModelError(
        f"The model fails on requests drawn from its signature{summarize_failure(first)}; {advice}."
    ) from first


def _candidates(program: Program, batch: int) -> Iterator[tuple[Tensor, ...]]:
    for seed in range(DRAWS):
        yield sample_request_tensors(program.signature, batch, seed)

    def lowest(pair: IdRange, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, pair[0])

    def middle(spec: Input, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, 0.0 if spec.observed is None else float(np.mean(spec.observed)))

    rows = {i.name: torch.from_numpy(fill_input(i, batch, lowest, middle)) for i in program.signature.inputs}
    yield tuple(to_program_tensors(program.signature, rows))
    tensors = sample_request_tensors(program.signature, batch)
    yield tuple(map(torch.ones_like, tensors))
    yield tuple(map(torch.zeros_like, tensors))
