"""Mahalanobis distance to the nearest class, less that to all classes together."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.cues import CueDetector, Cues, Taps
from detectors.whitening import class_means, whitening


class RelativeDistances(Cues):
    """``min_c d_c^2(x) - d_0^2(x)`` per tap: ``d_c`` under the class's mean and the tied covariance
    ``S``, ``d_0`` under the mean and covariance ``S + B`` of all classes.

    After whitening by ``S`` the between-class covariance ``B`` has rank C - 1, and everything
    outside its span cancels: what remains is computed in C - 1 directions a tap, those of linear
    discriminant analysis, all taps in one matrix product. (A tap narrower than C - 1 keeps them
    all; directions that do not exist are zero.)
    """

    weight: Tensor
    shift: Tensor
    means: Tensor
    background: Tensor

    def estimate(self, taps: Taps, labels: Tensor) -> None:
        whole, start = sum(tap.shape[1] for tap in taps), 0
        weights, shifts, centred, backgrounds = [], [], [], []
        for tap in taps:
            x = tap.detach().double()
            means, member = class_means(x, labels)
            white = whitening(x - means[member])
            centre = x.mean(dim=0)
            offsets = (means - centre) @ white
            mass = torch.bincount(member, minlength=len(means)).to(x) / len(x)
            # the span of the class means, its axes those of B
            _, spread, axes = torch.linalg.svd(mass.sqrt()[:, None] * offsets, full_matrices=False)
            kept = max(1, len(means) - 1)
            axes, spread = axes[:kept], spread[:kept]
            block = x.new_zeros((whole, kept))
            block[start : start + tap.shape[1], : len(axes)] = white @ axes.T
            weights.append(block)
            shifts.append(-(centre @ block[start : start + tap.shape[1]]))
            at = x.new_zeros((len(means), kept))
            at[:, : len(axes)] = offsets @ axes.T
            centred.append(at)
            variance = x.new_ones(kept)
            variance[: len(spread)] += spread.square()
            backgrounds.append(1 / variance)
            start += tap.shape[1]
        self.register_buffer("weight", torch.cat(weights, dim=1).float().contiguous())
        self.register_buffer("shift", torch.cat(shifts).float())
        self.register_buffer("means", torch.stack(centred).float())
        self.register_buffer("background", torch.stack(backgrounds).float())

    def raw(self, taps: Taps) -> Tensor:
        levels, _, kept = self.means.shape
        spread = torch.addmm(self.shift, torch.cat(taps, dim=1), self.weight)
        spread = spread.reshape(-1, levels, 1, kept)
        nearest = (spread - self.means).square().sum(dim=3).amin(dim=2)
        return nearest - (spread[:, :, 0].square() * self.background).sum(dim=2)


class RelativeMahalanobis(CueDetector):
    """Ren et al. 2021 (arXiv 2106.09022): subtracting the distance to the background removes what
    all images share, and leaves what tells the classes apart."""

    name = "relative_mahalanobis"
    two_sided = True

    def __init__(self) -> None:
        super().__init__(RelativeDistances())
