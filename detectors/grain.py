"""Whether the picture's grain is that of an attack's step."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from sklearn.svm import SVC
from torch import Tensor

from detectors.detector import Detector
from detectors.features import Features
from detectors.svm import RbfMachine

PENALTY = 10.0
LIMIT = 10_000
"""Benign images to fit on, at most."""


class Grain(Detector):
    """A support vector machine with a Gaussian kernel, benign against attacked, on the grain
    (``detectors.picture``), each column in units of its deviation; 0 where the image looks rather
    benign.

    A single large step (FGSM at 4 and 8 grey levels) on a hardened network, whose gradient is
    smooth, survives squeezing and moves the features like another patient; its edges, as high as
    twice the step and everywhere, are seen here. So is noise, which the machine learns among the
    negatives; and all that it holds for benign has the same score, so that noise which it knows
    raises none. Most attacks of one or two grey levels are below it.

    What is crisper than all that the fit has seen (another site, one JPEG generation less) looks
    like a step: guards are fitted to pass edge enhancement and faint noise for its sake
    (docs/evidence.md).
    """

    name = "grain"
    scale: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.width = 0
        """Columns of the grain."""
        self.machine = RbfMachine()

    def fit(
        self,
        benign: Features,
        labels: Tensor,  # noqa: ARG002  every detector has it
        adversarial: Features,
        groups: Tensor | None = None,  # noqa: ARG002  every detector has it
    ) -> Self:
        if benign.grain.shape[1] == 0:
            raise ValueError("grain needs the picture's grain; measure the images anew")
        drawn = np.random.default_rng(self.seed).permutation(len(benign.grain))[:LIMIT]
        self.width = benign.grain.shape[1]
        x = torch.cat([benign.grain[torch.from_numpy(drawn)], adversarial.grain])
        self._store(scale=1 / x.std(dim=0).clamp(min=1e-3))
        y = np.r_[np.zeros(len(drawn)), np.ones(len(adversarial.grain))]
        machine = SVC(C=PENALTY, gamma=1 / x.shape[1], class_weight="balanced")
        machine.fit((x * self.scale).cpu().numpy(), y)
        self.machine = RbfMachine.of(machine).to(benign.logits.device)
        return self

    def forward(self, features: Features) -> Tensor:
        decision: Tensor = self.machine(features.grain * self.scale)
        return decision.clamp(min=0)
