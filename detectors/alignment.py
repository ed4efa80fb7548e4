"""Whether the picture's finest texture is a step along the model's own gradient."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor

from detectors.benign_line import benign_lines, deviation
from detectors.detector import Detector
from detectors.features import Features

START, LOWEST = (0.0, 0.0, 0.0, 0.0), (-np.inf, -np.inf, -np.inf, -np.inf)
"""Of the expected correlation's coefficients."""
REACH = 0.01, 0.99
"""Quantiles of benign pictures' heights: a line says nothing beyond what it was fitted on, so what
is smoother or rougher counts as these."""


class Alignment(Detector):
    """The matched filter of detection theory (North 1943; Kay 1998, chapter 4) for what an attack
    adds. A sign attack adds the sign of a gradient; the image that arrives still has nearly that
    gradient, the more so the smoother the model; and the noise to find it in is the image, which is
    whitened by its second differences. So these are correlated with those of the gradient's sign
    (``detectors.aligned``). Liu et al. 2019 (arXiv 1806.09186) look where a gradient would have
    an attack change most; this asks whether it did.

    Benign images' correlation is a hundredth; noise that fills the picture widens it, since a
    model's gradient leans to the noise that it is shown; and so does the want of it, since what few
    edges a blurred picture keeps are all there is to correlate. So with ``h`` the height of the
    picture's second differences, benign images follow a line ``a_c . (1, h, h^2, 1/h)`` by
    predicted class ``c`` and keep within a spread ``s_c . (1, h, h^2, 1/h)`` of it, as for
    ``detectors.agreement``. The score is how far above the line, in units of the spread. Below it
    lies an attack that has failed.

    Hardening, which leaves agreement less to see, leaves more here. Who knows this can spare the
    finest texture, and pays with a smaller step.
    """

    name = "alignment"
    column = 0
    """Of ``Features.aligned``."""
    expected: Tensor
    spread: Tensor
    reach: Tensor
    """``float32[2]``: the lowest and the highest height that it tells apart."""

    def fit(
        self,
        benign: Features,
        labels: Tensor,  # noqa: ARG002  every detector has it
        adversarial: Features,  # noqa: ARG002  every detector has it
        groups: Tensor | None = None,  # noqa: ARG002  every detector has it
    ) -> Self:
        if benign.aligned.shape[1] == 0:
            raise ValueError(f"{self.name} needs a gradient; give the feature graph one")
        self._store(reach=benign.aligned[:, -1].quantile(benign.aligned.new_tensor(REACH)))
        self._store(
            **benign_lines(
                self._known(benign), benign.aligned[:, self.column], benign.predicted,
                benign.logits.shape[1], START, LOWEST,
            )
        )  # fmt: skip
        return self

    def forward(self, features: Features) -> Tensor:
        return deviation(
            self._known(features),
            features.aligned[:, self.column],
            features.predicted,
            self.expected,
            self.spread,
        )

    def _known(self, features: Features) -> Tensor:
        height = features.aligned[:, -1].clamp(self.reach[0], self.reach[1])
        return torch.stack(
            [torch.ones_like(height), height, height.square(), height.reciprocal()], dim=1
        )


class SyntheticAlignment(Alignment):
    """``Alignment`` with what ``detectors.synthetic_gradient`` foretells in the gradient's place: a
    few per cent of the model's cost in place of a pass backwards. It finds a tenth to a third of
    the signal on hardened models, which is three times what benign images spread by and mostly far
    more (docs/evidence.md)."""

    name = "synthetic_alignment"
    column = -2
