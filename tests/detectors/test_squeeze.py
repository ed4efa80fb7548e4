"""The squeezed view must be the blur that the documentation names, in torch and in ONNX."""

import numpy as np
import pytest
import torch
from feature_cases import assert_exports
from scipy.ndimage import correlate1d

from detectors.squeeze import BINOMIAL, FAR, NEAR, blur, squeeze

DRAW = torch.Generator().manual_seed(0)
GAIN = torch.full((1, 1, 1, 1), 0.02)
CHECKERS = 1.0 - 2.0 * ((torch.arange(24)[:, None] + torch.arange(24)) % 2)


@pytest.mark.parametrize("size", [(32, 40), (3, 3), (2, 5), (1, 1)])
def test_equals_scipy(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, generator=DRAW)
    expected = x.numpy()
    for axis in (2, 3):
        expected = correlate1d(expected, BINOMIAL, axis=axis, mode="nearest")
    np.testing.assert_allclose(blur(x), expected, atol=1e-6)


def test_what_is_no_attack_stays() -> None:
    """Signs of a few grey levels go; a white letter and a dead column stay as they are."""
    smooth = torch.linspace(60, 120, 24).expand(1, 1, 24, 24).contiguous()
    noisy = smooth + 4 * CHECKERS
    marked = smooth.clone()
    marked[..., 10] = 0
    marked[..., 3:9, 15] = 255
    undone, kept = (squeeze(x * GAIN, GAIN) / GAIN for x in (noisy, marked))
    assert (undone - smooth)[..., 1:-1, 1:-1].abs().max().item() < 1e-3
    torch.testing.assert_close(kept[..., 1:-1, [10, 15]], marked[..., 1:-1, [10, 15]])


@pytest.mark.parametrize(
    ("above", "moved"),
    [
        (NEAR, -NEAR),
        ((NEAR + FAR) / 2, -(NEAR + FAR) / 4),
        (FAR + 0.1, 0),
        (100, 0),
        (-NEAR, NEAR),
        (-FAR - 0.1, 0),
    ],
)
def test_how_far(above: float, moved: float) -> None:
    """The finest pattern is what the blur takes away whole."""
    x = (90 + above * CHECKERS)[None, None]
    move = squeeze(x * GAIN, GAIN) / GAIN - x
    np.testing.assert_allclose((move * CHECKERS)[..., 1:-1, 1:-1], moved, atol=1e-4)


def test_exports() -> None:
    class Squeeze(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return squeeze(x, GAIN)

    assert_exports(Squeeze(), lambda n: (torch.rand(n, 1, 16, 16, generator=DRAW),), relative=0)
