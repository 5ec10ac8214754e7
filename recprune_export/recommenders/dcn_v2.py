"""DCNv2: explicit crosses of bounded degree and an MLP (Wang et al. 2021, sections 3.2 to 3.4, parallel form)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recprune_export.recommenders.input_spec import InputSpec, TensorRequest
from recprune_export.recommenders.layers import MLP, FieldEmbeddings, select_numeric, to_label_units


class DCNv2(nn.Module):
    """`crosses` layers x ← x₀ ⊙ (W x + b) + x over the concatenated fields, and an MLP, joined by one linear layer."""

    def __init__(
        self, spec: InputSpec, dim: int = 16, hidden: Sequence[int] = (256, 128), crosses: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings = FieldEmbeddings(spec, dim)
        inputs = len(self.embeddings) * dim + spec.n_numeric
        self.crosses = nn.ModuleList(nn.Linear(inputs, inputs) for _ in range(crosses))
        self.mlp = MLP(inputs, hidden, dropout)
        self.head = nn.Linear(inputs + self.mlp.width, 1)

    def forward(self, request: TensorRequest) -> dict[str, Tensor]:
        """Return the logit of the label, or its number, [B]."""
        first = torch.cat([*self.embeddings(request).values(), *select_numeric(request, self.spec)], dim=1)
        crossed = first
        for layer in self.crosses:
            crossed = first * layer(crossed) + crossed
        answer = self.head(torch.cat([crossed, self.mlp(first)], dim=1)).squeeze(1)
        return to_label_units({self.spec.labels[0]: answer}, self.spec)
