"""Fit the second stage: whom it looks at, and what benign images are to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from detectors.agreement import Agreement
from detectors.alignment import Alignment
from detectors.bundle import SecondStageEntry
from detectors.draws import draw
from detectors.features import Features
from detectors.samples import Samples, run_graph
from detectors.second_stage import OUTPUTS, SecondStage, feeds
from models.onnx_engine import OnnxEngine, OnnxGraph
from models.spec import ModelSpec

LOOKED_AT = 1000
"""Benign images at most, shifted ones among them, from which it learns."""


class SecondStageProblem(ValueError):
    """A second stage that cannot be fitted. The message says why."""


def fit_second_stage(
    spec: ModelSpec,
    first: OnnxEngine,
    graph: bytes,
    benign: Sequence[Samples],
    views: int,
    share: float,
    seed: int,
) -> SecondStage:
    """From benign images that calibration does not see.

    Args:
        first: the fused graph.
        graph: of the second stage.
        benign: clean images, then benign shifts of them.
    """
    (fused,) = run_graph(first, benign[0].images, ("fused",))
    fused = np.sort(fused[np.isfinite(fused)])
    picked = int(np.floor(share * len(fused)))
    if picked < 1:
        raise SecondStageProblem(
            f"{len(fused)} clean images are too few for a second stage on {share:.0%} of them"
        )
    # where scores tie, fewer are looked at rather than more
    above = fused[fused > fused[-picked - 1]] if picked < len(fused) else fused
    if len(above) == 0:
        raise SecondStageProblem(
            f"the first stage gives the most suspicious {share:.0%} of {len(fused)} clean images "
            "one score, so it cannot choose whom a second stage looks at; fit other detectors"
        )
    channels, size = spec.preprocessing.channels, spec.preprocessing.size
    entry = SecondStageEntry(
        views=views,
        share=share,
        threshold=float(above[0]),
        channels=channels,
        size=size,
    )
    rng = np.random.default_rng(seed)
    images = [image for samples in benign for image in samples.images]
    images = [images[i] for i in rng.permutation(len(images))[:LOOKED_AT]]
    (plain,) = run_graph(first, images, ("class_logits",))
    looking = OnnxGraph(graph)
    seen = []
    for image in images:
        draws = draw(rng, views, channels, size)
        seen.append(looking.run(feeds(image, draws), OUTPUTS))
    logits, change, aligned = (
        torch.from_numpy(np.concatenate(part)) for part in zip(*seen, strict=True)
    )
    own = torch.from_numpy(plain)
    of_views = view_features(own.repeat_interleave(views, dim=0), logits, change)
    agreement = Agreement().fit(of_views, of_views.predicted, of_views)
    along, reach = torch.zeros(2, 0, 4), torch.zeros(2)
    if aligned.shape[1]:
        of_images = image_features(own, aligned)
        alignment = Alignment().fit(of_images, of_images.predicted, of_images)
        along, reach = torch.stack([alignment.expected, alignment.spread]), alignment.reach
    return SecondStage(
        entry,
        agreement.expected.numpy(),
        agreement.spread.numpy(),
        agreement.smoothest.numpy(),
        along.numpy(),
        reach.numpy(),
    )


def view_features(plain: Tensor, views: Tensor, change: Tensor) -> Features:
    """What ``Agreement`` needs of views, ``[M, K]``, ``[M, K]``, ``[M]``."""
    nothing = plain[:, :0]
    return Features((), plain, views, change, nothing, nothing, nothing, nothing, nothing)


def image_features(plain: Tensor, aligned: Tensor) -> Features:
    """What ``Alignment`` needs of images, ``[N, K]``, ``[N, 2]``."""
    nothing = plain[:, :0]
    return Features((), plain, nothing, plain[:, 0], nothing, nothing, nothing, nothing, aligned)


class SecondScore(nn.Module):
    """``SecondStage.score`` of many images, to follow its gradients."""

    def __init__(self, stage: SecondStage) -> None:
        super().__init__()
        self.views = stage.entry.views
        self.agreement = Agreement()
        self.agreement._store(
            expected=torch.from_numpy(stage.expected),
            spread=torch.from_numpy(stage.spread),
            smoothest=torch.from_numpy(stage.smoothest),
        )
        expected, spread = torch.from_numpy(stage.along)
        self.alignment = Alignment()
        self.alignment._store(expected=expected, spread=spread, reach=torch.from_numpy(stage.reach))
        self.eval()

    def forward(self, plain: Tensor, views: Tensor, change: Tensor, aligned: Tensor) -> Tensor:
        """``float32[N]``, from ``[N, K]``, ``[N M, K]``, ``[N M]``, ``[N, 2 or 0]``."""
        features = view_features(plain.repeat_interleave(self.views, dim=0), views, change)
        z: Tensor = self.agreement.deviation(features).view(len(plain), self.views).mean(dim=1)
        if aligned.shape[1] == 0:
            return z.abs()
        above: Tensor = self.alignment(image_features(plain, aligned)).relu()
        return (z.square() + above.square()).clamp(min=1e-12).sqrt()
