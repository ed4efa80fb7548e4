"""Kernel density of the penultimate layer."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from detectors.bank import split_groups, subsample
from detectors.detector import Detector
from detectors.features import Features

Matrix = npt.NDArray[np.float64]

EXCLUDED = -1e30  # added to an exponent: finite, so that nothing turns into NaN, and exp() is 0


class KernelDensity(Detector):
    """Feinman et al. 2017 (arXiv 1703.00410, section 4.1), as used by Ma et al. 2021.

    ``log p_t(x) = log( 1/n_t  sum_{j: y_j = t} N(f(x); f(x_j), h_t^2 I) )`` with ``f`` the
    penultimate tap and ``t`` the *predicted* class of ``x``. The score is ``-log p_t(x)`` plus the
    median that held-out reference images of class ``t`` get, so that classes share one scale: 0
    is typical, positive is less dense than typical.

    ``h_t`` maximises the leave-one-group-out likelihood of the bank; ``bandwidth=1.0`` is the
    paper's preset (released code, all three tasks). A class with fewer than two groups in the
    bank borrows the bandwidth, and the bank, of all.

    All distances to the bank are one matrix product: with ``w_j = 1 / (2 h_j^2)`` the exponent is
    ``[x, |x - m|^2] . [2 w_j b_j, -w_j] + c_j``, ``b_j`` centred on the bank's mean ``m``.
    """

    name = "kd"
    mean: Tensor
    weight: Tensor
    constants: Tensor

    def __init__(self, bandwidth: float | None = None, bank: int = 500, seed: int = 0) -> None:
        super().__init__()
        self.bandwidth, self.bank, self.seed = bandwidth, bank, seed

    def fit(
        self,
        benign: Features,
        labels: Tensor,
        adversarial: Features,
        groups: Tensor | None = None,
    ) -> Self:
        benign_groups, _ = split_groups(groups, len(labels), len(adversarial.logits))
        index = subsample(labels, benign_groups, self.bank, self.seed)
        tap = benign.taps[-1]
        bank = tap[index].detach().double().cpu().numpy()
        label = labels[index].cpu().numpy()
        group = benign_groups[index.cpu()].numpy()
        if len(np.unique(group)) < 2:
            raise ValueError("kernel density needs reference images of at least two patients")

        mean = bank.mean(axis=0)
        bank = bank - mean
        norm = (bank**2).sum(axis=1)
        squared = np.maximum(norm[:, None] + norm[None] - 2 * bank @ bank.T, 0)
        own = group[:, None] == group[None]

        classes, width = benign.logits.shape[1], bank.shape[1]
        w, constant = np.empty(len(bank)), np.empty(len(bank))
        mask = np.zeros((classes, len(bank)))
        lonely = {c for c in range(classes) if len(np.unique(group[label == c])) < 2}
        pooled = self._fit_density(squared, own, width) if lonely else np.empty(2)
        for c in range(classes):
            members = label == c
            if c in lonely:
                h, typical = pooled
            else:
                inside = np.ix_(members, members)
                h, typical = self._fit_density(squared[inside], own[inside], width)
                mask[c, ~members] = EXCLUDED
            count = len(bank) if c in lonely else members.sum()
            w[members] = 1 / (2 * h**2)
            constant[members] = (
                -norm[members] * w[members]
                - np.log(count)
                - width / 2 * np.log(2 * np.pi * h**2)
                - typical
            )
        # x enters uncentred: the product with m moves into the constant.
        scaled = 2 * w[:, None] * bank
        self._store(
            mean=tap.new_tensor(mean),
            weight=tap.new_tensor(np.c_[scaled, -w].T),
            constants=tap.new_tensor(mask + constant - scaled @ mean),
        )
        return self

    def _fit_density(self, squared: Matrix, own: npt.NDArray[np.bool_], width: int) -> Matrix:
        h = self.bandwidth or likeliest_bandwidth(squared, own, width)
        typical = np.median(left_out_log_density(squared, own, width, h))
        return np.array([h, typical])

    def forward(self, features: Features) -> Tensor:
        tap = features.taps[-1]
        x = tap - self.mean
        norm = (x * x).sum(dim=1, keepdim=True)  # not a power, which takes twice as long
        own = self.constants.index_select(0, features.predicted)
        exponent = torch.addmm(own, torch.cat([tap, norm], dim=1), self.weight)
        return -torch.logsumexp(exponent, dim=1)


def left_out_log_density(
    squared: Matrix, own: npt.NDArray[np.bool_], width: int, bandwidth: float
) -> Matrix:
    """``float64[n]``: log density of each point under the Gaussian kernels on all points that
    are not its own.

    Args:
        squared: ``float64[n, n]``, squared distances.
        own: ``bool[n, n]``, pairs (the diagonal among them) that must not see each other.
        width: dimension of the space.
    """
    squared = np.where(own, np.inf, squared)
    nearest = squared.min(axis=1)
    kernels = np.exp((nearest[:, None] - squared) / (2 * bandwidth**2))
    density = np.log(kernels.sum(axis=1) / (~own).sum(axis=1)) - nearest / (2 * bandwidth**2)
    return np.asarray(density - width / 2 * np.log(2 * np.pi * bandwidth**2))


def likeliest_bandwidth(squared: Matrix, own: npt.NDArray[np.bool_], width: int) -> float:
    """The bandwidth with the largest mean left-out log density (likelihood cross-validation,
    Habbema et al. 1974). Points without any other count for nothing."""
    rows = (~own).any(axis=1)
    squared, own = squared[rows], own[rows]
    typical = np.sqrt(max(float(np.median(squared[~own])), 1e-12) / width)

    def loss(log_h: float) -> float:
        return -float(left_out_log_density(squared, own, width, np.exp(log_h)).mean())

    # The likelihood may have several peaks: find the best on a grid, then refine beside it.
    grid = np.log(typical) + np.linspace(-3.0, 1.0, 25)
    best = int(np.argmin([loss(h) for h in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))
