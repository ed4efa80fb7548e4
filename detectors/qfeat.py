"""A support vector machine on quantised features."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.svm import SVC
from torch import Tensor

from detectors.bank import split_groups
from detectors.detector import Detector
from detectors.features import Features
from detectors.svm import RbfMachine

PAPER_GAMMA = 2.8  # Ma et al. 2021, released code; C = 1
SPREADS = (0.1, 0.3, 1.0, 3.0)  # kernel widths tried, in units of one over the number of bits


class QuantisedFeatures(Detector):
    """QFeat of Ma et al. 2021, after SafetyNet (Lu et al. 2017).

    ``b_j = 1[f_j > mean_j]`` over the penultimate tap, the mean taken over the benign reference
    images alone, then an SVC with a Gaussian kernel (C = 1). On bits the published gamma of 2.8
    is close to a look-up table, so gamma is chosen by cross-validation over groups;
    ``gamma=PAPER_GAMMA`` is the paper's preset. The bits have no gradient.
    """

    name = "qfeat"
    mean: Tensor

    def __init__(self, gamma: float | None = None, limit: int = 1000, seed: int = 0) -> None:
        super().__init__()
        self.gamma, self.limit, self.seed = gamma, limit, seed
        self.machine = RbfMachine()

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
        self._store(mean=benign.taps[-1].mean(dim=0))
        x = torch.cat([self._bits(benign), self._bits(adversarial)]).cpu().numpy()
        y = np.r_[np.zeros(len(labels)), np.ones(len(adversarial.logits))]
        group = torch.cat([benign_groups, adversarial_groups]).cpu().numpy()
        # Every support vector is stored and compared with at serving time: bound their number.
        drawn = np.random.default_rng(self.seed).permutation(len(x))[: self.limit]
        x, y, group = x[drawn], y[drawn], group[drawn]
        machine = SVC(C=1.0, gamma=self.gamma or "scale", class_weight="balanced")
        if self.gamma is None:
            search = GridSearchCV(
                machine,
                {"gamma": [spread / x.shape[1] for spread in SPREADS]},
                scoring="roc_auc",
                cv=GroupKFold(3),
            )
            machine = search.fit(x, y, groups=group).best_estimator_
        else:
            machine.fit(x, y)
        self.machine = RbfMachine.of(machine).to(benign.logits.device)
        return self

    def forward(self, features: Features) -> Tensor:
        decision: Tensor = self.machine(self._bits(features))
        return decision

    def _bits(self, features: Features) -> Tensor:
        return (features.taps[-1] > self.mean).to(self.mean.dtype)
