"""Fit the second stage: whom it looks at, and what the model says of benign images' views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from detectors.agreement import Agreement
from detectors.bundle import SecondStageEntry
from detectors.draws import draw
from detectors.features import Features
from detectors.samples import Samples, run_graph
from detectors.second_stage import OUTPUTS, SecondStage, feeds
from models.onnx_engine import OnnxEngine, OnnxGraph
from models.spec import ModelSpec

LOOKED_AT = 400
"""Benign images at most, shifted ones among them, whose views are taken."""


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
    logits, changes = [], []
    for image in images:
        draws = draw(rng, views, channels, size)
        seen, change = looking.run(feeds(image, draws), OUTPUTS)
        logits.append(seen)
        changes.append(change)
    features = as_features(
        torch.from_numpy(plain).repeat_interleave(views, dim=0),
        torch.from_numpy(np.concatenate(logits)),
        torch.from_numpy(np.concatenate(changes)),
    )
    agreement = Agreement().fit(features, features.predicted, features)
    return SecondStage(
        entry,
        agreement.expected.numpy(),
        agreement.spread.numpy(),
        agreement.smoothest.numpy(),
    )


def as_features(plain: torch.Tensor, views: torch.Tensor, change: torch.Tensor) -> Features:
    """What ``Agreement`` needs of views, ``[M, K]``, ``[M, K]``, ``[M]``."""
    nothing = plain[:, :0]
    return Features((), plain, views, change, nothing, nothing, nothing, nothing, nothing)


def as_agreement(stage: SecondStage) -> Agreement:
    """The fitted numbers as a module, to follow its gradients."""
    module = Agreement()
    module._store(
        expected=torch.from_numpy(stage.expected),
        spread=torch.from_numpy(stage.spread),
        smoothest=torch.from_numpy(stage.smoothest),
    )
    return module.eval()
