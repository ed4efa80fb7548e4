"""How near the model is to another answer."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from detectors.detector import Detector
from detectors.features import Features


class Margin(Detector):
    """After the baseline of Hendrycks and Gimpel 2017 (arXiv 1610.02136), with the logits' margin
    in the largest probability's place, which saturates.

    With ``m = z_c - max_{j != c} z_j`` the predicted class's margin, the score is ``-m / t_c``,
    ``t_c`` the median margin of reference images of class ``c``: -1 is typical, 0 lies on the
    boundary. An attack that is just strong enough ends there. It is evidence enough to look twice,
    and none to hold: honest images lie there, too.
    """

    name = "margin"
    per_margin: Tensor

    def fit(
        self,
        benign: Features,
        labels: Tensor,  # noqa: ARG002  every detector has it
        adversarial: Features,  # noqa: ARG002  every detector has it
        groups: Tensor | None = None,  # noqa: ARG002  every detector has it
    ) -> Self:
        margin, predicted = _margins(benign.logits), benign.predicted
        typical = margin.quantile(0.5)
        by_class = [
            margin[predicted == c].quantile(0.5) if (predicted == c).any() else typical
            for c in range(benign.logits.shape[1])
        ]
        self._store(per_margin=-1 / torch.stack(by_class).clamp(min=1e-6))
        return self

    def forward(self, features: Features) -> Tensor:
        return _margins(features.logits) * self.per_margin.index_select(0, features.predicted)


def _margins(logits: Tensor) -> Tensor:
    return logits.topk(2, dim=1).values @ logits.new_tensor([1.0, -1.0])  # one operation
