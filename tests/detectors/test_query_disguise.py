"""A picture is known again in another window or moved, and other patients' are not."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.query_disguise import ALIKE, EACH, WANTED, Gallery, Known, Likeness, likeness_of
from detectors.query_fingerprint import cells_of
from models.phantom import radiograph
from models.spec import Preprocessing

NOW = 1_800_000_000.0


def look(pixels: np.ndarray) -> Likeness:
    shown = np.ascontiguousarray(np.clip(pixels, 0, 255).round().astype(np.uint8))
    return likeness_of(cells_of(shown, Preprocessing()))


def chest(patient: int) -> np.ndarray:
    return radiograph(patient, 0, opacities=False, size=112).astype(float)


def known(cluster: int, wanted: bool = False, until: float = NOW + 60) -> Known:
    return Known(cluster, 0, 1, 0, 50.0, 100.0, wanted, until)


DISGUISES = {
    "another window": lambda p: (p - 128) * 0.6 + 100,
    "a clipped window": lambda p: (p - 128) * 1.4 + 160,
    "moved": lambda p: np.roll(p, (6, -4), axis=(0, 1)),
    "moved by part of a cell": lambda p: np.roll(p, (2, 0), axis=(0, 1)),
    "smooth noise": lambda p: (
        p + np.kron(np.random.default_rng(0).choice([-8, 8], (14, 14)), np.ones((8, 8)))[..., None]
    ),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_picture_is_known_again_and_others_are_not(disguise: str) -> None:
    gallery = Gallery()
    for patient in range(20):
        gallery.keep(look(chest(patient)), known(patient))
    for patient in range(20):
        found = gallery.find(look(DISGUISES[disguise](chest(patient))), NOW)
        assert found is not None
        assert found.cluster == patient
    assert all(gallery.find(look(chest(patient)), NOW) is None for patient in range(20, 40))


def test_an_incident_outlives_the_recent_and_reaches_further() -> None:
    gallery = Gallery(recent=4, incidents=4)
    rng = np.random.default_rng(1)
    noise = np.kron(rng.choice([-16, 16], (14, 14)), np.ones((8, 8)))[..., None]
    source, disguised = look(chest(1)), look(chest(1) + 1.25 * noise)
    assert ALIKE < 1 - (disguised.moved @ source.centre).max() < WANTED
    gallery.keep(source, known(7))
    assert gallery.find(disguised, NOW) is None
    gallery.keep(look(chest(1) * 0.9), known(7, wanted=True))
    for patient in range(20, 30):
        gallery.keep(look(chest(patient)), known(patient))
    found = gallery.find(disguised, NOW)
    assert found is not None
    assert (found.cluster, gallery.find(disguised, NOW + 61)) == (7, None)


def test_one_flood_does_not_wash_out_other_incidents() -> None:
    gallery = Gallery(recent=4, incidents=4)
    gallery.keep(look(chest(1)), known(1, wanted=True))
    rng = np.random.default_rng(2)
    for _ in range(20):
        noisy = chest(2) + rng.normal(0, 3, (112, 112, 1))
        gallery.keep(look(noisy), known(2, wanted=True))
    assert gallery.find(look(chest(1)), NOW) is not None


def test_what_is_held_for_its_looks_draws_in_no_others() -> None:
    """Nor does an incident reach further however much is asked about it."""
    gallery = Gallery()
    for patient in range(30):
        gallery.keep(look(chest(patient)), known(1, wanted=True))
    held = [gallery.find(look(chest(patient)), NOW) is not None for patient in range(30)]
    assert sum(held) == 1
    for i in range(30):
        turned = DISGUISES["moved"](chest(0)) if i % 2 else np.roll(chest(0), 2 * i % 8 - 4, axis=0)
        gallery.keep(look(turned), known(1, wanted=True))
    assert len(gallery._exemplars(1)) <= EACH
