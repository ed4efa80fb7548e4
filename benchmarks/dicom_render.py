"""From a DICOM file's bytes to display values: this project's decoder beside pydicom's functions.

    python benchmarks/dicom_render.py [--out docs/results/dicom_render.md]

pydicom's way is ``dcmread``, ``pixel_array``, ``apply_modality_lut``, ``apply_voi_lut`` and the
scaling to 8 bits, all on the pixels. Ours includes what a hostile file asks for: bounds, checks,
the digest and the notes. Runs alternate in groups, so that a busy machine slows both alike
and each finds its own caches warm; what is compared is the lower quartile of CPU time, which a busy
machine stretches least. The second table says what it costs to decode in a process of its own, on
the clock.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image as Pillow
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from models.imaging import encode
from models.imaging.codec_pool import CodecPool, Frame
from models.imaging.decode import decode
from models.machine import describe

GROUP = 5
"""Runs of one side before the other's turn, after one that is not counted."""

Pixels = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Case:
    """A file, and the output range that pydicom's display values lie in."""

    name: str
    file: bytes
    low: float
    high: float


def radiograph(rows: int, columns: int, bits: int) -> Pixels:
    """``uint16[rows, columns, 1]``: smooth shapes under noise, over all of ``bits``."""
    y, x = np.mgrid[0:rows, 0:columns]
    shapes = 0.5 + 0.35 * np.sin(x / columns * 9) * np.cos(y / rows * 7)
    noise = np.random.default_rng(0).normal(0, 0.02, (rows, columns))
    return ((shapes + noise).clip(0, 1) * (2**bits - 1)).astype(np.uint16)[..., np.newaxis]


def written(pixels: Pixels, bits: int, *, rle: bool = False, **elements: Any) -> bytes:
    """A file of these pixels with some elements changed, and those that are None removed."""
    dataset = pydicom.dcmread(io.BytesIO(encode.dicom(pixels, bits_stored=bits)))
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    if rle:
        dataset.compress(RLELossless, generate_instance_uid=False)
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def lut(entries: npt.NDArray[Any]) -> Sequence:
    item = Dataset()
    item.add_new(0x00283002, "US", [len(entries) % 65_536, 0, 16])
    item.add_new(0x00283006, "OW", entries.astype("<u2").tobytes())
    return Sequence([item])


def cases() -> list[Case]:
    """The files."""
    chest, large = radiograph(512, 512, 12), radiograph(2500, 2048, 14)
    curve = np.sqrt(np.arange(4096) / 4095) * 65_535
    window = {"WindowCenter": 2000, "WindowWidth": 2500}
    return [
        Case("CR, 512 x 512, 12 bits, window", written(chest, 12, **window), 0, 4095),
        Case(
            "CR, the same, SIGMOID",
            written(chest, 12, VOILUTFunction="SIGMOID", **window), 0, 4095,
        ),
        Case(
            "CR, the same, VOI LUT",
            written(chest, 12, VOILUTSequence=lut(curve), WindowCenter=None, WindowWidth=None),
            0, 65_535,
        ),
        Case("CR, the same, RLE", written(chest, 12, rle=True, **window), 0, 4095),
        Case(
            "CT, 512 x 512, 16 bits signed, rescale, window",
            written(
                (radiograph(512, 512, 12) + np.uint16(64_512)).astype(np.uint16), 16,
                PixelRepresentation=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400,
            ),
            -32_768 - 1024, 32_767 - 1024,
        ),
        Case(
            "DX, 2500 x 2048, 14 bits, rescale, window",
            written(large, 14, RescaleSlope=2, RescaleIntercept=-7, WindowCenter=16_000,
                    WindowWidth=20_000),
            -7, 2 * 16_383 - 7,
        ),
    ]  # fmt: skip


def ours(case: Case) -> npt.NDArray[np.uint8]:
    return decode(case.file, "application/dicom").pixels[..., 0]


