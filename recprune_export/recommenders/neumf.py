"""NeuMF: generalized matrix factorization and an MLP (He et al. 2017, "Neural Collaborative Filtering", 3.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recprune_export.errors import UsageError
from recprune_export.recommenders.input_spec import InputSpec, TensorRequest
from recprune_export.recommenders.layers import MLP, FieldEmbeddings, to_label_units


class NeuMF(nn.Module):
    """A model of two categorical fields, `user` and `item`; by default the first two."""

    def __init__(
        self, spec: InputSpec, dim: int = 32, hidden: Sequence[int] = (128, 64), user: str = "", item: str = ""
    ) -> None:
        super().__init__()
        names = list(spec.categorical)
        if len(names) < 2:
            raise UsageError("neumf requires two categorical fields, a user and an item.")
        self.user, self.item = user or names[0], item or names[1]
        self.spec = spec
        pair = InputSpec(categorical={name: spec.categorical[name] for name in (self.user, self.item)})
        self.factors = FieldEmbeddings(pair, dim)
        self.embeddings = FieldEmbeddings(pair, dim)
        self.mlp = MLP(2 * dim, hidden)
        self.head = nn.Linear(dim + self.mlp.width, 1)

    def forward(self, request: TensorRequest) -> dict[str, Tensor]:
        """Return the logit of the label, or its number, [B]."""
        factors, vectors = self.factors(request), self.embeddings(request)
        product = factors[self.user] * factors[self.item]
        deep = self.mlp(torch.cat([vectors[self.user], vectors[self.item]], dim=1))
        answer = self.head(torch.cat([product, deep], dim=1)).squeeze(1)
        return to_label_units({self.spec.labels[0]: answer}, self.spec)
