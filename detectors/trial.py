"""A bundle before the test images: what every comparison and evaluation of guards starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from detectors.bundle import Bundle
from detectors.evaluation import CleanResult, ShiftResult
from detectors.guard import DETECTORS
from detectors.judgement import HEADLINE_FPR, Judgement, Vector, judge, share, threshold
from detectors.null_test import NullResult, null_test, refitted_null_test
from detectors.samples import Samples, group_numbers
from detectors.staged_engine import open_engine
from models.datasets import Example, group_digest
from models.onnx_engine import OnnxEngine


class EvaluationProblem(Exception):
    """An evaluation that must not be made or written. The message says why."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A bundle, what it says of the clean test images, and whether that can be trusted."""

    bundle: Bundle
    engine: OnnxEngine
    clean: Judgement
    null: tuple[NullResult, ...]
    null_refitted: tuple[NullResult, ...]
    milliseconds: float
    """An image, in batches."""

    @classmethod
    def begin(
        cls,
        bundle: Bundle,
        clean: Samples,
        seed: int = 0,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Trial:
        """Read the clean test images and put every detector to the null test.

        Raises ``EvaluationProblem`` when they are too few for one.
        """
        engine = open_engine(bundle)
        names = detector_names(bundle)
        started = perf_counter()
        judged = judge(bundle, engine, clean, progress)
        seconds = perf_counter() - started
        try:
            refitted = refitted_null_test(
                [DETECTORS[name]() for name in names],
                judged.measured.features(bundle.manifest.tap_widths),
                torch.from_numpy(clean.labels),
                group_numbers(clean.groups),
                seed=seed,
            )
        except ValueError as error:
            raise EvaluationProblem(
                f"{len(clean)} test images are too few for a null test, which fits every detector "
                f"on a quarter of them ({error}); add test patients"
            ) from None
        nulls = null_test(score_columns(judged, names), clean.groups, seed=seed)
        return cls(bundle, engine, judged, nulls, refitted, 1000 * seconds / len(clean))

    def judge(
        self, samples: Samples, progress: Callable[[int], None] = lambda _: None
    ) -> Judgement:
        """Further images, made from the clean ones or not."""
        return judge(self.bundle, self.engine, samples, progress)

    @property
    def null_passes(self) -> bool:
        """Whether every null test passes."""
        return all(result.passed for result in (*self.null, *self.null_refitted))

    def require_null(self) -> None:
        """Raises ``EvaluationProblem`` unless every null test passes."""
        for result in (*self.null, *self.null_refitted):
            if not result.passed:
                raise EvaluationProblem(
                    f"the null test fails for {result.detector}: benign against benign has AUC "
                    f"{result.auc:.3f}, and chance alone gives {result.low:.3f} to "
                    f"{result.high:.3f}; the evaluation leaks or the splits differ, so no report "
                    "is written"
                )

    def clean_result(self) -> CleanResult:
        """Benign images as they came."""
        judged = self.clean
        groups = judged.samples.groups
        by_class = {}
        for c, name in enumerate(self.bundle.manifest.model.classes):
            rows = np.flatnonzero(judged.measured.predicted == c)
            by_class[name] = share(judged.adversarial[rows], [groups[i] for i in rows])
        return CleanResult(
            images=len(judged.samples),
            patients=len(set(groups)),
            accuracy=share(judged.right, groups),
            adversarial=share(judged.adversarial, groups),
            quality=share(judged.quality, groups),
            adversarial_by_class=by_class,
            errors_accepted=share(~judged.right & judged.accepted, groups),
        )

    def shift_result(self, found: Judgement) -> ShiftResult:
        """One benign shift."""
        limit = threshold(self.clean.readings.fused.astype(float), HEADLINE_FPR)
        return ShiftResult(
            shift=found.samples.origin,
            severity=found.samples.level,
            images=len(found.samples),
            accuracy=float(found.right.mean()),
            adversarial=share(found.adversarial, found.samples.groups),
            adversarial_at_1pct=float(np.mean(found.readings.fused > limit)),
            quality=share(found.quality, found.samples.groups),
        )


def detector_names(bundle: Bundle) -> tuple[str, ...]:
    """In the order of their columns."""
    return tuple(entry.name for entry in bundle.manifest.detectors)


def score_columns(judged: Judgement, names: Sequence[str]) -> dict[str, Vector]:
    """Every detector's scores, and ``fused``."""
    columns = {name: judged.readings.scores[:, d].astype(float) for d, name in enumerate(names)}
    return {**columns, "fused": judged.readings.fused.astype(float)}


def refuse_known(bundle: Bundle, tests: Sequence[Example]) -> None:
    """Raises ``EvaluationProblem`` when the model was trained or the guard was fitted on a test
    patient."""
    seen = {*bundle.manifest.model.trained_on, *bundle.manifest.provenance.get("groups", ())}
    if known := {e.group for e in tests if group_digest(e.group) in seen}:
        raise EvaluationProblem(
            f"{len(known)} of the test patients were used to train the model or to fit the guard; "
            "judge it on others"
        )
