"""One attack beside one library's, and what both are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.ball import Norm
from attacks.objective import Model


@dataclass(frozen=True)
class Setting:
    """What both sides attack. The batch is diagnosed right when clean."""

    model: Model
    """Pixels ``float32[N, H, W, C]``, 0 to 255, to class logits. Counts its passes."""
    pixels: Tensor
    labels: Tensor
    """``int64[N]``."""
    draw: int = 0
    """Which of a random attack's runs this is."""

    @property
    def seeds(self) -> range:
        """One an image, others in every draw."""
        return range(1000 * self.draw, 1000 * self.draw + len(self.pixels))

    @property
    def unit_model(self) -> nn.Module:
        """The same model as the libraries take it: ``float32[N, C, H, W]`` in 0 to 1."""
        return _Unit(self.model)

    @property
    def unit_pixels(self) -> Tensor:
        """``float32[N, C, H, W]`` in 0 to 1."""
        return self.pixels.permute(0, 3, 1, 2).contiguous() / 255

    @property
    def classes(self) -> int:
        with torch.no_grad():
            return int(self.model(self.pixels[:0]).shape[1])


def to_grey(unit: Tensor) -> Tensor:
    """``float32[N, C, H, W]`` in 0 to 1 back to ``float32[N, H, W, C]`` in grey levels."""
    return unit.detach().permute(0, 2, 3, 1) * 255


class _Unit(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.eval()  # torchattacks puts a model back into the mode in which it got it

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.permute(0, 2, 3, 1) * 255)


Run = Callable[[Setting], Tensor]
"""Returns ``float32[N, H, W, C]`` in grey levels."""


@dataclass(frozen=True)
class Match:
    """One row of the table."""

    attack: str
    """The title of ours."""
    peer: str
    """Library and version."""
    norm: Norm
    """The norm in which budgets and results are compared."""
    ours: Run
    theirs: Run
    minimum: bool = False
    """Compared by the median norm over all images (infinite where it failed), not at a budget."""
    note: str = ""
    """A known fault of the peer, or how the budgets were made equal."""
    classes: Callable[[int], bool] = lambda classes: classes >= 2
    """Whether the peer runs on a model of so many classes at all."""
    distance: Callable[[Tensor], Tensor] | None = None
    """``float32[N, H, W, C]``, a change in grey levels, to ``[N]``: what both sides make small, if
    it is not the norm."""
    towards_next: bool = False
    """The class after the label is to be reached; otherwise, any but the label."""
    draws: int = 1
    """Runs of either side with random numbers of their own; what is reached is their mean."""
    largest_side: int | None = None
    """The peer is only run on images of at most so many pixels a side."""
