"""Several frames in one object: one at a time, each as its own functional groups say."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import TWELVE, changed, edited, rounded
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate_extended
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from models.imaging import ImageProblem, Limits
from models.imaging.decode import decode, decode_frames
from models.imaging.encode import png

THREE = np.stack([TWELVE, TWELVE[::-1], TWELVE[:, ::-1]])


def cine(**elements: Any) -> bytes:
    return edited(NumberOfFrames=3, PixelData=THREE.astype("<u2").tobytes(), **elements)


def rle(data: bytes) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.compress(RLELossless, generate_instance_uid=False)
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


@pytest.mark.parametrize("data", [cine(), rle(cine())], ids=["native", "RLE"])
def test_each_frame_is_its_own_picture(data: bytes) -> None:
    images = list(decode_frames(data))
    for index, image in enumerate(images):
        single = decode(edited(PixelData=THREE[index].astype("<u2").tobytes()))
        assert np.array_equal(image.pixels, single.pixels)
        assert image.digest == decode(data, frame=index).digest == single.digest
        assert (image.decoding.frame, image.decoding.frames) == (index, 3)
    assert len(images) == 3


def test_several_frames_without_a_number_and_frames_that_are_not_there_are_refused() -> None:
    with pytest.raises(ImageProblem, match="several frames"):
        decode(cine())
    for frame in (3, -1, 2**40):
        with pytest.raises(ImageProblem, match="has 3 frames"):
            decode(cine(), frame=frame)
    assert decode(edited(), frame=0).digest == decode(edited()).digest
    with pytest.raises(ImageProblem, match="number of frames"):
        decode(cine(), limits=Limits(frames=2), frame=0)


def test_a_raster_has_one_frame() -> None:
    assert len(list(decode_frames(png(np.arange(1024, dtype=np.uint8).reshape(32, 32, 1))))) == 1


def test_frames_of_several_fragments_are_found_by_the_offset_table() -> None:
    dataset = pydicom.dcmread(io.BytesIO(rle(cine())))
    frames = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=3))
    dataset.PixelData = pydicom.encaps.encapsulate(frames, fragments_per_frame=2)
    stream = io.BytesIO()
    dataset.save_as(stream)
    assert [i.digest for i in decode_frames(stream.getvalue())] == [
        i.digest for i in decode_frames(cine())
    ]
    dataset.PixelData = pydicom.encaps.encapsulate(frames, fragments_per_frame=2, has_bot=False)
    stream = io.BytesIO()
    dataset.save_as(stream)
    with pytest.raises(ImageProblem, match="fragments are not those"):
        decode(stream.getvalue(), frame=0)
    dataset.PixelData, table, lengths = encapsulate_extended(frames)
    dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = table, lengths
    stream = io.BytesIO()
    dataset.save_as(stream)
    assert decode(stream.getvalue(), frame=2).digest == decode(cine(), frame=2).digest


def window(center: float, width: float) -> Dataset:
    item = Dataset()
    item.WindowCenter, item.WindowWidth = center, width
    return item


def rescale(slope: float, intercept: float) -> Dataset:
    item = Dataset()
    item.RescaleSlope, item.RescaleIntercept, item.RescaleType = slope, intercept, "US"
    return item


@pytest.mark.parametrize("undefined", [False, True])
def test_functional_groups_override_a_frame_at_a_time(undefined: bool) -> None:
    shared, frames = Dataset(), [Dataset() for _ in range(3)]
    shared.FrameVOILUTSequence = Sequence([window(2000, 1000)])
    frames[1].FrameVOILUTSequence = Sequence([window(1000, 500)])
    frames[2].PixelValueTransformationSequence = Sequence([rescale(2, -100)])
    measures = Dataset()
    measures.PixelSpacing = [0.5, 0.25]
    shared.PixelMeasuresSequence = Sequence([measures])
    dataset = pydicom.dcmread(io.BytesIO(cine()))
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    if undefined:
        for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            dataset[name].is_undefined_length = True
            for item in dataset[name].value:
                item.is_undefined_length_sequence_item = True
    stream = io.BytesIO()
    dataset.save_as(stream)
    data = stream.getvalue()

    def linear(x: Any, center: float, width: float) -> Any:
        return rounded(np.clip((x - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * 255)

    x = THREE[..., 0].astype(float)
    assert np.array_equal(decode(data, frame=0).pixels[..., 0], linear(x[0], 2000, 1000))
    assert np.array_equal(decode(data, frame=1).pixels[..., 0], linear(x[1], 1000, 500))
    assert np.array_equal(decode(data, frame=2).pixels[..., 0], linear(2 * x[2] - 100, 2000, 1000))
    assert decode(data, frame=0).decoding.spacing == (0.5, 0.25)
    assert "pixels are not square" in decode(data, frame=0).notes


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({"PixelSpacing": [0.2, 0.2], "ImagerPixelSpacing": [0.3, 0.3]}, (0.2, 0.2)),
        ({"ImagerPixelSpacing": [0.3, 0.3]}, (0.3, 0.3)),
        ({"NominalScannedPixelSpacing": [0.1, 0.1]}, (0.1, 0.1)),
        ({"PixelSpacing": [0, 0]}, None),
        ({}, None),
    ],
)
def test_spacing_is_the_patients_where_known(
    elements: dict[str, Any], spacing: tuple[float, float] | None
) -> None:
    assert decode(edited(**elements)).decoding.spacing == spacing


def test_an_aspect_ratio_is_noted_and_nothing_is_resampled() -> None:
    image = decode(changed(edited(), PixelAspectRatio=[1, 2]))
    assert "pixels are not square" in image.notes
    assert image.pixels.shape == (24, 32, 1)


def test_many_frames_cost_each_the_same() -> None:
    """Finding the last frame's group must not read all those before it, frame after frame."""
    frames = 400
    small = (TWELVE[:16, :16] + 1).astype("<u2")
    data = edited(
        NumberOfFrames=frames, Rows=16, Columns=16, PixelData=small.tobytes() * frames,
        WindowCenter=None, WindowWidth=None,
    )  # fmt: skip
    dataset = pydicom.dcmread(io.BytesIO(data))
    groups = [Dataset() for _ in range(frames)]
    for number, group in enumerate(groups):
        group.is_undefined_length_sequence_item = True
        group.FrameVOILUTSequence = Sequence([window(2000 + number, 1000)])
        group["FrameVOILUTSequence"].is_undefined_length = True
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    dataset["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
    stream = io.BytesIO()
    dataset.save_as(stream)
    started = time.process_time()
    found = [image.digest for image in decode_frames(stream.getvalue())]
    assert len(set(found)) > frames // 2
    assert time.process_time() - started < 3
