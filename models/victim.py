"""A diagnostic model as an attacker differentiates it: frozen, folded, fast."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from models.diagnostic import DiagnosticModel
from models.head import class_logits
from models.spec import ModelSpec
from models.thin_convolution import ThinConvolution


class Victim(nn.Module):
    """``uint8 or float[N, H, W, 1 or 3]`` pixels in grey levels to ``float32[N, K]`` class logits.

    Batch normalisation is folded into the convolutions, memory is laid out channels-last and the
    first convolution's input gradient is computed as a convolution (``ThinConvolution``): the same
    function to float32 rounding, a third cheaper to differentiate on a CPU. Weights want no
    gradients.
    """

    def __init__(self, model: DiagnosticModel, device: str = "cpu") -> None:
        super().__init__()
        self._made_from = (model, device)  # a tuple, so that torch does not count it as a part
        self.spec: ModelSpec = model.spec
        self.preprocess = model.preprocess
        self.network = _folded(model.network)
        self.to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stub
        self.eval().requires_grad_(False)

    def __reduce__(self) -> tuple[type[Victim], tuple[DiagnosticModel, str]]:
        """As what it was made from: a folded network is a generated class, which no other process
        has."""
        return Victim, self._made_from

    def forward(self, pixels: Tensor) -> Tensor:
        prepare = self.preprocess
        x = prepare.unresized(pixels) if prepare.keeps(*pixels.shape[1:3]) else prepare(pixels)
        return class_logits(self.network(x), self.spec.head)


def _folded(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network).eval()
    try:
        folded: nn.Module = fuse(network)
    except Exception:  # whatever a network that cannot be traced raises: it stays as it is
        folded = network
    for name, module in list(folded.named_modules()):
        if name and ThinConvolution.fits(module):
            folded.set_submodule(name, ThinConvolution(module))
    return folded
