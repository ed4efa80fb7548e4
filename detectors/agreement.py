"""Disagreement between the model's answer to an image and to its squeezed view."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.optimize import least_squares, linprog
from torch import Tensor

from detectors.detector import Detector
from detectors.features import Features

Vector = npt.NDArray[np.float64]

WITHIN, DEVIATIONS = 0.98, 2.326
"""The share of benign images that the spread reaches at so many of it: those of a Gaussian."""

FEWEST = 30  # images of a predicted class below which the line of all classes serves it


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
        u, actual, c = (tensor.double().cpu().numpy() for tensor in (known, squeezed, predicted))
        pooled = _fit_line(u, actual)
        lines = [
            _fit_line(u[c == k], actual[c == k]) if (c == k).sum() >= FEWEST else pooled
            for k in range(benign.logits.shape[1])
        ]
        expected, spread = zip(*lines, strict=True)
        self._store(
            expected=known.new_tensor(np.stack(expected)), spread=known.new_tensor(np.stack(spread))
        )
        return self

    def forward(self, features: Features) -> Tensor:
        return self.deviation(features).abs()

    def deviation(self, features: Features) -> Tensor:
        """``float32[N]``: the score with its sign, positive where the squeezed view supports the
        class less than it should."""
        known, squeezed, predicted = self._margins(features)
        expected = (self.expected.index_select(0, predicted) * known).sum(dim=1)
        spread = (self.spread.index_select(0, predicted) * known).sum(dim=1)
        return (expected - squeezed) / spread

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


def _fit_line(u: Vector, actual: Vector) -> tuple[Vector, Vector]:
    """``float64[4]`` each: coefficients of the expected margin (that of the plain margin is not
    negative) and of its spread (none is negative), on ``u: float64[N, 4]``.

    Huber regression, so that a few benign images whose answer does flip bend nothing; they do
    count in the spread, a quantile regression (Koenker and Bassett 1978).
    """
    typical = max(float(np.median(np.abs(actual - np.median(actual)))), 1e-3)
    expected = least_squares(
        lambda p: u @ p - actual,
        x0=[0.0, 1.0, 0.0, 0.0],
        bounds=([-np.inf, 0.0, -np.inf, -np.inf], np.inf),
        loss="huber",
        f_scale=0.5 * typical,
    ).x
    spread = _quantile(u, np.abs(u @ expected - actual), WITHIN) / DEVIATIONS
    spread[0] = max(spread[0], 0.05 * typical)
    return expected, spread


def _quantile(u: Vector, y: Vector, share: float) -> Vector:
    """``b >= 0`` with ``u . b`` above that share of ``y``: the linear programme of least
    ``sum(share * over + (1 - share) * under)`` with ``u . b + over - under = y``."""
    n, width = u.shape
    cost = np.r_[np.zeros(width), np.full(n, share), np.full(n, 1 - share)] / n
    equal = sparse.hstack([sparse.csr_matrix(u), sparse.eye(n), -sparse.eye(n)]).tocsr()
    found = linprog(cost, A_eq=equal, b_eq=y, method="highs").x
    return np.asarray(found[:width])
