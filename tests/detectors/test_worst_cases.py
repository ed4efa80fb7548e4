"""Which images a report shows, and how clean images are divided and their p-values checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from detectors.judgement import Attacked, Judgement
from detectors.samples import Measured, Samples
from detectors.subgroups import ALPHAS, calibration_checks, subgroups
from detectors.worst_cases import digest, worst_cases
from models.engine import Readings

CLASSES = ("A", "B")


def judgement(
    scores: Sequence[float],
    right: Sequence[bool],
    origin: str = "clean",
    *,
    flagged: Sequence[bool] | None = None,
    p: Sequence[float] | None = None,
) -> Judgement:
    n = len(scores)
    labels = np.arange(n) % 2
    predicted = np.where(right, labels, 1 - labels)
    logits = np.eye(2, dtype=np.float32)[predicted]
    nothing = np.zeros((n, 1), np.float32)
    fused = np.array(scores, np.float32)
    return Judgement(
        samples=Samples(
            tuple(np.full((4, 4, 1), 10 * i, np.uint8) for i in range(n)),
            labels,
            tuple(f"ward{i % 2}-{i}" for i in range(n)),
            tuple(f"image {i}" for i in range(n)),
            origin,
            1.0,
        ),
        measured=Measured(logits, nothing, logits, *[nothing] * 7),
        readings=Readings(logits, logits, nothing, fused, fused),
        right=np.array(right, np.bool_),
        adversarial=np.array(flagged if flagged is not None else [False] * n, np.bool_),
        quality=np.zeros(n, np.bool_),
        p=np.array(p if p is not None else np.linspace(0.1, 1, n)),
    )


def test_the_least_suspicious_harm_comes_first_and_an_original_once() -> None:
    clean = judgement([0, 1, 2, 3], [True, True, True, False])
    row = {key: i for i, key in enumerate(clean.samples.keys)}
    first = judgement([9, 5, -1, -9], [False, False, True, False], "a")
    second = judgement([1, 6, 7, -9], [False, False, False, False], "b")
    hit = [(Attacked(j.samples, 1.0, float("nan")), j) for j in (first, second)]
    found = worst_cases(clean, hit, [], row, CLASSES).harmful
    # image 2 is right under attack a, image 3 was wrong before any attack
    assert [(c.attack, c.case, c.attacked.score) for c in found] == [
        ("b", digest("image 0"), 1), ("a", digest("image 1"), 5), ("b", digest("image 2"), 7),
    ]  # fmt: skip
    assert [c.undetected for c in found] == [True, False, False]
    assert (found[0].label, found[0].clean.predicted, found[0].attacked.predicted) == (
        "A", "A", "B",
    )  # fmt: skip


def test_false_alarms_are_clean_images_first_then_one_of_each_shift() -> None:
    clean = judgement([1, 4, 2], [True] * 3, flagged=[True, True, False])
    mild = judgement([5, 0, 0], [True] * 3, "blur", flagged=[True, False, False])
    strong = judgement([0, 9, 8], [True] * 3, "blur", flagged=[False, True, True])
    quiet = judgement([99, 0, 0], [True] * 3, "noise")
    row = {key: i for i, key in enumerate(clean.samples.keys)}
    found = worst_cases(clean, [], [mild, strong, quiet], row, CLASSES).false_alarms
    assert [(c.origin, c.reading.score) for c in found] == [
        ("clean", 4), ("clean", 1), ("blur 1", 9),
    ]  # fmt: skip


def test_subgroups_cover_every_image_once_in_each_division() -> None:
    clean = judgement(range(12), [True] * 9 + [False] * 3, flagged=[True] + [False] * 11)
    found = subgroups(clean, CLASSES)
    assert {s.by for s in found} == {"true class", "predicted class", "brightness"}
    for division in {s.by for s in found}:
        assert sum(s.images for s in found if s.by == division) == 12
    dark = next(s for s in found if s.by == "brightness")
    assert (dark.name, dark.images, dark.adversarial.value) == ("0 to 30 grey levels", 4, 0.25)


def test_calibration_counts_small_p_values_and_answers_that_did_not_come() -> None:
    clean = judgement(range(4), [True] * 4, p=[0.01, 0.5, float("nan"), 1.0])
    everyone, a, b = calibration_checks(clean, CLASSES)
    at = dict(zip(ALPHAS, everyone.realised, strict=True))
    assert (at[0.001].value, at[0.01].value, at[0.5].value, at[1.0].value) == pytest.approx(
        (0.25, 0.5, 0.75, 1.0)
    )
    assert (a.predicted, a.images, b.predicted, b.images) == ("A", 2, "B", 2)
