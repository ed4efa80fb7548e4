"""Mahalanobis distance to the nearest class, tap by tap."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.cues import CueDetector, Cues, Taps
from detectors.whitening import class_means, whitening


class TapDistances(Cues):
    """``z_l(x)``: standardised log of ``min_c (f_l(x) - mu_lc)^T S_l^-1 (f_l(x) - mu_lc)``.

    ``mu_lc`` are class means and ``S_l`` the covariance tied over classes at tap ``l``, shrunk by
    Ledoit and Wolf (2004) in units of the within-class deviations.

    Whitening ``W_l`` is folded into one linear layer per tap, after which the distances to all
    class means of all taps are one matrix product.
    """

    owner: Tensor
    means: Tensor
    constant: Tensor

    def estimate(self, taps: Taps, labels: Tensor) -> None:
        whitened_means = []
        for level, tap in enumerate(taps):
            x = tap.detach().double()
            means, member = class_means(x, labels)
            white = whitening(x - means[member])
            centre = means.mean(dim=0)
            self.register_buffer(f"whitening{level}", white.float().contiguous())
            self.register_buffer(f"shift{level}", -(centre @ white).float())
            whitened_means.append((means - centre) @ white)
        widths = [tap.shape[1] for tap in taps]
        owner = torch.block_diag(*(torch.ones(d, 1) for d in widths)).to(labels.device)  # type: ignore[no-untyped-call]  # untyped in torch
        self.register_buffer("owner", owner)
        cross = torch.block_diag(*(-2 * mean.T for mean in whitened_means))  # type: ignore[no-untyped-call]  # untyped in torch
        self.register_buffer("means", cross.float().contiguous())
        norms = torch.cat([mean.square().sum(dim=1) for mean in whitened_means])
        self.register_buffer("constant", norms.float())

    def raw(self, taps: Taps) -> Tensor:
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
        nearest = to_means.reshape(len(white), self.owner.shape[1], -1).amin(dim=2)
        # a product and not a square: ONNX Runtime's Pow takes twice as long
        squared = torch.addmm(nearest, white * white, self.owner)
        return squared.clamp(min=1e-6).log()


class Mahalanobis(CueDetector):
    """Lee et al. 2018 (arXiv 1807.03888) without the input-gradient step: the taps' distances
    (``TapDistances``) go into one logistic regression, benign against attacked."""

    name = "mahalanobis"

    def __init__(self) -> None:
        super().__init__(TapDistances())
