"""The residual network's answer as a score."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from detectors.detector import Detector
from detectors.features import Features


class Residual(Detector):
    """The logit of ``detectors.residual_network``, which was trained before the detectors are
    fitted and is a part of the feature graph."""

    name = "residual"

    def fit(
        self,
        benign: Features,
        labels: Tensor,  # noqa: ARG002  every detector has it
        adversarial: Features,  # noqa: ARG002  every detector has it
        groups: Tensor | None = None,  # noqa: ARG002  every detector has it
    ) -> Self:
        if benign.residual.shape[1] == 0:
            raise ValueError("residual needs the residual network's answers; give the guard one")
        return self

    def forward(self, features: Features) -> Tensor:
        return features.residual[:, 0]
