"""Numbers learnt from benign images alone, and the detectors that weigh them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from detectors.bank import folds, split_groups
from detectors.detector import Detector
from detectors.features import Features
from detectors.logistic import Logistic

FOLDS = 5

Taps = tuple[Tensor, ...]


class Cues(nn.Module, ABC):
    """``z(x): float32[N, Q]``, each cue in deviations of benign images from their mean.

    Location and scale are those of benign images outside the fit (cross-fitting by group), so 0 is
    typical of an image that was never seen.
    """

    location: Tensor
    scale: Tensor

    @abstractmethod
    def estimate(self, taps: Taps, labels: Tensor) -> None:
        """Learn what ``raw`` needs from ``float32[N, d_l]`` benign taps and their classes."""

    @abstractmethod
    def raw(self, taps: Taps) -> Tensor:
        """``float32[N, Q]``, not yet standardised."""

    def fit(self, taps: Taps, labels: Tensor, groups: Tensor) -> Self:
        """Fit on benign taps, their classes and groups."""
        self.held_out(taps, labels, groups, taps, groups)
        return self

    def held_out(
        self, taps: Taps, labels: Tensor, groups: Tensor, queries: Taps, query_groups: Tensor
    ) -> Tensor:
        """Fit, and return ``float32[M, Q]``: each query's cues as measured by the fold's fit that
        has not seen its group. A query whose group is in no fold is averaged over all."""
        fold = folds(groups, FOLDS, seed=0)
        names, first = np.unique(groups.cpu().numpy(), return_index=True)
        at = np.searchsorted(names, query_groups.cpu().numpy()).clip(max=len(names) - 1)
        known = torch.from_numpy(names[at]) == query_groups.cpu()
        fold_of_query = torch.where(known, fold[torch.from_numpy(first[at])], -1)
        benign, result = None, None
        for f in range(FOLDS):
            inside = (fold != f).to(labels.device)
            if not inside.any() or inside.all():
                raise ValueError(f"needs reference images of at least {FOLDS} patients")
            self.estimate(tuple(tap[inside] for tap in taps), labels[inside])
            with torch.no_grad():
                own = self.raw(tuple(tap[~inside] for tap in taps))
                answer = self.raw(queries)
            if benign is None or result is None:
                benign = own.new_zeros((len(labels), own.shape[1]))
                result = own.new_zeros((len(fold_of_query), own.shape[1]))
            benign[~inside] = own
            mine = (fold_of_query == f).to(labels.device)
            stranger = (fold_of_query < 0).to(labels.device)
            result[mine] = answer[mine]
            result[stranger] += answer[stranger] / FOLDS
        assert benign is not None
        assert result is not None
        self.estimate(taps, labels)
        location, scale = benign.mean(dim=0), benign.std(dim=0).clamp(min=1e-3)
        self.register_buffer("location", location)
        self.register_buffer("scale", 1 / scale)
        return (result - location) / scale

    def in_units(self, zero: Tensor, unit: Tensor) -> None:
        """From now on ``(z - zero) / unit``, ``float32[Q]`` each, in place of ``z``."""
        self.location = self.location + zero / self.scale
        self.scale = self.scale / unit

    def forward(self, taps: Taps) -> Tensor:
        """``float32[N, Q]``."""
        return (self.raw(taps) - self.location) * self.scale


class CueDetector(Detector, ABC):
    """A logistic regression, benign against attacked, on the cues of all taps.

    With ``two_sided`` it sees ``z`` and ``|z|``, so that too typical an image can be suspicious:
    feature-matching attacks make images look more ordinary than real ones are (Yao et al. 2021).
    """

    two_sided: ClassVar[bool] = False

    def __init__(self, cues: Cues) -> None:
        super().__init__()
        self.cues = cues
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
        cues = self._sides(
            self.cues.held_out(
                benign.taps,
                labels,
                benign_groups,
                queries,
                torch.cat([benign_groups, adversarial_groups]),
            )
        )
        self.logistic.fit(cues[: len(labels)], cues[len(labels) :])
        return self

    def forward(self, features: Features) -> Tensor:
        return self.of_cues(self.cues(features.taps))

    def of_cues(self, z: Tensor) -> Tensor:
        """From ``z``, ``float32[N, Q]``."""
        logit: Tensor = self.logistic(self._sides(z))
        return logit

    def _sides(self, cues: Tensor) -> Tensor:
        return torch.cat([cues, cues.abs()], dim=1) if self.two_sided else cues


class Energies(Cues):
    """``log |W_q^T x + b_q|^2`` of blocks of directions ``W_q`` over the joined taps ``x``: one
    matrix product for all blocks, one for their sums of squares.

    Subclasses choose the directions.
    """

    weight: Tensor
    shift: Tensor
    owner: Tensor

    @abstractmethod
    def directions(self, taps: Taps, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Blocks ``(W_q: float64[sum d, m_q], centre: float64[sum d])``, scaled so that every
        ``W_q^T (x - centre)`` has about unit variance on benign images."""

    def estimate(self, taps: Taps, labels: Tensor) -> None:
        blocks = self.directions(taps, labels)
        weight = torch.cat([block for block, _ in blocks], dim=1)
        shift = torch.cat([-(centre @ block) for block, centre in blocks])
        sizes = [block.shape[1] for block, _ in blocks]
        owner = torch.block_diag(*(weight.new_full((m, 1), 1 / m) for m in sizes))  # type: ignore[no-untyped-call]  # untyped in torch
        self.register_buffer("weight", weight.float().contiguous())
        self.register_buffer("shift", shift.float())
        self.register_buffer("owner", owner.float())

    def raw(self, taps: Taps) -> Tensor:
        white = torch.addmm(self.shift, torch.cat(taps, dim=1), self.weight)
        return (white.square() @ self.owner).clamp(min=1e-6).log()
