"""Mahalanobis distance to the nearest class, tap by tap."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor, nn

from detectors.bank import folds, split_groups
from detectors.detector import Detector
from detectors.features import Features
from detectors.logistic import Logistic

FOLDS = 5


class TapDistances(nn.Module):
    """``z_l(x)``: standardised log of ``min_c (f_l(x) - mu_lc)^T S_l^-1 (f_l(x) - mu_lc)``.

    ``mu_lc`` are class means and ``S_l`` the covariance tied over classes at tap ``l``, shrunk by
    Ledoit and Wolf (2004) in units of the within-class deviations. Location and scale of ``z_l``
    are those of benign images outside the fit (cross-fitting by group), so 0 is typical.

    Whitening ``W_l`` is folded into one linear layer per tap, after which the distances to all
    class means of all taps are one matrix product.
    """

    location: Tensor
    scale: Tensor
    owner: Tensor
    means: Tensor
    constant: Tensor

    def fit(self, taps: tuple[Tensor, ...], labels: Tensor, groups: Tensor) -> Self:
        """Fit on ``float32[N, d_l]`` benign taps, their classes and groups."""
        self.held_out(taps, labels, groups, taps, groups)
        return self

    def held_out(
        self,
        taps: tuple[Tensor, ...],
        labels: Tensor,
        groups: Tensor,
        queries: tuple[Tensor, ...],
        query_groups: Tensor,
    ) -> Tensor:
        """Fit, and return ``float32[M, T]``: each query's distances as measured by the fold's fit
        that has not seen its group. A query whose group is in no fold is averaged over all."""
        fold = folds(groups, FOLDS, seed=0)
        names, first = np.unique(groups.cpu().numpy(), return_index=True)
        at = np.searchsorted(names, query_groups.cpu().numpy()).clip(max=len(names) - 1)
        known = torch.from_numpy(names[at]) == query_groups.cpu()
        fold_of_query = torch.where(known, fold[torch.from_numpy(first[at])], -1)
        ones, zeros = (fill(len(taps), device=labels.device) for fill in (torch.ones, torch.zeros))
        benign = labels.new_zeros((len(labels), len(taps)), dtype=torch.float32)
        result = labels.new_zeros((len(fold_of_query), len(taps)), dtype=torch.float32)
        for f in range(FOLDS):
            inside = (fold != f).to(labels.device)
            if not inside.any() or inside.all():
                raise ValueError(f"needs reference images of at least {FOLDS} patients")
            self._fit_moments(tuple(tap[inside] for tap in taps), labels[inside])
            self._standardise(zeros, ones)
            with torch.no_grad():
                benign[~inside] = self(tuple(tap[~inside] for tap in taps))
                answer = self(queries)
            mine = (fold_of_query == f).to(labels.device)
            stranger = (fold_of_query < 0).to(labels.device)
            result[mine] = answer[mine]
            result[stranger] += answer[stranger] / FOLDS
        self._fit_moments(taps, labels)
        location, scale = benign.mean(dim=0), benign.std(dim=0).clamp(min=1e-3)
        self._standardise(location, scale)
        return (result - location) / scale

    def _standardise(self, location: Tensor, scale: Tensor) -> None:
        self.register_buffer("location", location)
        self.register_buffer("scale", 1 / scale)

    def _fit_moments(self, taps: tuple[Tensor, ...], labels: Tensor) -> None:
        classes, member = torch.unique(labels, return_inverse=True)
        whitened_means = []
        for level, tap in enumerate(taps):
            x = tap.detach().double()
            means = torch.stack([x[member == c].mean(dim=0) for c in range(len(classes))])
            whitening = _whitening(x - means[member])
            centre = means.mean(dim=0)
            self.register_buffer(f"whitening{level}", whitening.float().contiguous())
            self.register_buffer(f"shift{level}", -(centre @ whitening).float())
            whitened_means.append((means - centre) @ whitening)
        widths = [tap.shape[1] for tap in taps]
        owner = torch.block_diag(*(torch.ones(d, 1) for d in widths)).to(labels.device)  # type: ignore[no-untyped-call]
        self.register_buffer("owner", owner)
        cross = torch.block_diag(*(-2 * mean.T for mean in whitened_means))  # type: ignore[no-untyped-call]
        self.register_buffer("means", cross.float().contiguous())
        norms = torch.cat([mean.square().sum(dim=1) for mean in whitened_means])
        self.register_buffer("constant", norms.float())

    def forward(self, taps: tuple[Tensor, ...]) -> Tensor:
        """``float32[N, T]``."""
        white = torch.cat(
            [
                torch.addmm(
                    self.get_buffer(f"shift{level}"), tap, self.get_buffer(f"whitening{level}")
                )
                for level, tap in enumerate(taps)
            ],
            dim=1,
        )
        to_means = torch.addmm(self.constant, white, self.means)
        nearest = to_means.reshape(len(white), len(taps), -1).amin(dim=2)
        squared = white.square() @ self.owner + nearest
        return (squared.clamp(min=1e-6).log() - self.location) * self.scale


class Mahalanobis(Detector):
    """Lee et al. 2018 (arXiv 1807.03888) without the input-gradient step: the taps' distances
    (``TapDistances``) go into one logistic regression, benign against attacked."""

    name = "mahalanobis"

    def __init__(self) -> None:
        super().__init__()
        self.distances = TapDistances()
        self.logistic = Logistic()

    def fit(
        self,
        benign: Features,
        labels: Tensor,
        adversarial: Features,
        groups: Tensor | None = None,
    ) -> Self:
        benign_groups, adversarial_groups = split_groups(
            groups, len(labels), len(adversarial.logits)
        )
        queries = tuple(torch.cat(pair) for pair in zip(benign.taps, adversarial.taps, strict=True))
        distances = self.distances.held_out(
            benign.taps,
            labels,
            benign_groups,
            queries,
            torch.cat([benign_groups, adversarial_groups]),
        )
        self.logistic.fit(distances[: len(labels)], distances[len(labels) :])
        return self

    def forward(self, features: Features) -> Tensor:
        logit: Tensor = self.logistic(self.distances(features.taps))
        return logit


def _whitening(residuals: Tensor) -> Tensor:
    """``float64[d, d]``: ``W`` with ``W W^T`` the inverse of the shrunk covariance."""
    deviation = residuals.square().mean(dim=0).sqrt()
    # A unit that is silent in the reference gets a small deviation, not none: when an image
    # wakes it, that is news, not a division by zero.
    floor = 0.01 * deviation.median().clamp(min=1e-6)
    deviation = deviation.clamp(min=floor)
    covariance, _ = ledoit_wolf((residuals / deviation).cpu().numpy(), assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    root = torch.from_numpy(vectors / np.sqrt(np.maximum(values, 1e-6))).to(residuals)
    return root / deviation[:, None]
