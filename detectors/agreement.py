"""Disagreement between the model's answer to an image and to its squeezed view."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor

from detectors.benign_line import benign_lines, deviation
from detectors.detector import Detector
from detectors.features import Features

START, LOWEST = (0.0, 1.0, 0.0, 0.0), (-np.inf, 0.0, -np.inf, -np.inf)
"""Of the expected margin's coefficients: that of the plain margin is not negative."""


class Agreement(Detector):
    """How differently from what it should a squeezed view supports the predicted class.

    After feature squeezing (Xu et al. 2018) with one view that moves little, learnt from benign
    images alone. With ``c`` the predicted class of the plain view, ``m = z_c - max_{j != c} z_j``
    its margin in either view and ``r`` how far squeezing moved the pixels, benign images follow
    ``m_squeezed ~ a_c . (1, m, r, r^2)``, and 98 % of them keep within 2.3 times a spread
    ``s_c . (1, m, r, r^2)``. The score is ``|expected - actual|`` in units of that spread. So an
    image close to the boundary, where both views waver, stays quiet, and so does a noisy one, whose
    pixels the blur would move far: an attack changes the answer more than its size accounts for.

    The spread is a quantile, not a mean deviation: the differences of noisy images have longer
    tails than those of clean ones, and the false alarms are in the tails.

    Two-sided: an attack that fails shows as well, by a squeezed view that supports the class
    *more* than the plain one. An image smoother than the benign ones' lower quartile counts as that
    quartile: a line says nothing below the images it was fitted on.
    """

    name = "agreement"
    expected: Tensor
    spread: Tensor
    smoothest: Tensor

    def fit(
        self,
        benign: Features,
        labels: Tensor,  # noqa: ARG002  every detector has it
        adversarial: Features,  # noqa: ARG002  every detector has it
        groups: Tensor | None = None,  # noqa: ARG002  every detector has it
    ) -> Self:
        if benign.squeezed_logits.shape[1] == 0:
            raise ValueError("agreement needs the squeezed view; give the guard one")
        self._store(smoothest=benign.squeeze_change.quantile(0.25))
        with torch.no_grad():
            known, squeezed, predicted = self._margins(benign)
        self._store(
            **benign_lines(known, squeezed, predicted, benign.logits.shape[1], START, LOWEST)
        )
        return self

    def forward(self, features: Features) -> Tensor:
        return self.deviation(features).abs()

    def deviation(self, features: Features) -> Tensor:
        """``float32[N]``: the score with its sign, positive where the squeezed view supports the
        class less than it should."""
        known, squeezed, predicted = self._margins(features)
        return -deviation(known, squeezed, predicted, self.expected, self.spread)

    def _margins(self, features: Features) -> tuple[Tensor, Tensor, Tensor]:
        """``float32[N, 4]``: one, the predicted class's margin and how far squeezing moved the
        pixels, also squared; ``float32[N]``, that class's margin in the squeezed view;
        ``int64[N]``, it."""
        best = features.logits.topk(2, dim=1)
        predicted = best.indices[:, 0]
        plain = best.values[:, 0] - best.values[:, 1]
        change = torch.maximum(features.squeeze_change, self.smoothest)
        known = torch.stack([torch.ones_like(plain), plain, change, change.square()], dim=1)
        squeezed = features.squeezed_logits
        classes = torch.arange(squeezed.shape[1], device=squeezed.device)
        chosen = classes == predicted[:, None]
        own = torch.where(chosen, squeezed, -torch.inf).amax(dim=1)
        rival = torch.where(chosen, -torch.inf, squeezed).amax(dim=1)
        return known, own - rival, predicted
