"""What a detector is: fitted on features, then a module from features to one score an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from torch import Tensor, nn

from detectors.features import Features


class Detector(nn.Module, ABC):
    """A stateless detector. Everything it learns is a buffer, so it saves, moves and exports.

    ``forward`` uses tensor operations only (it is traced into the fused ONNX graph with a dynamic
    batch), has no Python branch on data, and is differentiable where its mathematics allows.
    """

    name: ClassVar[str]

    @abstractmethod
    def fit(
        self,
        benign: Features,
        labels: Tensor,
        adversarial: Features,
        groups: Tensor | None = None,
    ) -> Self:
        """Learn from the *reference* split.

        Args:
            benign: features of ``N`` clean (and benignly shifted) images.
            labels: ``int64[N]``, their true classes.
            adversarial: features of attacked images from the same patients. Detectors that
                learn from benign images alone ignore it.
            groups: ``int64[N + M]``, the patient (or source) of each benign image, then of each
                attacked one. A benign image and its own shifted or attacked version are never
                compared. None: every image is its own group.
        """

    @abstractmethod
    def forward(self, features: Features) -> Tensor:
        """Return ``float32[N]``; higher is more suspicious."""

    def _store(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().clone().contiguous())
