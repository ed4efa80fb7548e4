"""A diagnostic model: pixels to class logits and taps, with gradients all the way to the pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.head import class_logits
from models.preprocess import Preprocess
from models.spec import ModelSpec
from models.taps import find_taps, tapped


class DiagnosticModel(nn.Module):
    """The classifier being protected, with its declared preprocessing and head.

    ``forward`` takes decoded pixels, ``uint8 or float[N, H, W, 1 or 3]`` in grey levels 0 to 255 at
    the source's resolution, and returns ``float32[N, K]`` class logits: what an attack needs.
    """

    def __init__(self, spec: ModelSpec, network: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.preprocess = Preprocess(spec.preprocessing)
        self.network = network
        self.eval()
        if spec.taps is None:
            example = torch.zeros(2, spec.preprocessing.channels, *spec.preprocessing.size)
            self.taps = find_taps(network, example.to(next(network.parameters()).device))
        else:
            self.taps = spec.taps

    def forward(self, pixels: Tensor) -> Tensor:
        return class_logits(self.network(self.preprocess(pixels)), self.spec.head)

    def activations(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """From the network's own input ``float32[N, C, h, w]``: its raw logits ``[N, L]`` and its
        pooled taps ``[N, d_l]``."""
        with tapped(self.network, self.taps) as values:
            logits = self.network(x)
        return logits, tuple(values[tap] for tap in self.taps)
