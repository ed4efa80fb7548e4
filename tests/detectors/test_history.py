"""A detector that only sees that an image is no longer a plain JPEG must not pass for one that sees
attacks."""

import io

import numpy as np
from PIL import Image
from scipy.fft import dctn

from detectors.history_test import HistoryResult, history_test
from models.phantom import radiograph

QUALITY, SIDE, PATIENTS = 75, 96, 24


def as_jpeg(pixels: np.ndarray) -> np.ndarray:
    """Encoded and decoded again."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(file))


def missing_grid(pixels: np.ndarray) -> float:
    """The toy: how far the spectrum of the 8 x 8 blocks is from multiples of JPEG's steps."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    steps = np.array(Image.open(file).quantization[0]).reshape(8, 8)
    blocks = (pixels.astype(float) - 128).reshape(SIDE // 8, 8, SIDE // 8, 8).swapaxes(1, 2)
    in_steps = dctn(blocks, axes=(2, 3), norm="ortho") / steps
    return float(np.abs(in_steps - np.round(in_steps)).mean())


def dark_dot(pixels: np.ndarray) -> float:
    """What really was done to the attacked images, seen through the grid: a detector that works."""
    return -float(pixels[40:44, 40:44].mean() - pixels.mean())


def judged(through_jpeg: bool) -> dict[str, HistoryResult]:
    rng = np.random.default_rng(0)
    clean = [as_jpeg(radiograph(i, 0, opacities=False, size=SIDE)[..., 0]) for i in range(PATIENTS)]
    signs = [rng.choice([-1, 1], (SIDE, SIDE)) for _ in clean]
    attacked = [
        np.clip(image + sign, 0, 255).astype(np.uint8)
        for image, sign in zip(clean, signs, strict=True)
    ]
    for image in attacked:
        image[40:44, 40:44] //= 2
    matched = [
        np.clip(image + rng.choice([-1, 1], image.shape), 0, 255).astype(np.uint8)
        for image in clean
    ]
    if through_jpeg:
        matched, attacked = [as_jpeg(i) for i in clean], [as_jpeg(i) for i in attacked]
    detectors = {"missing_grid": missing_grid, "dark_dot": dark_dot}
    clean_s, matched_s, attacked_s = (
        {name: np.array([see(i) for i in images]) for name, see in detectors.items()}
        for images in (clean, matched, attacked)
    )
    patients = range(PATIENTS)
    results = history_test(clean_s, matched_s, attacked_s, (patients, patients))
    return {result.detector: result for result in results}


def test_a_detector_of_the_missing_grid_is_caught() -> None:
    found = judged(through_jpeg=False)
    toy = found["missing_grid"]
    assert toy.auc > 0.99
    assert toy.matched < 0.7
    assert not toy.passed


def test_a_detector_of_the_attack_passes_whatever_the_history() -> None:
    for through_jpeg in (False, True):
        assert judged(through_jpeg)["dark_dot"].passed


def test_a_detector_that_claims_nothing_passes() -> None:
    scores = {"flat": np.zeros(20)}
    (result,) = history_test(scores, scores, scores, (range(20), range(20)))
    assert result.passed
    assert result.auc == 0.5
