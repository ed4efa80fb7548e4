"""L2 logistic regression as one matrix product."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn


class Logistic(nn.Module):
    """``w . x + b``: the log-odds of "adversarial" at equal class weights.

    Features are standardised by the fitting data's mean and deviation and the classes weighted
    to equal mass; the standardisation is folded into ``w`` and ``b``.
    """

    weight: Tensor
    bias: Tensor

    def fit(self, negative: Tensor, positive: Tensor, inverse_penalty: float = 1.0) -> Self:
        """Fit on ``float32[N, D]`` negatives and ``float32[M, D]`` positives.

        A feature that never varies gets weight zero. Raises ``ValueError`` when a side is empty.
        """
        if len(negative) == 0 or len(positive) == 0:
            raise ValueError(
                f"logistic regression needs both kinds of image, got {len(negative)} benign and "
                f"{len(positive)} attacked"
            )
        x = torch.cat([negative, positive]).detach().double().cpu().numpy()
        y = np.r_[np.zeros(len(negative)), np.ones(len(positive))]
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        alive = deviation > 1e-6 * (np.abs(mean) + 1e-6)
        inverse = np.where(alive, 1 / np.where(alive, deviation, 1.0), 0.0)
        model = LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=1000)
        model.fit((x - mean) * inverse, y)
        weight = model.coef_[0] * inverse
        bias = model.intercept_[0] - weight @ mean
        self.register_buffer("weight", negative.new_tensor(weight))
        self.register_buffer("bias", negative.new_tensor(bias))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """``float32[N, D]`` to ``float32[N]``."""
        return x @ self.weight + self.bias
