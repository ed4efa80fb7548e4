"""An engine with a second stage: the few most suspicious images are looked at again. Torch-free.

An image that triage lets by keeps its first-stage score, which lies below the triage threshold; one
that it picks gets the second stage's score, which is never negative, ``WEIGHT`` times on top of it.
So one number orders all images, those let by below those picked, and whoever deceives the second
stage is left with what the first one saw. It is calibrated as any other: its conformal p-values
judge both stages together, exactly, since the threshold comes from images that are not the
calibration's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detectors.bundle import Bundle
from detectors.draws import draw, generator
from detectors.manifest_file import BundleProblem, Refusal
from detectors.second_stage import INPUTS, OUTPUTS, SECOND_GRAPH, WEIGHT, SecondStage, feeds
from models.engine import READING, Batch, Floats, Readings
from models.onnx_engine import OnnxEngine, OnnxGraph, Provider

EVALUATION_KEY = b"evaluation"
"""Not a secret: fits and evaluations can be repeated. A deployment has a key of its own."""


class StagedEngine(OnnxEngine):
    """A bundle's fused graph followed by its second stage.

    ``fused`` is the score of both stages; ``Readings.second`` the second stage's own, NaN where it
    did not run.
    """

    def __init__(
        self,
        graph: bytes,
        second_graph: bytes,
        stage: SecondStage,
        key: bytes,
        *,
        provider: Provider = "cpu",
        threads: int | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        """
        Args:
            key: secret of the deployment, from which every image's draws follow.
            sizes: of the first stage's batches, as ``OnnxEngine`` takes them.

        Raises ``EngineProblem`` as ``OnnxEngine`` does, and ``BundleProblem`` for a second graph of
        another kind.
        """
        super().__init__(graph, provider=provider, threads=threads, sizes=sizes)
        self.stage = stage
        self._key = key
        self._views = OnnxGraph(second_graph, provider=provider, threads=threads)
        for verb, own, wanted in (
            ("takes", self._views.inputs, INPUTS), ("gives", self._views.outputs, OUTPUTS)
        ):  # fmt: skip
            if set(own) != set(wanted):
                raise BundleProblem(
                    f"{SECOND_GRAPH} {verb} {', '.join(own)}, not {', '.join(wanted)}: it is of "
                    "another version; fit the bundle again",
                    Refusal.SCHEMA,
                )

    def run(self, images: Batch) -> Readings:
        *values, plain = super().outputs(images, (*READING, "class_logits"))
        readings = Readings(*values)
        fused, second = self._staged(images, readings.fused, plain)
        return replace(readings, fused=fused, second=second)

    def first(self, images: Batch) -> Readings:
        """The first stage's reading alone."""
        return Readings(*super().outputs(images, READING))

    def outputs(self, images: Batch, names: Sequence[str]) -> tuple[Floats, ...]:
        if "fused" not in names:
            return super().outputs(images, names)
        asked = list(dict.fromkeys((*names, "class_logits")))
        values = dict(zip(asked, super().outputs(images, asked), strict=True))
        values["fused"], _ = self._staged(images, values["fused"], values["class_logits"])
        return tuple(values[name] for name in names)

    def warm_up(self) -> None:
        super().warm_up()
        for channels in (1, 3):
            self._look(np.zeros((512, 512, channels), np.uint8), np.zeros(2, np.float32))

    def _staged(self, images: Batch, first: Floats, plain: Floats) -> tuple[Floats, Floats]:
        fused, second = first.copy(), np.full_like(first, np.nan)
        for i in np.flatnonzero(self.stage.triaged(first)):
            second[i] = self._look(images[i], plain[i])
            fused[i] += WEIGHT * second[i]
        return fused, second

    def _look(self, pixels: Batch, plain: Floats) -> float:
        entry = self.stage.entry
        draws = draw(generator(self._key, pixels), entry.views, entry.channels, entry.size)
        views, change, aligned = self._views.run(feeds(pixels, draws), OUTPUTS)
        if len(plain) != views.shape[1]:  # the warm-up knows no classes
            plain = np.zeros(views.shape[1], np.float32)
        return self.stage.score(plain, views, change, aligned[0])


def open_engine(
    bundle: Bundle,
    key: bytes = EVALUATION_KEY,
    *,
    provider: Provider = "cpu",
    threads: int | None = None,
    sizes: Sequence[int] = (),
) -> OnnxEngine:
    """What runs a bundle, with its second stage if it has one. Raises ``EngineProblem`` and
    ``BundleProblem``."""
    stage = SecondStage.of(bundle)
    if stage is None:
        return OnnxEngine(bundle.graph, provider=provider, threads=threads, sizes=sizes)
    return StagedEngine(
        bundle.graph,
        bundle.read(SECOND_GRAPH),
        stage,
        key,
        provider=provider,
        threads=threads,
        sizes=sizes,
    )
