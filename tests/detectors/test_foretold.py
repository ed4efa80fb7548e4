"""What is foretold of the gradient is correlated as if its picture had been painted."""

import pytest
import torch
from feature_cases import assert_exports
from torch import Tensor

from detectors.aligned import DIFFERENCE, HIGHEST
from detectors.foretold import Foretold
from detectors.synthetic_gradient import SyntheticGradient

GREY = 0.02


def made(channels: int) -> SyntheticGradient:
    torch.manual_seed(0)
    network = SyntheticGradient(channels, 2)
    for _ in range(3):  # the norms of its layers become those of what it sees
        network(torch.randn(8, channels, 32, 32), torch.randn(8, 2))
    return network.eval()


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 64, 64), (3, 32, 44), (1, 28, 28)])
def test_the_correlation_is_the_painted_pictures(channels: int, height: int, width: int) -> None:
    network, gain = made(channels), torch.full((1, channels, 1, 1), GREY)
    foretold = Foretold(network, gain)
    x = 5 * GREY * torch.randn(3, channels, height, width)
    seed = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]])
    with torch.no_grad():
        found = foretold(x, seed)
        picture = network(x, seed)
    axis = torch.tensor(DIFFERENCE)
    kernel = torch.outer(axis, axis).expand(channels, 1, 3, 3)
    grain = torch.nn.functional.conv2d(x / GREY, kernel, groups=channels).clamp(-HIGHEST, HIGHEST)
    rows, columns = (size - size % 4 for size in grain.shape[2:])
    whole = torch.zeros_like(picture)
    whole[:, :, :rows, :columns] = grain[:, :, :rows, :columns]
    flat = picture.flatten(1), whole.flatten(1)
    torch.testing.assert_close(found[:, 0], torch.cosine_similarity(*flat), atol=1e-5, rtol=1e-4)
    height_of = grain[:, :, :rows, :columns].square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(found[:, 1], height_of)
    assert found[:, 0].abs().min() > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_exports(channels: int) -> None:
    class Numbered(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.foretold = Foretold(made(channels), torch.tensor(GREY).reshape(1, 1, 1, 1))

        def forward(self, input_0: Tensor, input_1: Tensor) -> Tensor:
            return self.foretold(input_0, input_1)

    def inputs(n: int) -> tuple[Tensor, ...]:
        draw = torch.Generator().manual_seed(n)
        return torch.randn(n, channels, 40, 40, generator=draw), torch.eye(2)[torch.arange(n) % 2]

    assert_exports(Numbered(), inputs, 1e-4)
