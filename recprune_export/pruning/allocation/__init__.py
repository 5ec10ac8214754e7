"""Allocation of widths: the number of channels that each group keeps at a given sparsity."""
