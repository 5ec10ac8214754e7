"""Rounding of weights to few bits in PyTorch, to the same numbers as the ONNX file stores."""

import torch
from torch import Tensor

from recprune_export.stored_bits import fit_scales, has_one_scale, round_rows

MULTIPLIED_BITS = 7  # of a layer that is stored in 8 bits: its integers may be multiplied


def round_table_rows(rows: Tensor, bits: int, table: Tensor | None = None) -> Tensor:
    """Return rows of a table, [..., D], as they are stored in `bits` bits with a scale for each row.

    If all rows share one scale, it is that of the whole `table`, by default that of the rows. Time: a few passes over the rows, and one
    over such a table. A row of zeros stays zero.
    """
    if bits >= 32:
        return rows
    if bits == 16:
        return rows.half().to(rows.dtype)
    flat = rows.reshape(-1, rows.shape[-1])
    fitted = flat
    if table is not None and has_one_scale(flat.shape[1], bits):
        fitted = table.abs().amax().reshape(1, 1)
    scales = fit_scales(fitted, bits, torch).to(rows.dtype)
    return round_rows(flat, scales, bits, torch).reshape(rows.shape)


def round_layer_weight(weight: Tensor, bits: int) -> Tensor:
    """Return the weight of a layer, [outputs, inputs], as it is stored in `bits` bits with a scale for each output."""
    return round_table_rows(weight, MULTIPLIED_BITS if bits == 8 else bits)
