"""The smallest change of a family that fools the model, by queries alone.

A family renders an image with a few parameters, of which all zero leave it as it is. The search
tries settings in order of their size and then walks the one that fooled back towards zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.access import at, fooled
from attacks.ball import Norm, size
from attacks.objective import Model

Render = Callable[[Tensor, Tensor], Tensor]
"""Pixels ``float32[R, H, W, C]`` and parameters ``float32[R, P]`` to pixels within the grey range.
An image's rendering depends on its own parameters alone."""

NONE = -1
"""In place of a setting: none of them fooled the model."""


def multiples(bound: float, spacing: float) -> Tensor:
    """``float32[2 K + 1]``: the multiples of ``spacing`` in ``[-bound, bound]``, in order.

    Not a fixed number of points between the bounds: a wider bound thus tries everything that a
    narrower one does, and never finds less.
    """
    # a bound that is a multiple itself must not be lost to rounding
    steps = int(bound / spacing + 1e-6)
    return torch.arange(-steps, steps + 1) * spacing


def grid(*axes: Tensor) -> Tensor:
    """``float32[M, P]``: every combination of P axes' values but the one that is all zero."""
    points = torch.cartesian_prod(*axes).view(-1, len(axes))
    return points[(points != 0).any(dim=1)]


def grey_change(pixels: Tensor, render: Render, settings: Tensor) -> Tensor:
    """``[N, M]``: L2 change that each of the settings ``[M, P]`` makes to each image, the usual
    measure of how large it is."""
    lengths = [
        size((render(pixels, setting.expand(len(pixels), -1)) - pixels).double(), Norm.L2)
        for setting in settings
    ]
    return torch.stack(lengths, dim=1) if lengths else pixels.new_empty(len(pixels), 0)


def first_to_fool(
    model: Model,
    labels: Tensor,
    candidate: Callable[[Tensor, Tensor], Tensor],
    order: Tensor,
    pending: Tensor,
    *,
    targeted: bool,
) -> Tensor:
    """``int64[N]``: the first setting in each image's own order that fools the model, or ``NONE``.

    Args:
        candidate: rows ``int64[R]`` and their settings ``int64[R]`` to the pixels to try.
        order: ``int64[N, M]``, each image's settings in the order in which to try them.
        pending: ``bool[N]``, the images to try at all.
    """
    chosen = torch.full((len(order),), NONE, device=order.device)
    rows = pending.nonzero()[:, 0]
    for rank in range(order.shape[1]):
        if len(rows) == 0:
            break
        choice = order[rows, rank]
        with torch.no_grad():
            won = fooled(at(model, rows), candidate(rows, choice), labels[rows], targeted=targeted)
        chosen[rows[won]] = choice[won]
        rows = rows[~won]
    return chosen


def shrink(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    render: Render,
    parameters: Tensor,
    halvings: int,
    *,
    targeted: bool,
) -> Tensor:
    """``[N, P]``: ``t`` times parameters that fool, t in ``(0, 1]`` found by bisection.

    Every t that is kept was seen to fool, so nothing is lost where smaller changes do not.
    """
    low = torch.zeros_like(parameters[:, :1])
    high = torch.ones_like(low)
    for _ in range(halvings if len(pixels) else 0):
        middle = (low + high) / 2
        with torch.no_grad():
            won = fooled(model, render(pixels, middle * parameters), labels, targeted=targeted)
        high = torch.where(won[:, None], middle, high)
        low = torch.where(won[:, None], low, middle)
    return high * parameters


def smallest(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    render: Render,
    settings: Tensor,
    sizes: Tensor,
    halvings: int,
    *,
    targeted: bool,
) -> Tensor:
    """``float32[N, H, W, C]``: each image rendered by the smallest of ``settings`` that fools the
    model, walked back towards zero; the source where none does or none is needed.

    Args:
        settings: ``float32[M, P]``, none all zero.
        sizes: ``[N, M]``, by which they are tried; equal ones in the order of ``settings``.
        halvings: queries of the walk back.
    """
    settings = settings.to(pixels)
    with torch.no_grad():
        pending = ~fooled(model, pixels, labels, targeted=targeted)
    chosen = first_to_fool(
        model,
        labels,
        lambda rows, choice: render(pixels[rows], settings[choice]),
        sizes.argsort(dim=1, stable=True).to(pixels.device),
        pending,
        targeted=targeted,
    )
    rows = (chosen != NONE).nonzero()[:, 0]
    attacked = pixels.clone()
    if len(rows):
        parameters = shrink(
            at(model, rows),
            pixels[rows],
            labels[rows],
            render,
            settings[chosen[rows]],
            halvings,
            targeted=targeted,
        )
        attacked[rows] = render(pixels[rows], parameters)
    return attacked
