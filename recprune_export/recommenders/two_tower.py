"""Two towers joined by a dot product (Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling").

Without hidden layers and with one field each it is matrix factorization with a bias.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recprune_export.errors import UsageError
from recprune_export.recommenders.input_spec import InputSpec, TensorRequest
from recprune_export.recommenders.layers import MLP, FieldEmbeddings, select_numeric, to_label_units


class TwoTower(nn.Module):
    """The fields `user_fields` (by default the first field) enter one tower, all other fields the other."""

    def __init__(
        self, spec: InputSpec, dim: int = 32, hidden: Sequence[int] = (128, 64), user_fields: Sequence[str] = ()
    ) -> None:
        super().__init__()
        fields = [*spec.categorical, *spec.multi_valued]
        if len(fields) < 2:
            raise UsageError("two_tower requires at least two categorical fields, one for each tower.")
        self.spec = spec
        self.user_fields = tuple(user_fields) or (fields[0],)
        self.embeddings = FieldEmbeddings(spec, dim)
        n_user = len(self.user_fields)
        self.user_tower = _tower(n_user * dim, hidden)
        self.item_tower = _tower((len(fields) - n_user) * dim + spec.n_numeric, hidden)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, request: TensorRequest) -> dict[str, Tensor]:
        """Return the logit of the label, or its number, [B]."""
        vectors = self.embeddings(request)
        user = torch.cat([vectors[name] for name in self.user_fields], dim=1)
        item_vectors = [vector for name, vector in vectors.items() if name not in self.user_fields]
        item = torch.cat([*item_vectors, *select_numeric(request, self.spec)], dim=1)
        dots = (self.user_tower(user) * self.item_tower(item)).sum(1)
        return to_label_units({self.spec.labels[0]: dots + self.bias}, self.spec)


def _tower(inputs: int, hidden: Sequence[int]) -> nn.Module:
    if not hidden:
        return nn.Identity()
    body = MLP(inputs, hidden[:-1])
    return nn.Sequential(*body, nn.Linear(body.width, hidden[-1]))
