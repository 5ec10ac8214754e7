"""`Batch`: a request and its labels as tensors."""

from collections.abc import Mapping

from torch import Tensor

Batch = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]  # request, labels; empty without labels
ROW_WEIGHTS = "weights of rows"  # a key with the labels, for rows with weights: float32 [B]
