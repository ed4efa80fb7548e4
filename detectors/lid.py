"""Local intrinsic dimensionality over all taps."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from detectors.bank import split_groups, subsample
from detectors.detector import Detector
from detectors.features import Features
from detectors.logistic import Logistic

FLOOR = 1e-5
"""Smallest squared distance, in units of a tap's median squared distance: above float32 rounding
of the expanded square, so that a duplicate of a bank image gets a finite answer."""


class Lid(Detector):
    """Ma et al. 2018 (arXiv 1801.02613, equation 4), the maximum-likelihood estimate at every tap.

    ``LID_l(x) = -( 1/k sum_{i<=k} log(r_i / r_k) )^-1`` with ``r_i`` the distance to the i-th
    nearest image of a fixed bank of benign ones; ``log LID`` of all taps goes into one logistic
    regression, benign against attacked.

    The released code drops every query's nearest neighbour, which for a query outside the bank is
    a real neighbour: benign data alone then scores AUC 0.65. Here a query keeps all its
    neighbours, and at fit time an image is never compared with its own group.
    """

    name = "lid"
    mean: Tensor
    member: Tensor

    def __init__(self, neighbours: int = 20, bank: int = 100, seed: int = 0) -> None:
        # 20 neighbours in a minibatch of 100: Ma et al. 2021, released code
        super().__init__()
        self.neighbours, self.bank, self.seed = neighbours, bank, seed
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
        index = subsample(labels, benign_groups, self.bank, self.seed)
        bank_groups = benign_groups[index.cpu()]
        others = len(index) - int(torch.unique(bank_groups, return_counts=True)[1].max())
        if others < self.neighbours:
            raise ValueError(
                f"{self.neighbours} neighbours need a bank of more images of different patients, "
                f"got {len(index)}; give more reference images"
            )
        means, members = [], []
        for level, tap in enumerate(benign.taps):
            bank = tap[index].double()
            mean = bank.mean(dim=0)
            bank = bank - mean
            scale = 1 / torch.pdist(bank).square().median().clamp(min=1e-12)
            constant = (bank.square().sum(dim=1) + 2 * bank @ mean) * scale
            self.register_buffer(f"bank{level}", (-2 * scale * bank.T).float().contiguous())
            self.register_buffer(f"constant{level}", constant.float())
            means.append(mean)
            members.append(scale.repeat(len(mean))[:, None])
        self._store(
            mean=torch.cat(means).float(),
            member=torch.block_diag(*members).float(),  # type: ignore[no-untyped-call]  # untyped in torch
        )

        def held_out(features: Features, group: Tensor) -> Tensor:
            own = (group[:, None] == bank_groups).to(index.device)
            squared = self._squared_distances(features)
            return self._log_lid(squared.masked_fill(own[:, None], torch.inf))

        with torch.no_grad():
            self.logistic.fit(
                held_out(benign, benign_groups), held_out(adversarial, adversarial_groups)
            )
        return self

    def forward(self, features: Features) -> Tensor:
        logit: Tensor = self.logistic(self.log_lid(features))
        return logit

    def log_lid(self, features: Features) -> Tensor:
        """``float32[N, T]``, natural logarithm of the estimate at every tap."""
        return self._log_lid(self._squared_distances(features))

    def _squared_distances(self, features: Features) -> Tensor:
        """``float32[N, T, m]``, each tap in units of its bank's median."""
        taps = features.taps
        norm = (torch.cat(taps, dim=1) - self.mean).square() @ self.member
        rest = torch.cat(
            [
                torch.addmm(
                    self.get_buffer(f"constant{level}"), tap, self.get_buffer(f"bank{level}")
                )
                for level, tap in enumerate(taps)
            ],
            dim=1,
        )
        return rest.reshape(-1, len(taps), rest.shape[1] // len(taps)) + norm.unsqueeze(-1)

    def _log_lid(self, squared: Tensor) -> Tensor:
        nearest = squared.topk(self.neighbours, dim=-1, largest=False).values
        logs = nearest.clamp(min=FLOOR).log()
        # Squared distances: half of the mean log ratio. All neighbours equally far: the estimate
        # is infinite, and is cut at 2e5.
        gap = (logs[..., -1] - logs.mean(dim=-1)).clamp(min=1e-5)
        return math.log(2) - gap.log()
