"""A JPEG decoded to a smaller size is another image: fitting and serving must see the same one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from pydantic import ValidationError

from models.datasets import Example, load_images
from models.imaging import Limits
from models.imaging.decode import decode
from models.imaging.encode import jpeg, png
from models.imaging.rendering import RenderingPolicy
from models.spec import Preprocessing
from service.body import Upload
from service.diagnose import load

POLICY = RenderingPolicy(jpeg=(64, 64))


def picture(height: int, width: int, channels: int = 1) -> np.ndarray:
    """Coarse noise, which survives JPEG."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, channels), np.uint8)
    return np.kron(coarse, np.ones((16, 16, 1), np.uint8))[:height, :width]


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((512, 512), (64, 64)),  # an eighth
        ((505, 700), (64, 88)),  # an eighth, rounded up
        ((504, 700), (126, 175)),  # an eighth would have 63 rows
        ((300, 129), (150, 65)),
        ((126, 900), (126, 900)),
        ((4000, 4100), (500, 513)),  # an eighth is the least that libjpeg can
        ((40, 40), (40, 40)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_smallest_fraction_that_has_enough(
    size: tuple[int, int], decoded: tuple[int, int], channels: int
) -> None:
    image = decode(jpeg(picture(*size, channels), 90), policy=POLICY)
    assert image.pixels.shape == (*decoded, channels)
    assert (size != decoded) == any("of its size" in note for note in image.notes)


def test_what_is_fitted_is_what_is_served(tmp_path: Path) -> None:
    for index, (height, width) in enumerate([(512, 512), (511, 700), (40, 40)]):
        path = tmp_path / f"{index}.jpg"
        path.write_bytes(jpeg(picture(height, width, 3), 85))
        example = Example(path, path.name, 0, path.name, None)
        (fitted,) = load_images([example], rendering=POLICY).images
        served = load(Upload(path.read_bytes(), "image/jpeg"), Limits(), POLICY)
        assert fitted.digest == served.digest
        assert np.array_equal(fitted.pixels, served.pixels)


def test_once_reduced_it_is_not_reduced_again() -> None:
    """So an attack on the decoded pixels, delivered as JPEG, arrives at their size."""
    for size in [(512, 512), (511, 700), (504, 700), (300, 129)]:
        once = decode(jpeg(picture(*size), 90), policy=POLICY).pixels
        again = decode(jpeg(once, 90), policy=POLICY).pixels
        assert again.shape == once.shape


def test_other_files_and_other_models_are_as_before() -> None:
    pixels = picture(512, 512)
    assert np.array_equal(decode(png(pixels), policy=POLICY).pixels, pixels)
    assert decode(jpeg(pixels, 90)).pixels.shape == (512, 512, 1)


def test_a_turned_image_has_enough_rows_once_upright() -> None:
    file = io.BytesIO()
    exif = Pillow.Exif()
    exif[0x0112] = 6
    image = Pillow.fromarray(picture(300, 600)[..., 0])
    image.save(file, "JPEG", exif=exif.tobytes())
    policy = RenderingPolicy(jpeg=(300, 150))  # upright it has 600 rows and 300 columns
    assert decode(file.getvalue(), policy=policy).pixels.shape == (300, 150, 1)


def test_a_model_cannot_ask_for_less_than_it_is_shown() -> None:
    for resize, crop in [((224, 224), None), (256, (224, 224))]:
        Preprocessing(resize=resize, crop=crop, rendering=RenderingPolicy(jpeg=(256, 256)))
        with pytest.raises(ValidationError, match="fewer pixels"):
            Preprocessing(resize=resize, crop=crop, rendering=POLICY)
    with pytest.raises(ValidationError, match="without a resize"):
        Preprocessing(resize=None, crop=(64, 64), rendering=POLICY)
