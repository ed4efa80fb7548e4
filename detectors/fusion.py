"""From the detectors' scores to the one that the adversarial route judges."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor, nn

CLIP = (-1.0, 30.0)
"""Bounds on a standardised score. One that explodes counts as certain, not as infinite. And none
vouches for an image: a synthetic gradient whose sign is wrong for once, or features that are all
too typical, must not outweigh what the others saw (docs/evidence.md)."""


class Fusion(nn.Module):
    """``sum_d w_d clip((s_d - median_d) / spread_d) + b``, learnt on the *fusion* split.

    Median and spread (1.4826 MAD) are those of benign images; where the spread is 0, the mean
    deviation of benign and attacked ones at equal mass. Weights are those of a logistic
    regression, benign against attacked at equal mass, with an L2 penalty and ``w >= 0``: a more
    suspicious detector never lowers the suspicion. A NaN score makes the fused score NaN.

    Args:
        nonnegative: False lets the regression subtract detectors from each other.
        penalty: ``lambda`` in ``mean loss + lambda/2 |w|^2``.
    """

    median: Tensor
    inverse_spread: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, *, nonnegative: bool = True, penalty: float = 1e-3) -> None:
        super().__init__()
        self.nonnegative, self.penalty = nonnegative, penalty

    def fit(self, benign: Tensor, adversarial: Tensor) -> Self:
        """Fit on ``float32[N, D]`` and ``float32[M, D]`` scores, all finite."""
        if not (torch.isfinite(benign).all() and torch.isfinite(adversarial).all()):
            raise ValueError("scores must be finite; a detector did not answer for some image")
        median = benign.quantile(0.5, dim=0)
        deviation = (benign - median).abs()
        spread = 1.4826 * deviation.quantile(0.5, dim=0)
        # More than half of the scores equal (a detector that is silent about benign images): a unit
        # is then what attacks move it by, too, lest the slightest murmur counts as certain.
        murmur = (deviation.mean(dim=0) + (adversarial - median).abs().mean(dim=0)) / 2
        spread = torch.where(spread > 1e-6, spread, murmur).clamp(min=1e-6)
        self.register_buffer("median", median)
        self.register_buffer("inverse_spread", 1 / spread)
        x = self._standardised(torch.cat([benign, adversarial])).double().cpu().numpy()
        sign = np.r_[-np.ones(len(benign)), np.ones(len(adversarial))]
        mass = np.r_[
            np.full(len(benign), 0.5 / len(benign)),
            np.full(len(adversarial), 0.5 / len(adversarial)),
        ]

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            w, b = parameters[:-1], parameters[-1]
            margin = sign * (x @ w + b)
            pull = -mass * sign * expit(-margin)
            value = mass @ np.logaddexp(0, -margin) + self.penalty / 2 * w @ w
            return float(value), np.r_[pull @ x + self.penalty * w, pull.sum()]

        lowest = 0.0 if self.nonnegative else None
        width = x.shape[1]
        solution = minimize(
            loss,
            np.zeros(width + 1),
            jac=True,
            method="L-BFGS-B",
            bounds=[(lowest, None)] * width + [(None, None)],
            options={"maxiter": 1000},
        ).x
        self.register_buffer("weight", benign.new_tensor(solution[:-1]))
        self.register_buffer("bias", benign.new_tensor(solution[-1]))
        return self

    def forward(self, scores: Tensor) -> Tensor:
        """``float32[N, D]`` to ``float32[N]``."""
        return self._standardised(scores) @ self.weight + self.bias

    def _standardised(self, scores: Tensor) -> Tensor:
        return ((scores - self.median) * self.inverse_spread).clamp(*CLIP)
