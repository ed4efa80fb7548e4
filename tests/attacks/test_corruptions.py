"""Benign shifts are what their levels say, repeatable, and valid images whatever goes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attacks.corruptions import CORRUPTIONS, corrupt

SHAPES = st.tuples(st.integers(8, 24), st.integers(8, 24), st.sampled_from([1, 3]))


def radiograph() -> np.ndarray:
    rows, columns = np.mgrid[0:64, 0:48]
    smooth = 128 + 60 * np.sin(rows / 9) * np.cos(columns / 7)
    texture = np.random.default_rng(0).normal(scale=4, size=smooth.shape)
    return np.clip(smooth + texture, 0, 255).astype(np.uint8)[..., None]


@settings(max_examples=60, deadline=None)
@given(hnp.arrays("uint8", SHAPES), st.sampled_from(sorted(CORRUPTIONS)), st.data())
def test_any_image_stays_an_image_of_its_shape_and_is_not_written_to(pixels, name, data):
    severity = data.draw(st.sampled_from(CORRUPTIONS[name].severities))
    before = pixels.copy()
    result = corrupt(name, pixels, severity, seed=3)
    assert result.dtype == np.uint8
    assert result.shape == pixels.shape
    assert np.array_equal(pixels, before)
    assert np.array_equal(result, corrupt(name, pixels, severity, seed=3))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_is_severity(name):
    pixels = radiograph()
    changes = [
        np.mean([np.abs(corrupt(name, pixels, s, seed=k) - pixels.astype(float)) for k in range(8)])
        for s in CORRUPTIONS[name].severities
    ]
    assert changes[0] > 0
    assert changes == sorted(changes)


@pytest.mark.parametrize(
    ("name", "sigma"), [("faint_noise", 0.5), ("sign_noise", 1.0), ("gaussian_noise", 10.2)]
)
def test_noise_has_the_stated_size_in_grey_levels(name, sigma):
    flat = np.full((200, 200, 1), 128, dtype=np.uint8)
    change = corrupt(name, flat, 1, seed=1) - flat.astype(float)
    # rounding to whole grey levels adds a variance of 1/12
    rounding = 0 if name == "sign_noise" else 1 / 12
    assert np.std(change) == pytest.approx(np.sqrt(sigma**2 + rounding), rel=0.05)
    assert abs(change.mean()) < 0.3


def test_known_pixels():
    levels = np.array([[0, 50, 100, 250]], dtype=np.uint8).reshape(2, 2, 1)
    assert corrupt("brightness_up", levels, 1).ravel().tolist() == [0, 55, 110, 255]
    assert corrupt("contrast_down", levels, 5).ravel().tolist() == [60, 80, 100, 160]
    assert corrupt("gamma_up", levels, 5).ravel().tolist() == [0, 19, 57, 247]
    ramp = np.tile(np.arange(9, dtype=np.uint8), (9, 1))[..., None]
    moved = corrupt("shift", ramp, 1, seed=0)[4, :, 0].astype(int)
    assert set(moved[1:-1] - np.arange(1, 8)) <= {-1, 0, 1}
    assert len(set(moved[1:-1] - np.arange(1, 8))) == 1


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="choose from"):
        corrupt("fog", radiograph())
    with pytest.raises(ValueError, match="severities 1 to 1"):
        corrupt("sign_noise", radiograph(), severity=2)
    with pytest.raises(ValueError, match="uint8"):
        corrupt("jpeg", radiograph().astype(np.float32))
