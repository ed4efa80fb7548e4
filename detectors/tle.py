"""Tight local intrinsic dimensionality of the penultimate layer: what the released code runs."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from detectors.bank import split_groups, subsample
from detectors.detector import Detector
from detectors.features import Features
from detectors.logistic import Logistic

EPSILON = 1e-4  # measurements below this share of the radius are dropped: Amsaleg et al., code


def tight_lid(distances: Tensor, between: Tensor) -> Tensor:
    """Amsaleg et al., *Intrinsic dimensionality estimation within tight localities* (SDM 2019).

    With ``r = u_k`` the radius, ``u_i`` the distances of the neighbours, ``v_ij`` those between
    them and ``z_ij^2 = 2 u_i^2 + 2 u_j^2 - v_ij^2``, the estimate is ``-k^2`` over the sum of
    ``log(s_ij / r) + log(t_ij / r)`` for ``i != j`` plus ``2 sum log(u_i / r)``, halved; ``s_ij``
    is measured from ``v_ij`` and ``t_ij`` from ``z_ij``. Measurements below ``EPSILON`` of the
    radius (duplicates) are dropped and not counted.

    Args:
        distances: ``float[N, k]``, ascending.
        between: ``float[N, k, k]``.

    Returns:
        ``float[N]``, the estimated dimension.
    """
    k = distances.shape[1]
    radius = distances[:, -1:].clamp(min=1e-12)
    u = distances / radius
    v2 = (between / radius[:, :, None]).square()
    ui2, uj2 = u.square()[:, :, None], u.square()[:, None, :]
    z2 = (2 * ui2 + 2 * uj2 - v2).clamp(min=0)
    s, t = _measure(v2, ui2, uj2), _measure(z2, ui2, uj2)
    kept = (s >= EPSILON) & (t >= EPSILON) & ~torch.eye(k, dtype=torch.bool, device=u.device)
    pairs = torch.where(kept, (s.clamp(min=EPSILON) * t.clamp(min=EPSILON)).log(), 0.0)
    near = u >= EPSILON
    singles = torch.where(near, u.clamp(min=EPSILON).log(), 0.0)
    count = kept.sum(dim=(1, 2)) + near.sum(dim=1)
    total = pairs.sum(dim=(1, 2)) + 2 * singles.sum(dim=1)
    return 2 * count / (-total).clamp(min=1e-6)


def _measure(w2: Tensor, ui2: Tensor, uj2: Tensor) -> Tensor:
    """``(sqrt(a^2 + 4 w^2 b) - a) / 2b``, ``a = u_i^2 + w^2 - u_j^2`` and ``b = 1 - u_i^2``, in
    the form that does not cancel; its limits at ``u_i = 1``, ``u_i = 0`` and ``u_j = 0`` are the
    paper's boundary cases."""
    a, b = ui2 + w2 - uj2, 1 - ui2
    root = (a.square() + 4 * w2 * b).clamp(min=1e-14).sqrt()
    # clamp(min=...) keeps the branch that where() discards from dividing by zero
    stable = 2 * w2 / (root + a.clamp(min=0)).clamp(min=1e-7)
    return torch.where(a >= 0, stable, (root - a) / (2 * b).clamp(min=1e-7))


class TightLid(Detector):
    """``tight_lid`` at the penultimate tap, then logistic regression.

    Neighbours as in ``Lid``: a fixed bank, nobody dropped but a reference image's own group.
    """

    name = "tle"
    bank: Tensor
    norm: Tensor
    mean: Tensor
    between: Tensor

    def __init__(self, neighbours: int = 20, size: int = 100, seed: int = 0) -> None:
        # 20 neighbours in a minibatch of 100: Ma et al. 2021, released code
        super().__init__()
        self.neighbours, self.size, self.seed = neighbours, size, seed
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
        index = subsample(labels, benign_groups, self.size, self.seed)
        bank_groups = benign_groups[index.cpu()]
        others = len(index) - int(torch.unique(bank_groups, return_counts=True)[1].max())
        if others < self.neighbours:
            raise ValueError(
                f"{self.neighbours} neighbours need a bank of more images of different patients, "
                f"got {len(index)}; give more reference images"
            )
        bank = benign.taps[-1][index]
        mean = bank.mean(dim=0)
        bank = bank - mean
        self._store(
            mean=mean,
            bank=-2 * bank.T,
            norm=bank.square().sum(dim=1),
            between=torch.cdist(bank, bank).flatten(),
        )

        def held_out(features: Features, group: Tensor) -> Tensor:
            own = (group[:, None] == bank_groups).to(index.device)
            return self._estimate(self._squared(features).masked_fill(own, torch.inf))[:, None]

        with torch.no_grad():
            self.logistic.fit(
                held_out(benign, benign_groups), held_out(adversarial, adversarial_groups)
            )
        return self

    def forward(self, features: Features) -> Tensor:
        logit: Tensor = self.logistic(self._estimate(self._squared(features))[:, None])
        return logit

    def _squared(self, features: Features) -> Tensor:
        x = features.taps[-1] - self.mean
        squared = torch.addmm(self.norm, x, self.bank) + x.square().sum(dim=1, keepdim=True)
        return squared.clamp(min=1e-12)

    def _estimate(self, squared: Tensor) -> Tensor:
        nearest = squared.topk(self.neighbours, dim=1, largest=False)
        index = nearest.indices
        pairs = index[:, :, None] * len(self.norm) + index[:, None, :]
        return tight_lid(nearest.values.sqrt(), self.between[pairs])
