"""Whitening by a shrunk covariance."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor


def spectrum(residuals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Deviations, variances and directions of centred ``float64[N, d]`` residuals.

    The covariance of the residuals in units of their deviations, shrunk by Ledoit and Wolf (2004),
    is ``V diag(values) V^T``.

    Returns:
        ``float64[d]`` deviations, ``float64[d]`` ascending values, ``float64[d, d]`` directions.
    """
    deviation = residuals.square().mean(dim=0).sqrt()
    # A unit that is silent in the reference gets a small deviation, not none: when an image
    # wakes it, that is news, not a division by zero.
    floor = 0.01 * deviation.median().clamp(min=1e-6)
    deviation = deviation.clamp(min=floor)
    covariance, _ = ledoit_wolf((residuals / deviation).cpu().numpy(), assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    return (
        deviation,
        torch.from_numpy(np.maximum(values, 1e-6)).to(residuals),
        torch.from_numpy(vectors).to(residuals),
    )


def whitening(residuals: Tensor) -> Tensor:
    """``float64[d, d]``: ``W`` with ``W W^T`` the inverse of the shrunk covariance; columns by
    ascending variance."""
    deviation, values, vectors = spectrum(residuals)
    return vectors / values.sqrt() / deviation[:, None]


def class_means(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """``float64[C, d]`` means of the classes that occur, and each row's place among them."""
    classes, member = torch.unique(labels, return_inverse=True)
    return torch.stack([x[member == c].mean(dim=0) for c in range(len(classes))]), member
