"""Shared layers of the recommenders: embeddings of fields, and a stack of hidden layers.

Shapes: B batch, F fields, D embedding dimensions, L values of a multi-valued field.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recprune_export.data.encoding.input_encoding import NUMERIC
from recprune_export.distributed.sharded_embedding import ShardedEmbedding, builds_in_shards
from recprune_export.recommenders.input_spec import InputSpec, TensorRequest


class FieldEmbeddings(nn.Module):
    """One table for each field; a multi-valued field gives the mean of its values, zero if it has none.

    The tables are read only by lookups; `ids_per_row` is the number of ids of a row that each of them looks up.
    """

    def __init__(self, spec: InputSpec, dim: int) -> None:
        super().__init__()
        fields = {**spec.categorical, **spec.multi_valued}
        self._keys = {name: _key(position, name) for position, name in enumerate(fields)}
        self._multi_valued = frozenset(spec.multi_valued)
        self.ids_per_row = {key: spec.lengths.get(name, 1) for name, key in self._keys.items()}
        self.tables = nn.ModuleDict(
            {self._keys[name]: _table(rows, dim, padded=name in self._multi_valued) for name, rows in fields.items()}
        )

    def __len__(self) -> int:
        return len(self.tables)

    def forward(self, request: TensorRequest) -> dict[str, Tensor]:
        """Return the vectors of each field, [B, D]."""
        vectors = {}
        for name, key in self._keys.items():
            table = self.tables[key]
            vectors[name] = _mean(table, request[name]) if name in self._multi_valued else table(request[name])
        return vectors


def _key(position: int, name: str) -> str:
    """Return a valid module name: it cannot contain dots, and must differ from attributes of `ModuleDict` such as `type`."""
    safe = re.sub(r"\W", "_", name)
    return f"field{position}_{safe}"


def _table(rows: int, dim: int, padded: bool) -> nn.Embedding | ShardedEmbedding:
    std = 0.01  # dot products start near zero
    if builds_in_shards(rows, dim):
        return ShardedEmbedding(rows, dim, std, padded)
    table = nn.Embedding(rows, dim, padding_idx=0 if padded else None)
    nn.init.normal_(table.weight, std=std)
    if padded:
        with torch.no_grad():
            table.weight[0] = 0.0  # stays zero: no gradient reaches the row of the padding
    return table


def _mean(table: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean vectors [B, D] of ids [B, L]; the row of the padding is zero and adds nothing."""
    known = (ids > 0).to(torch.float32).sum(1, keepdim=True)
    return table(ids).sum(1) / known.clamp_min(1.0)


def select_numeric(request: TensorRequest, spec: InputSpec) -> list[Tensor]:
    """Return the numeric fields, [B, n], in a list that is empty if there are none."""
    return [request[NUMERIC]] if spec.n_numeric else []


def to_label_units(outputs: dict[str, Tensor], spec: InputSpec) -> dict[str, Tensor]:
    """Return the outputs by label: a logit unchanged, a number in the units of its label instead of standard deviations."""
    scaled = {label: outputs[label] * scale + mean for label, (mean, scale) in spec.value_scales.items()}
    return {**outputs, **scaled}


class MLP(nn.Sequential):
    """Linear, ReLU and dropout for each width, with batch normalization after the linear layer if `batch_norm`."""

    def __init__(self, inputs: int, widths: Sequence[int], dropout: float = 0.0, batch_norm: bool = False) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            layers.append(nn.Linear(inputs, width))
            if batch_norm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(nn.ReLU())
            if dropout:
                layers.append(nn.Dropout(dropout))
            inputs = width
        super().__init__(*layers)
        self.width = inputs
