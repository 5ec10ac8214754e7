import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.properties import check_any_plan, group_of


class Attention(nn.Module):
    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return self.out(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def test_head_dimensions_go_with_the_scale_of_the_whole_head() -> None:
    for scale in (None, 0.3):
        _, analysis = check_any_plan(Attention(scale), torch.randn(3, 5, 8))
        assert ("key.weight", 0) in group_of(analysis, "query.weight", 0)
        assert ("out.weight", 1) in group_of(analysis, "value.weight", 0)
