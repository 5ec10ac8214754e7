"""SASRec: self-attention over a history, scored against the item table (Kang and McAuley 2018, section 3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recprune_export.data.encoding.input_encoding import HISTORY
from recprune_export.recommenders.input_spec import InputSpec, TensorRequest

SCORES = "scores"
STD = 0.02  # of initial weights


class SASRec(nn.Module):
    """A pre-norm Transformer; the embedding table of the history also scores the items.

    Shapes: B batch, L history, D dimensions, H heads, I rows of the item table.
    """

    def __init__(
        self, spec: InputSpec, dim: int = 64, layers: int = 2, heads: int = 2, dropout: float = 0.5, width: int = 0
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(spec.items, dim, padding_idx=0)
        self.positions = nn.Embedding(spec.max_length, dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            _EncoderBlock(dim, heads, width or dim, dropout, spec.max_length) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.register_buffer("order", torch.arange(spec.max_length), persistent=False)
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        """Draw tables and layers from N(0, .02²), with biases of 0: docs/decisions/start-of-sequence-models.md."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        self.items.weight[0] = 0.0

    def forward(self, request: TensorRequest) -> dict[str, Tensor]:
        """Return the scores of all items as the next one, [B, I]; column 0 is the padding."""
        return {SCORES: self.encode(request[HISTORY])[:, -1] @ self.items.weight.T}

    def encode(self, history: Tensor) -> Tensor:
        """Return the hidden state after each position, [B, L, D]."""
        known = history > 0  # [B, L]
        hidden = self.dropout(self.items(history) + self.positions(self.order))
        for layer in self.layers:
            hidden = layer(hidden, known)
        return self.norm(hidden)

    def training_loss(self, history: Tensor, following: Tensor, targets: int | None = None) -> Tensor:
        """Return the cross entropy over all items of `following` [B, L], summed over the positions where it is not 0.

        The sum is divided by `targets`, by default the number of these positions. It uses the full softmax instead of one
        sampled negative: Klenitskiy and Vasilev 2023, section 3.
        """
        has_target = following > 0
        scores = self.encode(history)[has_target] @ self.items.weight.T
        if targets is None:
            return F.cross_entropy(scores, following[has_target])
        return F.cross_entropy(scores, following[has_target], reduction="sum") / max(targets, 1)


class _EncoderBlock(nn.Module):
    causal: Tensor
    itself: Tensor

    def __init__(self, dim: int, heads: int, width: int, dropout: float, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim) for _ in range(4))
        self.widen, self.narrow = nn.Linear(dim, width), nn.Linear(width, dim)
        self.dropout = nn.Dropout(dropout)
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        self.register_buffer("causal", causal, persistent=False)
        # A padded position attends to itself, so that no row of the softmax is empty.
        self.register_buffer("itself", torch.eye(length, dtype=torch.bool), persistent=False)

    def forward(self, hidden: Tensor, known: Tensor) -> Tensor:
        allowed = (self.causal & known[:, None, None, :]) | self.itself  # [B, 1, L, L]
        normed = self.norm_attention(hidden)
        query, key, value = (self._split_heads(layer(normed)) for layer in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        hidden = hidden + self.dropout(self.output(attended.transpose(1, 2).flatten(2)))
        inner = self.dropout(torch.relu(self.widen(self.norm_mlp(hidden))))
        return hidden + self.dropout(self.narrow(inner))

    def _split_heads(self, x: Tensor) -> Tensor:
        """Return [B, L, D] as [B, H, L, D/H]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
