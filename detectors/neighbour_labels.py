"""Whether an image's neighbours at every tap carry the label that the model gives it."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from detectors.bank import split_groups, subsample
from detectors.detector import Detector
from detectors.features import Features


class NeighbourLabels(Detector):
    """Joint statistical testing across layers (JTLA; Raghuram et al., ICML 2021).

    At tap ``l`` the ``k`` nearest of a bank of benign images have class counts ``k_i``. Under the
    hypothesis ``c`` (the model predicts ``c``, or the true class is ``c``) benign images have
    neighbours of class ``i`` at rate ``pi_lci``, and the counts' likelihood ratio statistic is
    ``t_lc = sum_i k_i log(k_i / (k pi_lci))``. Its p-value among benign images of which ``c`` holds
    is ``p_lc = (1 + #{t >= t_lc}) / (n + 1)`` (the released code's ``# / n`` can be 0). Taps are
    fused by the mean of ``log p``, and the score is

    ``max_{c != predicted} mean_l log p_lc(true class c) - mean_l log p_l(predicted class)``:

    neighbours that do not fit the class predicted and do fit another one. Taps depend on each
    other, so the fused value is no p-value; the guard's calibration makes it one.

    Distances are between taps of unit length (cosine), as published. A bank image is never compared
    with its own group, neither for ``pi`` nor for the benign statistics. Counts are steps: an
    attacker's gradient passes only through ``attacks.bpda``.

    Args:
        bank: most images kept.
        neighbours: None for ``bank ** 0.4``, as published.
    """

    name = "neighbour_labels"
    label: Tensor
    log_rate: Tensor
    benign: Tensor
    images: Tensor

    def __init__(self, bank: int = 400, neighbours: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.bank, self.neighbours, self.seed = bank, neighbours, seed
        self.k = 0

    def fit(
        self,
        benign: Features,
        labels: Tensor,
        adversarial: Features,
        groups: Tensor | None = None,
    ) -> Self:
        benign_groups, _ = split_groups(groups, len(labels), len(adversarial.logits))
        index = subsample(labels, benign_groups, self.bank, self.seed)
        group = benign_groups[index.cpu()]
        classes = benign.logits.shape[1]
        kept = benign.rows(index)
        self.k = self.neighbours or max(2, round(len(index) ** 0.4))
        own = (group[:, None] == group[None]).to(index.device)
        if int((~own).sum(dim=1).min()) < self.k:
            raise ValueError(
                f"{self.k} neighbours need a bank of more images of different patients, got "
                f"{len(index)}; give more reference images"
            )
        for level, tap in enumerate(kept.taps):
            self.register_buffer(f"bank{level}", _unit(tap).detach().T.contiguous())
        true = labels[index]
        self._store(label=torch.nn.functional.one_hot(true, classes).float())
        with torch.no_grad():
            counts = self._counts(kept, own)
            holds = torch.cat(
                [
                    torch.nn.functional.one_hot(kept.predicted, classes).bool(),
                    torch.nn.functional.one_hot(true, classes).bool(),
                ],
                dim=1,
            )
            # one neighbour of every class at its overall rate: no rate is 0
            prior = self.label.mean(dim=0).clamp(min=1e-3)
            seen = torch.einsum("nh,nlc->lhc", holds.float(), counts)
            rate = (seen + prior) / (seen.sum(dim=2, keepdim=True) + prior.sum())
            self._store(log_rate=rate.log().transpose(1, 2))
            statistic = self._statistic(counts).permute(1, 2, 0)
            # what does not belong to a hypothesis is below every statistic and is never counted
            self._store(
                benign=torch.where(holds.T, statistic, -torch.inf),
                images=holds.sum(dim=0).float(),
            )
        return self

    def forward(self, features: Features) -> Tensor:
        statistic = self._statistic(self._counts(features))
        at_least = (self.benign >= statistic.unsqueeze(-1)).to(statistic.dtype).sum(dim=3)
        fit = ((1 + at_least) / (1 + self.images)).log().mean(dim=1)
        classes = fit.shape[1] // 2
        predicted = torch.arange(classes, device=fit.device) == features.predicted[:, None]
        own = torch.where(predicted, fit[:, :classes], -torch.inf).amax(dim=1)
        rival = torch.where(predicted, -torch.inf, fit[:, classes:]).amax(dim=1)
        return rival - own

    def _counts(self, features: Features, own: Tensor | None = None) -> Tensor:
        """``float32[N, T, C]``: neighbours by class; ``own: bool[N, m]`` are not looked at."""
        likeness = torch.stack(
            [_unit(tap) @ self.get_buffer(f"bank{i}") for i, tap in enumerate(features.taps)],
            dim=1,
        )
        if own is not None:
            likeness = likeness.masked_fill(own[:, None], -torch.inf)
        nearest = likeness.topk(self.k, dim=2).values[..., -1:]
        return (likeness >= nearest).to(likeness.dtype) @ self.label

    def _statistic(self, counts: Tensor) -> Tensor:
        """``float32[N, T, 2 C]``: hypotheses on the predicted class, then on the true one."""
        whole = counts.sum(dim=2, keepdim=True)
        entropy = (counts * (counts / whole).clamp(min=1e-9).log()).sum(dim=2, keepdim=True)
        return entropy - (counts.unsqueeze(2) @ self.log_rate).squeeze(2)


def _unit(tap: Tensor) -> Tensor:
    return tap / tap.square().sum(dim=1, keepdim=True).clamp(min=1e-12).sqrt()
