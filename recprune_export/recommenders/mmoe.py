"""MMoE: several tasks that share experts, with one gate each (Ma et al. 2018, section 4.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recprune_export.recommenders.input_spec import InputSpec, TensorRequest
from recprune_export.recommenders.layers import MLP, FieldEmbeddings, select_numeric, to_label_units


class MMoE(nn.Module):
    """A mixture of experts with one logit for each label."""

    def __init__(
        self, spec: InputSpec, dim: int = 16, hidden: Sequence[int] = (128, 64), experts: int = 4, tower: int = 32
    ) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings = FieldEmbeddings(spec, dim)
        inputs = len(self.embeddings) * dim + spec.n_numeric
        self.experts = nn.ModuleList(MLP(inputs, hidden) for _ in range(experts))
        self.gates = nn.ModuleList(nn.Linear(inputs, experts) for _ in spec.labels)
        self.towers = nn.ModuleList(nn.Sequential(*MLP(hidden[-1], (tower,)), nn.Linear(tower, 1)) for _ in spec.labels)

    def forward(self, request: TensorRequest) -> dict[str, Tensor]:
        """Return the logit of each label, or its number, [B]."""
        inputs = torch.cat([*self.embeddings(request).values(), *select_numeric(request, self.spec)], dim=1)
        experts = torch.stack([expert(inputs) for expert in self.experts], dim=1)  # [B, experts, width]
        logits = {}
        for label, gate, tower in zip(self.spec.labels, self.gates, self.towers, strict=True):
            share = torch.softmax(gate(inputs), dim=1).unsqueeze(-1)
            logits[label] = tower((share * experts).sum(1)).squeeze(1)
        return to_label_units(logits, self.spec)