def pydicoms(case: Case) -> npt.NDArray[np.uint8]:
    dataset = pydicom.dcmread(io.BytesIO(case.file))
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    return np.floor((shown - case.low) * (255 / (case.high - case.low)) + 0.5).astype(np.uint8)


def lower_quartile(times: list[float]) -> float:
    return statistics.quantiles(times, n=4)[0]


def timed(
    *runs: Callable[[], object],
    rounds: int,
    clock: Callable[[], float],
    of: Callable[[list[float]], float],
) -> list[float]:
    """Milliseconds of each, a group of each in turn."""
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(-(-rounds // GROUP)):
        for times, run in zip(found, runs, strict=True):
            run()
            for _ in range(GROUP):
                started = clock()
                run()
                times.append(1000 * (clock() - started))
    return [of(times) for times in found]


def baseline(pixels: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def hops(rounds: int) -> list[str]:
    """What a process of its own adds to a codec, by codec and size."""
    pool = CodecPool(1)
    rows = []
    for side in (512, 1024):
        pixels = radiograph(side, side, 12)[..., 0]
        codecs: list[tuple[str, str, bytes, Callable[[bytes], object], int]] = [
            ("JPEG Baseline", "jpeg8", baseline((pixels >> 4).astype(np.uint8)),
             lambda data: np.asarray(Pillow.open(io.BytesIO(data))), 1),
            ("JPEG-LS", "jpegls", bytes(imagecodecs.jpegls_encode(pixels)),
             imagecodecs.jpegls_decode, 2),
            ("JPEG 2000", "jpeg2k",
             bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True)),
             lambda data: imagecodecs.jpeg2k_decode(data, numthreads=1), 2),
        ]  # fmt: skip
        for name, codec, data, here, bytes_each in codecs:
            frame = Frame(codec, data, side, side, 1, bytes_each)

            inside, outside = timed(
                partial(here, data),
                partial(pool.decode, frame),
                rounds=rounds,
                clock=time.perf_counter,
                of=min,
            )
            rows.append(
                f"| {name} | {side} x {side} | {inside:.2f} | {outside:.2f} | "
                f"{outside - inside:.2f} |"
            )
    pool.close()
    return rows


PAGE = """\
# Decoding and rendering DICOM

`python benchmarks/dicom_render.py`; CPU time of one thread, lower quartile of {rounds} runs in
interleaved groups; {machine}.

{files}

Ours is `models.imaging.decode`: header bounds, decoding, rendering, the digest of the pixels and
the notes. pydicom is `dcmread`, `pixel_array`, `apply_modality_lut`, `apply_voi_lut` and scaling
to 8 bits. Ours keeps the tables of the last headers, which every run but the first finds, as the
slices of a series do. Target: at least 4 times faster, and no pixel different.

## What a process of its own costs

On the clock, the fastest of {fewer} runs in interleaved groups.

| codec | size | in this process, ms | in a child, ms | the hop, ms |
|---|---|---|---|---|
{hops}

Uncompressed and RLE files are decoded without the hop: an uncompressed one takes less than that,
and of both no codec interprets a byte.
"""


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lines = [
        "| file | ours, CPU ms | pydicom, CPU ms | times faster | pixels that differ |",
        "|---|---|---|---|---|",
    ]
    for case in cases():
        differ = int(np.count_nonzero(ours(case) != pydicoms(case)))
        mine, theirs = timed(
            partial(ours, case),
            partial(pydicoms, case),
            rounds=arguments.rounds,
            clock=time.thread_time,
            of=lower_quartile,
        )
        lines.append(
            f"| {case.name} | {mine:.2f} | {theirs:.2f} | {theirs / mine:.1f} | {differ} |"
        )
    fewer = max(arguments.rounds // 4, 5)
    page = PAGE.format(
        rounds=arguments.rounds,
        fewer=fewer,
        machine=f"{describe()}, pydicom {pydicom.__version__}",
        files="\n".join(lines),
        hops="\n".join(hops(fewer)),
    )
    print(page)
    if arguments.out:
        arguments.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
