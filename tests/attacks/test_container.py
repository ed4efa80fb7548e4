"""Containers: epsilon holds on the file's own grid, and what a query sees is what is delivered."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pydantic import BaseModel, ValidationError

from attacks.ball import Norm, size
from attacks.container import PNG8, AnyContainer, Container, Delivered
from models.imaging.decode import decode
from models.imaging.image import ImageProblem

EVERY = ("png8", "jpeg:90", "dicom8", "dicom12", "dicom16")
LOSSLESS = tuple(name for name in EVERY if not name.startswith("jpeg"))
GRAY_OR_RGB = st.tuples(st.integers(16, 20), st.integers(16, 20), st.sampled_from([1, 3]))
containers = st.sampled_from(EVERY).map(Container.parse)


def images(data, container: Container) -> np.ndarray:
    shape = data.draw(GRAY_OR_RGB)
    if container.white > 255:
        shape = (*shape[:2], 1)
    source = data.draw(hnp.arrays("uint8", shape))
    # a blank DICOM is refused by the decoder
    source[0, 0], source[0, 1] = 0, 255
    return source


def moved(data, source: np.ndarray, most: float) -> np.ndarray:
    noise = data.draw(hnp.arrays("float32", source.shape, elements=st.floats(-1, 1, width=32)))
    return np.clip(source + noise * np.float32(most), 0, 255).astype(np.float32)


def length(change: np.ndarray, norm: Norm) -> float:
    return size(torch.from_numpy(change)[None].double(), norm).item()


def deliver(container: Container, floats, source, epsilon, norm) -> Delivered | None:
    try:
        return container.deliver(floats, source, epsilon=epsilon, norm=norm)
    except ImageProblem:
        assert container.suffix == ".dcm"
        return None


@settings(max_examples=120, deadline=None)
@given(st.data(), containers, st.sampled_from(Norm))
def test_rounding_stays_within_epsilon_in_every_norm(data, container, norm):
    source = images(data, container)
    floats = moved(data, source, data.draw(st.floats(0, 40)))
    asked = length(floats.astype(np.float64) - source, norm)
    share = 1.0 if norm is Norm.L0 else data.draw(st.floats(0, 1))
    epsilon = min(asked * share, 255.0 if norm is Norm.LINF else np.inf)
    delivered = deliver(container, floats, source, epsilon, norm)
    if delivered is None:
        return
    # float32 of a fraction of a grey level may round up by one part in 2^24
    assert length(delivered.change, norm) <= epsilon * (1 + 2**-22)
    assert np.all(np.sign(delivered.change) * np.sign(floats - source) >= 0)


@settings(max_examples=60, deadline=None)
@given(st.data(), containers)
def test_a_query_sees_what_is_delivered_and_passes_the_gradient_unchanged(data, container):
    source = images(data, container)
    floats = moved(data, source, 20)
    delivered = deliver(container, floats, source, None, Norm.LINF)
    batch = torch.from_numpy(np.stack([floats, floats[::-1]])).requires_grad_()
    seen = container.query(batch)
    assert seen.dtype == torch.float32
    assert not seen.requires_grad
    if delivered is not None:
        assert np.array_equal(seen[0].numpy(), delivered.pixels.astype(np.float32))
    through = container.through(batch)
    assert torch.equal(through, seen)
    weights = torch.arange(batch.numel()).view_as(batch).float()
    (gradient,) = torch.autograd.grad((through * weights).sum(), batch)
    assert torch.equal(gradient, weights)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(LOSSLESS), st.floats(0, 20))
def test_lossless_files_decode_to_the_source_and_to_at_most_epsilon_and_a_rounding(
    data, name, epsilon
):
    container = Container.parse(name)
    source = images(data, container)
    assert np.array_equal(decode(container.source_file(source)).pixels, source)
    delivered = deliver(container, moved(data, source, 30), source, epsilon, Norm.LINF)
    if delivered is None:
        return
    assert np.array_equal(delivered.source, source)
    off = np.abs(delivered.pixels - source.astype(float)).max()
    rounding = 0 if container.white == 255 else (255 / container.white + 1) / 2
    assert off <= epsilon + rounding


def test_half_a_grey_level_needs_more_than_eight_bits():
    source = np.tile(np.arange(32, dtype=np.uint8), (32, 1))[..., None]
    floats = source + np.float32(0.5)
    changes = {
        name: Container.parse(name).deliver(floats, source, epsilon=0.5).change
        for name in ("png8", "dicom12", "dicom16")
    }
    assert not changes["png8"].any()
    # the largest multiples of 255/4095 and 255/65535 below a half
    assert changes["dicom12"].max() == pytest.approx(8 * 255 / 4095)
    assert changes["dicom16"].max() == pytest.approx(128 * 255 / 65535)
    delivered = Container.parse("dicom12").deliver(source + np.float32(0.6), source, epsilon=0.6)
    assert np.array_equal(delivered.pixels, source + 1), "epsilon 0.6 shows as a whole level"


@pytest.mark.parametrize("norm", [Norm.L2, Norm.L1])
def test_shrinking_spends_the_budget(norm):
    rng = np.random.default_rng(0)
    source = rng.integers(60, 190, (24, 24, 3), dtype=np.uint8)
    floats = (source + rng.normal(scale=8, size=source.shape)).astype(np.float32)
    asked = length(floats - source.astype(np.float32), norm)
    for share in (0.9, 0.5, 0.25):
        kept = PNG8.deliver(floats, source, epsilon=asked * share, norm=norm)
        assert 0.99 * asked * share < length(kept.change, norm) <= asked * share
    exact = (source + 3 * np.eye(24)[..., None]).astype(np.float32)
    epsilon = length(exact - source.astype(np.float32), norm)
    assert np.array_equal(PNG8.deliver(exact, source, epsilon=epsilon, norm=norm).pixels, exact)


def test_jpeg_is_compared_with_a_source_of_the_same_history():
    rows, columns = np.mgrid[0:48, 0:48]
    waves = 128 + 50 * np.sin(rows / 5) + 40 * np.cos(columns / 3)
    source = np.repeat(waves.astype(np.uint8)[..., None], 3, axis=2)
    container = Container.parse("jpeg:75")
    idle = container.deliver(source.astype(np.float32), source, epsilon=0.0)
    assert idle.file == container.source_file(source)
    assert np.array_equal(idle.pixels, idle.source)
    assert not np.array_equal(idle.source, source)
    busy = container.deliver(source + np.float32(6), source, epsilon=4.0)
    assert np.unique(busy.change).tolist() == [4.0], "epsilon holds before the encoder"
    assert np.mean(busy.pixels - busy.source.astype(float)) == pytest.approx(4, abs=0.5)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("channels", [1, 3])
def test_other_programs_open_the_file(name, channels):
    container = Container.parse(name)
    source = np.random.default_rng(0).integers(0, 256, (17, 19, channels), dtype=np.uint8)
    if channels == 3 and container.white > 255:
        for refused in (
            lambda: container.source_file(source),
            lambda: container.query(torch.from_numpy(source)[None].float()),
        ):
            with pytest.raises(ValueError, match="gray images only"):
                refused()
        return
    delivered = container.deliver(source.astype(np.float32), source, epsilon=None)
    assert decode(delivered.file, container.media_type).media_type == container.media_type
    if container.plain:
        assert container.source_file(delivered.pixels) == delivered.file
    if container.suffix == ".dcm":
        dataset = pydicom.dcmread(io.BytesIO(delivered.file))
        shown = dataset.pixel_array.reshape(source.shape) * (255 / container.white)
    else:
        shown = np.asarray(Image.open(io.BytesIO(delivered.file))).reshape(source.shape)
    assert np.array_equal(np.rint(shown), delivered.pixels)


def test_containers_are_their_text():
    class Manifest(BaseModel):
        container: AnyContainer | None = PNG8

    for text in (*EVERY, "jpeg:1", "jpeg:100"):
        container = Container.parse(text)
        assert str(container) == text
        manifest = Manifest(container=text)
        assert manifest.container == container
        assert manifest.model_dump() == {"container": text}
        assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert Manifest.model_json_schema()["properties"]["container"]["anyOf"][0]["type"] == "string"
    assert Manifest(container=None).model_dump() == {"container": None}
    for wrong in ("jpeg", "jpeg:0", "jpeg:101", "jpeg:", "png8:90", "gif", "", "jpeg:-5", "jpeg:²"):
        with pytest.raises(ValueError, match=r"choose from|quality"):
            Container.parse(wrong)
        with pytest.raises(ValidationError):
            Manifest(container=wrong)
    with pytest.raises(ValidationError):
        Manifest(container=8)


@pytest.mark.parametrize(
    ("pixels", "source", "message"),
    [
        (np.zeros((16, 16, 1)), np.zeros((16, 16, 3), np.uint8), "pixels are"),
        (np.zeros((16, 16, 1)), np.zeros((16, 16, 1)), "not uint8"),
        (np.zeros((16, 16, 2)), np.zeros((16, 16, 2), np.uint8), "2 channels"),
    ],
)
def test_arrays_that_are_no_image_are_named(pixels, source, message):
    with pytest.raises(ValueError, match=message):
        PNG8.deliver(pixels.astype(np.float32), source, epsilon=1.0)
