import numpy as np
import pytest

from recprune_export.pipeline.evaluate_export import judge_against_pytorch
from recprune_export.validation import PRUNED_ONNX, PRUNED_TORCH, LatencyReport


@pytest.mark.parametrize(("factor", "noise", "slower", "open_claims"), [
    (1.5, 0.01, 1, 0),
    (0.5, 0.01, 0, 0),
    (1.0, 0.2, 0, 1),
])  # fmt: skip
def test_onnx_must_not_be_slower_than_pytorch_and_doubt_is_a_warning(
    factor: float, noise: float, slower: int, open_claims: int
) -> None:
    rng = np.random.default_rng(0)
    times = {name: ms * rng.lognormal(0, noise, 300) for name, ms in ((PRUNED_TORCH, 1.0), (PRUNED_ONNX, factor))}
    fails, warnings = judge_against_pytorch(LatencyReport({8: times}, 1))
    assert (len(fails), len(warnings)) == (slower, open_claims)
    assert all("At batch 8" in sentence for sentence in (*fails, *warnings))
