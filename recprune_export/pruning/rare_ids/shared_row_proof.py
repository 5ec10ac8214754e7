"""The proof of row sharing: the smaller program equals the original with the removed rows overwritten by the shared row.

The table is not overwritten, because it may be large: each row that the original looks up is replaced where its id
shares a row. These ids come from the plan, not from the remap.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from recprune_export.errors import PruningError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.program import Program
from recprune_export.program.requests.jagged_inputs import to_program_tensors
from recprune_export.program.requests.random_requests import fill_input, sample_request
from recprune_export.program.signature import IdRange, Input, Signature
from recprune_export.pruning.apply.masking import Float64Interpreter
from recprune_export.pruning.apply.soundness import TOLERANCE, Soundness, largest_difference
from recprune_export.pruning.rare_ids._share_rows import find_planned_tables
from recprune_export.pruning.rare_ids.find_tables import get_ids
from recprune_export.pruning.rare_ids.row_plan import RowPlan

BATCHES = (1, 256, 3, 3)  # random, random, lowest ids, highest ids


def check_rows(program: Program, smaller: Program, rows: Sequence[RowPlan]) -> Soundness:
    """Compare `smaller` with `program` with overwritten rows, in float64, on random requests, lowest and highest ids.

    Raises `PruningError` if they differ.
    """
    reference, candidate = _Overwritten(program, smaller, rows), Float64Interpreter(smaller)
    worst = max(
        largest_difference(reference(*request), candidate(*request)) for request in _requests(program.signature)
    )
    if not worst <= TOLERANCE:
        raise PruningError(
            f"The model with shared rows differs from the original with these rows overwritten by {worst:.1e} of its largest "
            "output, so nothing was written. This is a bug in recprune-export: please report the model; until "
            "it is fixed, leave out --prune-rows."
        )
    return Soundness(worst, TOLERANCE, BATCHES)


class _Overwritten(Float64Interpreter):
    """An interpreter that replaces each looked-up row that shares another by the shared one."""

    def __init__(self, program: Program, smaller: Program, rows: Sequence[RowPlan]) -> None:
        super().__init__(program)
        tables = find_planned_tables(program, rows)
        self._shared: dict[fx.Node, tuple[Tensor, Tensor]] = {}
        for row_plan in rows:
            row = tensor_at(smaller.module, row_plan.table)[-1].detach().double()
            shares = torch.from_numpy(row_plan.shared_mask())
            self._shared |= dict.fromkeys(tables[row_plan.table].lookups, (shares, row))

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._shared:
            shares, row = self._shared[n]
            value = torch.where(shares[self.env[get_ids(n)].long()].unsqueeze(-1), row, value)
        return value


def _requests(signature: Signature) -> list[tuple[Tensor, ...]]:
    def edge(choose: Callable[[IdRange], int], batch: int) -> dict[str, np.ndarray]:
        def ids(pair: IdRange, shape: tuple[int, ...]) -> np.ndarray:
            return np.full(shape, choose(pair))

        def numbers(spec: Input, shape: tuple[int, ...]) -> np.ndarray:
            return np.zeros(shape)

        return {i.name: fill_input(i, batch, ids, numbers) for i in signature.inputs}

    random = [sample_request(signature, batch, seed) for seed, batch in enumerate(BATCHES[:2])]
    edges = [edge(lambda pair: pair[0], BATCHES[2]), edge(lambda pair: pair[1], BATCHES[3])]
    return [tuple(map(torch.from_numpy, to_program_tensors(signature, r))) for r in (*random, *edges)]
