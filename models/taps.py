"""Taps: named activations of a torch network, found automatically or given by module path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

STAGES = 4  # the last four resolutions: the residual stages of a ResNet without its stem


class TapProblem(ValueError):
    """A tap that the network does not have, or a network without any."""


def find_taps(network: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Module paths of the automatic taps, in network order.

    Each of the last four spatial resolutions gives the module that finished last in it (a residual
    stage's output, which is pooled); the last linear layer gives its input, the penultimate
    layer, as ``<path>.input``.

    Args:
        example: ``float32[N, C, h, w]``, one batch of network input for a dry run.
    """
    finished: list[tuple[str, torch.Size]] = []
    linear: list[str] = []

    def record(name: str) -> object:
        def hook(module: nn.Module, _: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                finished.append((name, output.shape[2:]))
            if isinstance(module, nn.Linear):
                linear.append(name)

        return hook

    handles = [
        module.register_forward_hook(record(name))
        for name, module in network.named_modules()
        if name
    ]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(example)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    last_of_resolution = {tuple(size): name for name, size in finished if size.numel() > 1}
    stages = list(last_of_resolution.values())[-STAGES:]
    taps = (*stages, *(f"{name}.input" for name in linear[-1:]))
    if not taps:
        raise TapProblem(
            "found no spatial activation and no linear layer to tap; name module paths in `taps`"
        )
    return taps


@contextmanager
def tapped(network: nn.Module, taps: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """While open, every forward pass leaves each tap's ``float32[N, d]`` in the yielded dict:
    spatial activations averaged over their positions, token sequences over their tokens."""
    modules = dict(network.named_modules())
    values: dict[str, Tensor] = {}
    handles = []
    for tap in taps:
        path, _, end = tap.rpartition(".")
        is_input = end == "input" and path in modules
        name = path if is_input else tap
        if name not in modules:
            raise TapProblem(
                f"the network has no module {name!r}; its first ones are "
                f"{', '.join(list(modules)[1:8])}"
            )

        def before(_: nn.Module, inputs: tuple[Tensor, ...], tap: str = tap) -> None:
            values[tap] = pooled(inputs[0])

        def after(_: nn.Module, __: object, output: Tensor, tap: str = tap) -> None:
            values[tap] = pooled(output)

        module = modules[name]
        handles.append(
            module.register_forward_pre_hook(before)
            if is_input
            else module.register_forward_hook(after)
        )
    try:
        yield values
    finally:
        for handle in handles:
            handle.remove()


def pooled(activation: Tensor) -> Tensor:
    """``[N, d]`` as it is, ``[N, d, h, w]`` averaged over positions, ``[N, t, d]`` over tokens."""
    if activation.ndim == 4:
        return activation.mean(dim=(2, 3))
    if activation.ndim == 3:
        return activation.mean(dim=1)
    return activation
