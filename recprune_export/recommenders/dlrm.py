"""DLRM: dot products between all pairs of fields, and an MLP on top (Naumov et al. 2019, section 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recprune_export.recommenders.input_spec import InputSpec, TensorRequest
from recprune_export.recommenders.layers import MLP, FieldEmbeddings, select_numeric, to_label_units


class DLRM(nn.Module):
    """The numeric fields pass through a bottom MLP and enter the dot products as one more field."""

    pairs: Tensor

    def __init__(
        self,
        spec: InputSpec,
        dim: int = 32,
        hidden: Sequence[int] = (256, 128),
        bottom: Sequence[int] = (64,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings = FieldEmbeddings(spec, dim)
        self.bottom = MLP(spec.n_numeric, [*bottom, dim]) if spec.n_numeric else None
        fields = len(self.embeddings) + (self.bottom is not None)
        self.register_buffer("pairs", torch.triu_indices(fields, fields, 1), persistent=False)
        self.top = MLP(fields * dim + fields * (fields - 1) // 2, hidden, dropout)
        self.head = nn.Linear(self.top.width, 1)

    def forward(self, request: TensorRequest) -> dict[str, Tensor]:
        """Return the logit of the label, or its number, [B]."""
        vectors = list(self.embeddings(request).values())
        if self.bottom is not None:
            vectors = [self.bottom(*select_numeric(request, self.spec)), *vectors]
        stacked = torch.stack(vectors, dim=1)  # [B, F, D]
        dots = stacked @ stacked.transpose(1, 2)
        pairs = dots[:, self.pairs[0], self.pairs[1]]  # [B, F·(F-1)/2]
        hidden = self.top(torch.cat([stacked.flatten(1), pairs], dim=1))
        return to_label_units({self.spec.labels[0]: self.head(hidden).squeeze(1)}, self.spec)
