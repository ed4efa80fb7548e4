"""What the history remembers of an image: alike under what attacks do, apart between patients."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from detectors.query_fingerprint import BANDS, SKETCH, Fingerprint, Fingerprinter, distances, seen
from detectors.query_sequence import BRIGHTNESS, CONTRAST, RADIUS
from models.phantom import radiograph
from models.spec import Preprocessing

WHOLE = Preprocessing(resize=(96, 96))


def of(fingerprinter: Fingerprinter, pixels: np.ndarray, namespace: str = "m") -> Fingerprint:
    pixels = np.ascontiguousarray(pixels, np.uint8)
    found = fingerprinter.of(pixels, hashlib.sha256(pixels).hexdigest(), WHOLE, namespace)
    assert found is not None
    return found


def apart(one: Fingerprint, other: Fingerprint) -> float:
    return float(distances(one.sketch, [other.sketch])[0])


@pytest.fixture(scope="module")
def secret() -> Fingerprinter:
    return Fingerprinter(b"a deployment's own secret")


@pytest.fixture(scope="module")
def chests() -> list[np.ndarray]:
    return [radiograph(patient, 0, opacities=False, size=96) for patient in range(40)]


def test_small_changes_stay_near_and_patients_stay_apart(
    secret: Fingerprinter, chests: list[np.ndarray]
) -> None:
    rng = np.random.default_rng(0)
    marks = [of(secret, chest) for chest in chests]
    for i, mark in enumerate(marks):
        for other in marks[:i]:
            assert apart(mark, other) > RADIUS
    for chest, mark in zip(chests[:10], marks, strict=False):
        for change in (rng.normal(0, 4, chest.shape), rng.choice([-8, 8], chest.shape)):
            changed = of(secret, np.clip(chest + change, 0, 255))
            assert apart(mark, changed) < RADIUS / 4
            assert set(enumerate(mark.bands)) & set(enumerate(changed.bands))
            assert abs(changed.contrast / mark.contrast - 1) < CONTRAST
            assert abs(changed.brightness - mark.brightness) < BRIGHTNESS


def test_another_window_is_near_but_told_by_its_contrast(
    secret: Fingerprinter, chests: list[np.ndarray]
) -> None:
    mark = of(secret, chests[0])
    narrower = of(secret, np.clip((chests[0].astype(float) - 128) * 1.15 + 128, 0, 255))
    assert apart(mark, narrower) < RADIUS
    assert narrower.contrast / mark.contrast - 1 > CONTRAST


def test_sizes_and_channels_do_not_matter(secret: Fingerprinter) -> None:
    small = radiograph(3, 0, opacities=False, size=96)
    large = small.repeat(3, axis=0).repeat(3, axis=1)
    assert apart(of(secret, small), of(secret, large)) < 1e-3
    assert apart(of(secret, small), of(secret, small.repeat(3, axis=2))) < 1e-3
    odd = of(secret, large[:-1, :-2])
    assert apart(of(secret, small), odd) < RADIUS


def test_the_field_of_view_is_not_what_is_remembered(secret: Fingerprinter) -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1:1:112j, -1:1:112j]
    inside = (x**2 + y**2 < 0.8)[..., None]

    def scan() -> np.ndarray:
        coarse = rng.normal(0, 20, (8, 8)).repeat(14, axis=0).repeat(14, axis=1)[..., None]
        return np.where(inside, np.clip(90 + coarse, 40, 255), 0)

    scans = [of(secret, scan()) for _ in range(12)]
    for i, one in enumerate(scans):
        assert (distances(one.sketch, [s.sketch for s in scans[:i]]) > 4 * RADIUS).all()


def test_the_secret_and_the_model_decide_the_bands(chests: list[np.ndarray]) -> None:
    one, same, other = (Fingerprinter(key) for key in (b"one", b"one", b"other"))
    mark = of(one, chests[0])
    assert mark == of(same, chests[0])
    assert len(mark.bands) == BANDS
    assert len(mark.sketch) == SKETCH
    for stranger in (of(other, chests[0]), of(one, chests[0], "another model")):
        assert not set(enumerate(mark.bands)) & set(enumerate(stranger.bands))
        assert stranger.pixels != mark.pixels
    assert one.key("study", "1.2.3") == same.key("study", "1.2.3") != other.key("study", "1.2.3")


def test_replicas_of_any_version_agree(chests: list[np.ndarray]) -> None:
    """Replicas that share a history may run different versions: these numbers never change."""
    mark = of(Fingerprinter(b"fixed"), (chests[0] // 32) * 32)
    assert np.allclose(list(mark.sketch[:8]), list(bytes.fromhex("8c8c85588d818b94")), atol=1)
    assert mark.bands[:2] == (3171636560, 1473121331)


def test_blank_images_have_no_fingerprint(secret: Fingerprinter) -> None:
    rng = np.random.default_rng(2)
    for blank in (
        np.full((64, 64, 1), 90),
        rng.normal(90, 5, (224, 224, 3)),
        np.zeros((16, 16, 1)),
    ):
        assert secret.of(blank.astype(np.uint8), "d", WHOLE, "m") is None


def test_what_the_model_crops_away_is_not_looked_at(secret: Fingerprinter) -> None:
    cropped = Preprocessing(resize=128, crop=(96, 96))
    assert seen(cropped, 128, 160) == (16, 112, 32, 128)
    assert seen(cropped, 256, 256) == (32, 224, 32, 224)
    chest = radiograph(5, 0, opacities=True, size=128)
    framed = chest.copy()
    framed[:16], framed[-16:], framed[:, :16], framed[:, -16:] = 255, 40, 7, 99
    one, other = (secret.of(pixels, "d", cropped, "m") for pixels in (chest, framed))
    assert one is not None
    assert other is not None
    assert one.sketch == other.sketch
