"""Fourier transforms as products."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recprune_export.onnx import export_onnx, make_session, rewrite, run
from recprune_export.onnx.counts import count
from recprune_export.onnx.optimizer import dft_to_matmul
from recprune_export.onnx.optimizer.optimizer_constants import MAX_DFT_LENGTH
from recprune_export.program.capture import capture
from tests.onnx.graphs import assert_left_alone, floats, graph, operators, rewritten


@settings(max_examples=40)
@given(data=st.data(), inverse=st.booleans(), onesided=st.booleans(), is_real=st.booleans())
def test_every_transform_is_the_product(data: st.DataObject, inverse: bool, onesided: bool, is_real: bool) -> None:
    """Any axis, padded or cut to another length, odd or even."""
    inner = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    axis = data.draw(st.integers(1, len(inner)))
    length = data.draw(st.integers(2, 9))
    if onesided:
        is_real = not inverse
        inner[axis - 1] = length // 2 + 1 if inverse else inner[axis - 1]
    shape = [*inner, 1 if is_real else 2]
    text = (
        f"g (float[batch, {', '.join(map(str, shape))}] x) => (float[{', '.join('abcdefg'[: len(shape) + 1])}] y)"
        f" {{ y = DFT<inverse={int(inverse)}, onesided={int(onesided)}>(x, n, a) }}"
    )
    model = graph(text, n=np.array(length), a=np.array(axis))
    found = rewritten(dft_to_matmul, model, [[floats(3, *shape)], [floats(1, *shape, seed=1)]])
    assert not operators(found)["DFT"]


F = torch.fft
FUNCTIONS = {
    "a filter": lambda x, norm: F.irfft(F.rfft(x, dim=1, norm=norm) * _filter(5), n=8, dim=1, norm=norm),
    "a filter of odd length": lambda x, norm: F.irfft(
        F.rfft(x[:, :7], dim=1, norm=norm) * _filter(4), n=7, dim=1, norm=norm
    ),
    "fft": lambda x, norm: F.fft(x, norm=norm).real,
    "fft and ifft": lambda x, norm: F.ifft(F.fft(x, dim=1, norm=norm) * _filter(8), dim=1, norm=norm).imag,
    "fft2": lambda x, norm: F.fft2(x, norm=norm).real,
    "rfft2 and irfft2": lambda x, norm: F.irfft2(F.rfft2(x, norm=norm) * 2.0, s=(8, 6), norm=norm),
    "the spectrum": lambda x, norm: F.rfft(x, dim=1, norm=norm).abs(),
    "circular correlation": lambda x, norm: F.irfft(
        F.rfft(x[:, :1], norm=norm).conj() * F.rfft(x, norm=norm), n=6, norm=norm
    ),
}


def _filter(bins: int) -> torch.Tensor:
    return torch.view_as_complex(torch.from_numpy(floats(1, bins, 6, 2)))


class Mixer(nn.Module):
    def __init__(self, function: str, norm: str) -> None:
        super().__init__()
        self.table, self.function, self.norm = nn.Embedding(20, 6), FUNCTIONS[function], norm

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.function(self.table(ids), self.norm)


@pytest.mark.parametrize(
    ("function", "norm"),
    [
        *((function, "ortho") for function in FUNCTIONS),
        ("rfft2 and irfft2", "forward"),
        ("rfft2 and irfft2", "backward"),
    ],
)
def test_functions_of_torch_are_exported_without_a_transform(function: str, norm: str, tmp_path: Path) -> None:
    module = Mixer(function, norm).eval()
    ids = torch.randint(0, 20, (4, 8))
    file = export_onnx(capture(module, (ids,)), tmp_path / "model.onnx")
    session = make_session(file.path)
    (answer,) = run(session, {"ids": ids.numpy()}).values()
    np.testing.assert_allclose(answer, module(ids).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert "dft_to_matmul" in [report.name for report in file.rewrites if report.accepted]
    assert b"DFT" not in file.path.read_bytes()


def test_the_matrix_is_no_parameter(tmp_path: Path) -> None:
    file = export_onnx(
        capture(Mixer("the spectrum", "ortho"), (torch.randint(0, 20, (4, 8)),)), tmp_path / "model.onnx"
    )
    counts = count(file.path)
    assert (counts.tables.parameters, counts.rest.parameters) == (20 * 6, 0)


@pytest.mark.parametrize(
    "text",
    [
        f"g (float[batch, {MAX_DFT_LENGTH + 1}, 1] x) => (float[a, b, c] y) {{ y = DFT(x, , a) }}",
        "g (float[batch, length, 1] x) => (float[a, b, c] y) { y = DFT(x, , a) }",
        "g (float[batch, 4, 1] x, int64[1] n) => (float[a, b, c] y) { m = Squeeze(n) y = DFT(x, m, a) }",
    ],
    ids=["long", "of any length", "of the length of an input"],
)
def test_what_does_not_fit_is_left_alone(text: str) -> None:
    assert_left_alone(dft_to_matmul, graph(text, a=np.array(1)))


@pytest.mark.parametrize(("length", "columns"), [(12, 32), (64, 32), (200, 1)])
def test_it_is_estimated_to_be_faster(length: int, columns: int) -> None:
    text = f"g (float[batch, {length}, {columns}, 1] x) => (float[a, b, c, d] y) {{ y = DFT<onesided=1>(x, n, a) }}"
    model = graph(text, n=np.array(length), a=np.array(1))
    (report,) = rewrite(model, (dft_to_matmul,), [[floats(2, length, columns, 1)]], (1, 32, 256))[1]
    assert report.accepted
