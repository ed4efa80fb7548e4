"""The squeezed view must be the median that the documentation names, in torch and in ONNX."""

import numpy as np
import pytest
import torch
from feature_cases import assert_exports
from scipy.ndimage import median_filter

from detectors.squeeze import FAR, NEAR, median3, squeeze

DRAW = torch.Generator().manual_seed(0)
GAIN = torch.full((1, 1, 1, 1), 0.02)


@pytest.mark.parametrize("size", [(32, 40), (3, 3), (2, 5), (1, 1)])
def test_equals_scipy_to_the_bit(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, generator=DRAW)
    x[0] = (x[0] * 4).round() / 4  # ties
    expected = median_filter(x.numpy(), size=(1, 1, 3, 3), mode="nearest")
    np.testing.assert_array_equal(median3(x), expected)


def test_every_output_pixel_has_a_gradient() -> None:
    x = torch.rand(1, 1, 8, 8, generator=DRAW, requires_grad=True)
    (gradient,) = torch.autograd.grad(median3(x).sum(), x)
    assert gradient.sum().item() == pytest.approx(64)


def test_what_is_no_attack_stays() -> None:
    """Signs of a few grey levels go; a white letter and a dead column stay as they are."""
    smooth = torch.linspace(60, 120, 24).expand(1, 1, 24, 24).contiguous()
    noisy = smooth.clone()
    noisy[..., 6, 6] += 4
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
    x = torch.full((1, 1, 5, 5), 90.0)
    x[..., 2, 2] += above
    move = squeeze(x * GAIN, GAIN) / GAIN - x
    assert move[0, 0, 2, 2].item() == pytest.approx(moved, abs=1e-4)
    assert (move.abs() > 1e-3).sum() == (moved != 0)


def test_exports() -> None:
    class Squeeze(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return squeeze(x, GAIN)

    assert_exports(Squeeze(), lambda n: (torch.rand(n, 1, 16, 16, generator=DRAW),), relative=0)
