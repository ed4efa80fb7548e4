"""How the small networks beside the model start and are trained: alike, whatever they learn."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Progress = Callable[[int, int], None]
"""Told after each step how many of how many are taken."""
RISING = 0.2
"""Share of the steps in which the learning rate rises to its largest."""


def initialise(
    layers: Iterable[nn.Module], classify: nn.Linear, std: float, generator: torch.Generator
) -> None:
    """Draw the weights: He et al. (2015) for convolutions, ``std`` and no bias for the last."""
    for module in layers:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
    nn.init.normal_(classify.weight, std=std, generator=generator)
    nn.init.zeros_(classify.bias)


def descend(
    network: nn.Module,
    loss: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    progress: Progress = lambda *_: None,
) -> None:
    """So many steps of AdamW on one batch's ``loss`` each; leaves evaluation mode behind."""
    optimiser = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, learning_rate, total_steps=steps, pct_start=RISING
    )
    network.train()
    for step in range(steps):
        value = loss()
        optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]  # torch has no type here
        optimiser.step()
        schedule.step()
        progress(step + 1, steps)
    network.eval()
