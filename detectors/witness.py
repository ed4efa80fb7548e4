"""Disagreement between the model and a small student that sees only the smoothed image."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from detectors.agreement import Agreement
from detectors.features import Features


class Witness(Agreement):
    """``Agreement`` with the answer of ``detectors.student`` in the squeezed view's place: a few
    per cent of the model's cost in place of a second forward pass, and as much less sharp.

    How far smoothing moved the pixels says nothing of a student that never saw them, so the
    expected margin and its spread follow the plain margin alone.
    """

    name = "witness"

    def fit(
        self,
        benign: Features,
        labels: Tensor,
        adversarial: Features,
        groups: Tensor | None = None,
    ) -> Self:
        if benign.witness_logits.shape[1] == 0:
            raise ValueError("witness needs a student's answers; give the guard a student")
        return super().fit(_seen(benign), labels, adversarial, groups)

    def forward(self, features: Features) -> Tensor:
        return super().forward(_seen(features))


def _seen(features: Features) -> Features:
    return features._replace(
        squeezed_logits=features.witness_logits,
        squeeze_change=torch.zeros_like(features.squeeze_change),
    )
