"""The squeezed view must be the median that the documentation names, in torch and in ONNX."""

import numpy as np
import pytest
import torch
from feature_cases import assert_exports
from scipy.ndimage import median_filter

from detectors.squeeze import median3

DRAW = torch.Generator().manual_seed(0)


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


def test_exports() -> None:
    class Squeeze(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return median3(x)

    assert_exports(Squeeze(), lambda n: (torch.rand(n, 1, 16, 16, generator=DRAW),), relative=0)
