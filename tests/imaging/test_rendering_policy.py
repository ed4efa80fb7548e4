"""The model, not the file, decides what is shown; and headers that lie are found out."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import TWELVE, edited, rounded

from models.imaging import Image, ImageProblem, RenderingPolicy
from models.imaging.decode import decode
from models.imaging.rendering import Window
from models.spec import ModelSpec, Preprocessing

X = TWELVE[..., 0].astype(float)


def shown(data: bytes, **policy: Any) -> Any:
    return decode(data, policy=RenderingPolicy(**policy)).pixels[..., 0]


def test_a_models_window_wins_over_any_the_file_has() -> None:
    fixed = Window(center=1500, width=700, function="LINEAR_EXACT")
    expected = rounded(np.clip((X - 1500) / 700 + 0.5, 0, 1) * 255)
    for window in ((2048, 4096), (10, 20), (4000, 1)):
        data = edited(WindowCenter=window[0], WindowWidth=window[1])
        assert np.array_equal(shown(data, window=fixed), expected)
    assert np.array_equal(
        shown(edited(RescaleSlope=2, RescaleIntercept=-7), window=fixed),
        rounded(np.clip((2 * X - 7 - 1500) / 700 + 0.5, 0, 1) * 255),
    )


def test_the_full_range_neutralises_windows_and_rescales() -> None:
    expected = rounded(X * (255 / 4095))
    for elements in ({"WindowWidth": 9}, {"RescaleSlope": 0.01, "RescaleIntercept": 5000}):
        assert np.array_equal(shown(edited(**elements), window="range"), expected)


def test_which_of_the_files_windows_is_shown() -> None:
    data = edited(WindowCenter=[1000, 2000], WindowWidth=[500, 4000])
    second = edited(WindowCenter=2000, WindowWidth=4000)
    assert np.array_equal(shown(data, file_window=2), shown(second))
    assert "window 2" in decode(data, policy=RenderingPolicy(file_window=2)).notes
    with pytest.raises(ImageProblem, match="the file has 2"):
        shown(data, file_window=3)


def test_a_model_may_refuse_what_its_site_never_writes() -> None:
    only = ("MONOCHROME2",)
    assert np.array_equal(shown(edited(), photometric=only), shown(edited()))
    with pytest.raises(ImageProblem, match="accepts other photometric"):
        shown(edited(PhotometricInterpretation="MONOCHROME1"), photometric=only)


def padded(value: int, limit: int | None = None, **elements: Any) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(edited(**elements)))
    dataset.add_new("PixelPaddingValue", "US", value)
    if limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", "US", limit)
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def test_padding_as_the_model_wants_it() -> None:
    one = padded(0, PhotometricInterpretation="MONOCHROME1")
    assert shown(one)[0, 0] == 0
    assert shown(one, padding="shown")[0, 0] == 255


def test_a_fixed_policy_says_so_in_the_notes_and_the_fingerprint() -> None:
    plain, ranged = decode(edited()), decode(edited(), policy=RenderingPolicy(window="range"))
    assert np.array_equal(plain.pixels, ranged.pixels)
    assert plain.decoding.fingerprint != ranged.decoding.fingerprint
    assert "the model asks for the full range" in ranged.notes


def test_the_fingerprint_is_of_how_not_of_what() -> None:
    same = edited(PixelData=TWELVE[::-1].astype("<u2").tobytes())
    first, second = decode(edited()), decode(same)
    assert first.digest != second.digest
    assert first.decoding.fingerprint == second.decoding.fingerprint
    for elements in ({"WindowWidth": 1000}, {"RescaleSlope": 2}, {"WindowCenter": 1}):
        assert decode(edited(**elements)).decoding.fingerprint != first.decoding.fingerprint
    assert decode(edited()).decoding.record()["decoder"] == "lazaret 1 native"


def test_a_model_that_declares_nothing_is_shown_what_it_always_was() -> None:
    assert Preprocessing().rendering == RenderingPolicy()
    old = '{"name": "m", "classes": ["a", "b"], "preprocessing": {"channels": 1}}'
    assert ModelSpec.model_validate_json(old).preprocessing.rendering == RenderingPolicy()
    assert "rendering" not in ModelSpec.model_validate_json(old).model_dump_json()
    declared = Preprocessing(rendering=RenderingPolicy(window=Window(center=40, width=400)))
    assert Preprocessing.model_validate_json(declared.model_dump_json()) == declared


SUSPECTS = {
    "polarity": edited(PhotometricInterpretation="MONOCHROME1"),
    "inverse": edited(PresentationLUTShape="INVERSE"),
    "sign": edited(PixelIntensityRelationshipSign=1),
    "slope": edited(RescaleSlope=-1, RescaleIntercept=4095),
    "padding": padded(1000, 3000),
    "one value": padded(2000),
    "narrow": edited(WindowCenter=2000, WindowWidth=20),
    "wide": edited(WindowCenter=2000, WindowWidth=200_000),
    "aside": edited(WindowCenter=4000, WindowWidth=500),
}


def image(name: str) -> Image:
    return decode(SUSPECTS[name])


@pytest.mark.parametrize("name", SUSPECTS)
def test_a_header_that_evades_is_noted(name: str) -> None:
    assert len(image(name).suspicions) >= 1
    assert all(note.startswith("suspect header: ") for note in image(name).suspicions)


def test_honest_headers_are_not_suspect() -> None:
    honest = (
        edited(),
        edited(WindowCenter=2000, WindowWidth=1500),
        edited(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE",
               PixelIntensityRelationshipSign=1),
        padded(0),
        padded(0, 100),
        edited(WindowCenter=None, WindowWidth=None),
    )  # fmt: skip
    for data in honest:
        assert decode(data).suspicions == ()


def test_padding_among_the_values_is_shown_and_hides_nothing() -> None:
    assert np.array_equal(image("padding").pixels, decode(edited()).pixels)


def test_a_policy_cannot_be_nonsense() -> None:
    for nonsense in ({"window": {"center": 0, "width": 0}}, {"window": "auto"}, {"gamma": 2}):
        with pytest.raises(ValueError, match="validation error"):
            RenderingPolicy.model_validate(nonsense)
