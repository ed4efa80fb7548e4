"""Who says what a delivered image did: the attacked model, or the guarded service's own path."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from attacks.objective import Model, decisions
from attacks.problem import AttackProblem
from detectors.bundle import Bundle, CellLevels
from detectors.calibrate import Calibration, PValues
from detectors.second_stage import SECOND_GRAPH, SecondStage
from detectors.staged_engine import EVALUATION_KEY, StagedEngine
from models.engine import Readings
from models.onnx_engine import OnnxEngine
from models.spec import Head

Grid = npt.NDArray[np.uint8]
Answers = npt.NDArray[np.int64] | npt.NDArray[np.bool_]
"""``int64[N]`` classes, or ``bool[N, L]`` findings of a multi-label model."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said of N images."""

    predicted: Answers
    accepted: npt.NDArray[np.bool_] | None
    """``bool[N]``: the guard let it by; None where there is no guard."""


def agree(answers: Answers, labels: Answers) -> npt.NDArray[np.bool_]:
    """``bool[N]``: the same class, or all findings the same."""
    same = np.asarray(np.equal(answers, labels), dtype=np.bool_)
    return np.asarray(same.all(axis=1)) if same.ndim == 2 else same


class Judge(Protocol):
    """Judges delivered pixels. ``ask`` is thread-safe."""

    def ask(self, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> Answer:
        """Of ``[N, H, W, C]``. Raises ``AttackProblem`` for logits that are not finite."""
        ...


@dataclass(frozen=True)
class ModelJudge:
    """The attacked model itself, without a guard."""

    model: Model
    device: str = "cpu"
    multilabel: bool = False

    def ask(self, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> Answer:
        with torch.no_grad():
            logits = self.model(torch.from_numpy(pixels).to(self.device).float())
        if not logits.isfinite().all():
            row = int((~logits.isfinite().all(dim=1)).nonzero()[0, 0])
            raise AttackProblem(f"the model's logits are not finite on image {row} of its batch")
        return Answer(decisions(logits, multilabel=self.multilabel).cpu().numpy(), None)


@dataclass(frozen=True)
class BundleJudge:
    """The bundle on the service's own engine, with its calibration: what a running service answers
    to the delivered file, number for number, but for a second stage's views, which follow from a
    deployment's key."""

    graph: bytes
    second: tuple[bytes, SecondStage] | None
    """The second stage's graph and numbers."""
    calibration: Calibration
    levels: tuple[CellLevels, ...]
    multilabel: bool

    @classmethod
    def of(cls, bundle: Bundle) -> BundleJudge:
        """From a verified bundle."""
        manifest, stage = bundle.manifest, SecondStage.of(bundle)
        return cls(
            bundle.graph,
            None if stage is None else (bundle.read(SECOND_GRAPH), stage),
            bundle.calibration,
            manifest.levels,
            manifest.model.head is Head.MULTILABEL,
        )

    @cached_property
    def _engine(self) -> OnnxEngine:
        if self.second is None:
            return OnnxEngine(self.graph, threads=1)
        return StagedEngine(self.graph, *self.second, EVALUATION_KEY, threads=1)

    def __getstate__(self) -> dict[str, object]:
        """Without the session: a worker elsewhere opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_engine"}

    def ask(self, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> Answer:
        # one image a run, so that no batch mate moves a score by a rounding
        batch = np.asarray(pixels, dtype=np.uint8)
        readings = [self._engine.run(batch[i : i + 1]) for i in range(len(batch))]
        if any(not np.isfinite(reading.logits).all() for reading in readings):
            raise AttackProblem("the model's logits are not finite on an image of this batch")
        logits = np.concatenate([reading.logits for reading in readings])
        probabilities = np.concatenate([reading.probabilities for reading in readings])
        return Answer(
            logits > 0 if self.multilabel else probabilities.argmax(axis=1).astype(np.int64),
            np.array([self._accepts(reading) for reading in readings], dtype=np.bool_),
        )

    def _accepts(self, reading: Readings) -> bool:
        (p,) = self.calibration.p_values(reading)
        return accepts(p, self.levels[p.predicted])


def accepts(p: PValues, levels: CellLevels) -> bool:
    """Whether no route of the service's decision holds the image."""

    def holds(value: float, level: float | None) -> bool:
        return level is not None and not value > level  # NaN holds

    return not (
        not np.isfinite(p.fused)
        or holds(p.fused, levels.flag)
        or holds(p.fused, levels.reject)
        or holds(p.quality, levels.quality)
    )
