"""DeepFM: a factorization machine and an MLP over the same tables (Guo et al. 2017, section 2.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recprune_export.recommenders.input_spec import InputSpec, TensorRequest
from recprune_export.recommenders.layers import MLP, FieldEmbeddings, select_numeric, to_label_units


class DeepFM(nn.Module):
    """First-order weights, pairwise products of all fields, and an MLP, summed to one logit."""

    def __init__(
        self, spec: InputSpec, dim: int = 32, hidden: Sequence[int] = (256, 128), dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings = FieldEmbeddings(spec, dim)
        self.first_order = FieldEmbeddings(spec, 1)
        inputs = len(self.embeddings) * dim + spec.n_numeric
        self.mlp = MLP(inputs, hidden, dropout, batch_norm=True)
        self.head = nn.Linear(self.mlp.width, 1)
        self.numeric = nn.Linear(spec.n_numeric, 1, bias=False) if spec.n_numeric else None

    def forward(self, request: TensorRequest) -> dict[str, Tensor]:
        """Return the logit of the label, or its number, [B]."""
        stacked = torch.stack(list(self.embeddings(request).values()), dim=1)  # [B, F, D]
        pairs = 0.5 * (stacked.sum(1).square() - stacked.square().sum(1)).sum(1, keepdim=True)
        first = torch.stack(list(self.first_order(request).values()), dim=1).sum(1)
        numeric = select_numeric(request, self.spec)
        deep = self.head(self.mlp(torch.cat([stacked.flatten(1), *numeric], dim=1)))
        logit = first + pairs + deep
        if self.numeric is not None:
            logit = logit + self.numeric(numeric[0])
        return to_label_units({self.spec.labels[0]: logit.squeeze(1)}, self.spec)
