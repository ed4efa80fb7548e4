"""A diagnostic model as an attacker differentiates it: frozen, folded, fast."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from models.attack_graph import chained
from models.diagnostic import DiagnosticModel
from models.frozen_chain import FrozenChain
from models.head import class_logits
from models.spec import ModelSpec
from models.thin_convolution import ThinConvolution


class Victim(nn.Module):
    """``uint8 or float[N, H, W, 1 or 3]`` pixels in grey levels to ``float32[N, K]`` class logits.

    Batch normalisation is folded into the convolutions, memory is laid out channels-last, the
    first convolution's input gradient is computed as a convolution (``ThinConvolution``), and
    the others run with their sums and ReLUs as ``FrozenChain``: the same function to float32
    rounding, a third to two fifths cheaper to differentiate on a CPU. Differentiable once.
    Weights want no gradients.
    """

    def __init__(self, model: DiagnosticModel, device: str = "cpu") -> None:
        super().__init__()
        self._made_from = (model, device)  # a tuple, so that torch does not count it as a part
        self.spec: ModelSpec = model.spec
        self.preprocess = copy.deepcopy(model.preprocess)  # the model stays where it is
        self.network = _folded(model.network)
        self.to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stub
        self.eval().requires_grad_(False)
        if torch.device(device).type == "cpu":
            _pack(self.network, self.spec)

    def __reduce__(self) -> tuple[type[Victim], tuple[DiagnosticModel, str]]:
        """As what it was made from: a folded network is a generated class, which no other process
        has."""
        return Victim, self._made_from

    def forward(self, pixels: Tensor) -> Tensor:
        prepare = self.preprocess
        x = prepare.unresized(pixels) if prepare.keeps(*pixels.shape[1:3]) else prepare(pixels)
        return class_logits(self.network(x), self.spec.head)


_BATCH = 4
"""Weights are ordered for so many images; others run as well."""


def _pack(network: nn.Module, spec: ModelSpec) -> None:
    """Let every chain order its weights for the sizes that it will see. Now and not when it first
    sees them, so that results do not depend on who was first."""

    def pack(chain: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(chain, FrozenChain)
        chain.pack([value.shape for value in inputs])

    chains = [module for module in network.modules() if isinstance(module, FrozenChain)]
    handles = [chain.register_forward_pre_hook(pack) for chain in chains]
    try:
        if chains:
            with torch.no_grad():
                network(torch.zeros(_BATCH, spec.preprocessing.channels, *spec.preprocessing.size))
    finally:
        for handle in handles:
            handle.remove()


def _folded(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network).eval()
    try:
        folded: nn.Module = chained(fuse(network))
    except Exception:  # whatever a network that cannot be traced raises: it stays as it is
        folded = network
    for name, module in list(folded.named_modules()):
        if name and ThinConvolution.fits(module):
            folded.set_submodule(name, ThinConvolution(module))
    return folded
