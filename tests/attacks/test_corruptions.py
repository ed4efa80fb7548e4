"""Benign shifts are what their levels say, repeatable, and valid images whatever goes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attacks.corruptions import CORRUPTIONS, corrupt

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3]))


def radiograph() -> np.ndarray:
    rows, columns = np.mgrid[0:64, 0:48]
    smooth = 128 + 60 * np.sin(rows / 9) * np.cos(columns / 7)
    texture = np.random.default_rng(0).normal(scale=4, size=smooth.shape)
    return np.clip(smooth + texture, 0, 255).astype(np.uint8)[..., None]


def photograph() -> np.ndarray:
    gray = radiograph()
    return np.concatenate([gray, gray // 2 + 40, 255 - gray], axis=2)


def fit_for(name: str) -> np.ndarray:
    return photograph() if CORRUPTIONS[name].colour else radiograph()


@settings(max_examples=300, deadline=None)
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
    pixels = fit_for(name)
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


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 3), (30, 1, 1), (2, 3, 3)])
@pytest.mark.parametrize("level", [0, 255])
def test_blank_and_tiny_images_do_not_break_it(name, shape, level):
    pixels = np.full(shape, level, dtype=np.uint8)
    for severity in CORRUPTIONS[name].severities:
        assert corrupt(name, pixels, severity, seed=1).shape == shape


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_of_colour_alone_says_so(name):
    worst = corrupt(name, radiograph(), CORRUPTIONS[name].severities[-1], seed=1)
    assert np.array_equal(worst, radiograph()) == CORRUPTIONS[name].colour


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur"])
def test_blur_keeps_the_light_and_the_flat(name):
    flat = np.full((40, 40, 3), 77, dtype=np.uint8)
    assert np.array_equal(corrupt(name, flat, 5), flat)
    if name == "zoom_blur":
        return
    point = np.zeros((41, 41, 1), dtype=np.uint8)
    point[19:22, 19:22] = 255
    light = corrupt(name, point, 1, seed=2).sum(dtype=float)
    assert light == pytest.approx(point.sum(dtype=float), rel=0.05)


def test_a_defocused_point_is_a_disk_of_the_stated_radius():
    point = np.zeros((41, 41, 1), dtype=np.uint8)
    point[20, 20] = 255
    disk = corrupt("defocus_blur", point, 1)[..., 0]
    rows, columns = np.mgrid[-20:21, -20:21]
    assert disk[np.hypot(rows, columns) <= 1.5].min() == disk.max()
    assert disk[np.hypot(rows, columns) >= 2.5].max() == 0


def test_a_translated_ramp_moves_by_part_of_a_pixel():
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (30, 1))[..., None]
    for severity, distance in ((2, 0.5), (4, 2.0)):
        moved = corrupt("translation", ramp, severity, seed=0).astype(float) - ramp
        middle = moved[:, 5:-5]
        assert np.ptp(middle) == 0
        assert 0 < abs(middle[0, 0, 0]) <= 4 * distance + 0.5


def test_saturation_keeps_hue_and_value_and_leaves_gray_alone():
    pixels = np.array([[[200, 100, 150], [90, 90, 90], [255, 0, 0]]], dtype=np.uint8)
    more = corrupt("saturate", pixels, 5)[0].tolist()
    # chroma grows from 100 to 100 + 0.25 * 200; the middle channel stays half-way
    assert more == [[200, 50, 125], [90, 90, 90], [255, 0, 0]]


def test_twelve_bits_through_the_full_window_would_be_the_pixels():
    pixels = photograph()
    kind = CORRUPTIONS["twelve_to_eight_bit"]
    shown = kind.change(pixels, 0.0, np.random.default_rng(0)).astype(int)
    # values at the border of two grey levels may fall to the next on the 12-bit grid
    assert np.abs(shown - pixels).max() <= 1
    assert np.mean(shown != pixels) < 0.1
    narrow = corrupt("twelve_to_eight_bit", pixels, 5).astype(int)
    assert np.all((narrow - pixels)[pixels > 140] >= -1)
    assert np.all((narrow - pixels)[pixels < 115] <= 1)


def test_look_up_tables_keep_black_white_and_order():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    for name in ("vendor_lut_sigmoid", "vendor_lut_log"):
        for severity in CORRUPTIONS[name].severities:
            shown = corrupt(name, levels, severity).ravel().astype(int)
            assert (shown[0], shown[-1]) == (0, 255)
            assert np.all(np.diff(shown) >= 0)


def test_a_chain_is_not_a_single_save():
    pixels = radiograph()
    once, twice, thrice = (
        corrupt(name, pixels, 3).astype(int) for name in ("jpeg", "jpeg_twice", "jpeg_thrice")
    )
    assert not np.array_equal(once, twice)
    assert not np.array_equal(twice, thrice)
    for chain in (twice, thrice):
        assert np.abs(chain - pixels).mean() < 2 * np.abs(once - pixels).mean()


def test_labels_are_white_and_stains_dark_and_all_channels_alike():
    pixels = np.full((224, 160, 3), 120, dtype=np.uint8)
    for name, only in (("burned_in_text", np.max), ("bubble", np.max), ("stain_deposit", np.min)):
        marked = corrupt(name, pixels, 5, seed=4)
        assert np.all(marked == marked[..., :1]), name
        assert 0.001 < np.mean(marked != pixels) < 0.5
        assert only([only(marked), 120]) != 120
    dead = corrupt("dead_columns", pixels, 3)
    assert np.sum(np.all(dead == 0, axis=(0, 2))) == 3
    assert not corrupt("collimation", pixels, 1)[[0, -1]].any()


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="choose from"):
        corrupt("fog", radiograph())
    with pytest.raises(ValueError, match="severities 1 to 1"):
        corrupt("sign_noise", radiograph(), severity=2)
    with pytest.raises(ValueError, match="uint8"):
        corrupt("jpeg", radiograph().astype(np.float32))
