"""Disagreement between the model's answer to an image and to its squeezed view."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import least_squares, nnls
from torch import Tensor

from detectors.detector import Detector
from detectors.features import Features

Vector = npt.NDArray[np.float64]

FEWEST = 30  # images of a predicted class below which the line of all classes serves it


class Agreement(Detector):
    """How much less a squeezed view supports the predicted class than it should.

    After feature squeezing (Xu et al. 2018) with one view, learnt from benign images alone. With
    ``c`` the predicted class of the plain view and ``m = z_c - max_{j != c} z_j`` its margin in
    either view, benign images follow ``m_squeezed ~ a_c + b_c m_plain`` with a spread
    ``s_c + t_c m_plain``. The score is the shortfall ``expected - actual`` in units of that
    spread, so a benign image close to the boundary, where both views waver, stays quiet.
    """

    name = "agreement"
    offset: Tensor
    slope: Tensor
    spread: Tensor
    growth: Tensor

    def fit(
        self,
        benign: Features,
        labels: Tensor,  # noqa: ARG002
        adversarial: Features,  # noqa: ARG002
        groups: Tensor | None = None,  # noqa: ARG002
    ) -> Self:
        if benign.squeezed_logits.shape[1] == 0:
            raise ValueError("agreement needs the squeezed view; give the guard one")
        with torch.no_grad():
            plain, squeezed, predicted = _margins(benign)
        m, actual, c = (tensor.double().cpu().numpy() for tensor in (plain, squeezed, predicted))
        pooled = _fit_line(m, actual)
        lines = [
            _fit_line(m[c == k], actual[c == k]) if (c == k).sum() >= FEWEST else pooled
            for k in range(benign.logits.shape[1])
        ]
        offset, slope, spread, growth = plain.new_tensor(np.stack(lines)).unbind(dim=1)
        self._store(offset=offset, slope=slope, spread=spread, growth=growth)
        return self

    def forward(self, features: Features) -> Tensor:
        plain, squeezed, predicted = _margins(features)
        expected = (
            self.offset.index_select(0, predicted) + self.slope.index_select(0, predicted) * plain
        )
        spread = (
            self.spread.index_select(0, predicted) + self.growth.index_select(0, predicted) * plain
        )
        return (expected - squeezed) / spread


def _margins(features: Features) -> tuple[Tensor, Tensor, Tensor]:
    """``float32[N]`` margins of the predicted class in the plain and in the squeezed view, and
    ``int64[N]`` that class."""
    best = features.logits.topk(2, dim=1)
    predicted = best.indices[:, 0]
    plain = best.values[:, 0] - best.values[:, 1]
    squeezed = features.squeezed_logits
    classes = torch.arange(squeezed.shape[1], device=squeezed.device)
    chosen = classes == predicted[:, None]
    own = torch.where(chosen, squeezed, -torch.inf).amax(dim=1)
    rival = torch.where(chosen, -torch.inf, squeezed).amax(dim=1)
    return plain, own - rival, predicted


def _fit_line(m: Vector, actual: Vector) -> Vector:
    """``float64[4]``: offset, slope, spread and its growth, the last three not negative.

    Huber regression, so that a few benign images whose answer does flip bend nothing; they do
    count in the spread.
    """
    typical = max(float(np.median(np.abs(actual - np.median(actual)))), 1e-3)
    line = least_squares(
        lambda p: p[0] + p[1] * m - actual,
        x0=[0.0, 1.0],
        bounds=([-np.inf, 0.0], np.inf),
        loss="huber",
        f_scale=0.5 * typical,
    ).x
    shortfall = np.abs(line[0] + line[1] * m - actual)
    # A Gaussian's deviation is 1.25 times its mean absolute deviation.
    (spread, growth), _ = nnls(np.stack([np.ones_like(m), m], axis=1), 1.2533 * shortfall)
    return np.array([*line, max(spread, 0.05 * typical), growth])
