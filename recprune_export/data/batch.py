"""`Batch`: a request and its labels as tensors."""

from collections.abc import Mapping

from torch import Tensor

Batch = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]  # request, labels; empty without labels
