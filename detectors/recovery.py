"""Whether earlier taps are what the last one implies."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.cues import CueDetector, Energies, Taps
from detectors.whitening import whitening

RIDGE = 1.0
"""Penalty in units of a standardised feature's variance, over the number of images."""


class RecoveryResiduals(Energies):
    """``|S_l^{-1/2} (f_l - A_l f_L - a_l)|^2``: each tap's whitened residual after ridge regression
    on the last tap. The residual is linear in all taps, and so the whole detector is one matrix
    product."""

    def directions(self, taps: Taps, labels: Tensor) -> list[tuple[Tensor, Tensor]]:  # noqa: ARG002  by class: none
        joined = torch.cat(taps, dim=1).detach().double()
        centre = joined.mean(dim=0)
        joined = joined - centre
        width = taps[-1].shape[1]
        last = joined[:, -width:]
        deviation = last.square().mean(dim=0).sqrt().clamp(min=1e-6)
        known = last / deviation
        gram = known.T @ known + RIDGE * torch.eye(width).to(known) * len(known) ** 0.5
        blocks, start = [], 0
        for tap in taps[:-1]:
            own = slice(start, start + tap.shape[1])
            map_ = torch.linalg.solve(gram, known.T @ joined[:, own])
            white = whitening(joined[:, own] - known @ map_)
            block = joined.new_zeros((joined.shape[1], tap.shape[1]))
            block[own] = white
            block[-width:] = -(map_ / deviation[:, None]) @ white
            blocks.append((block, centre))
            start += tap.shape[1]
        return blocks


class LayerRecovery(CueDetector):
    """After AFLS-RT (Yun et al. 2025, arXiv 2505.12586): benign images' early features can be
    recovered from late ones, an attack pushes the late ones away from what the early ones show.
    Ridge regression takes the place of its networks, and nothing is fitted on what is judged."""

    name = "recovery"
    two_sided = True

    def __init__(self) -> None:
        super().__init__(RecoveryResiduals())
