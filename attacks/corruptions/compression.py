"""Lossy files on the way: JPEG once, JPEG again and again, JPEG 2000."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
from PIL import Image, features

from attacks.corruptions.corruption import Corruption, Grid, from_pillow, to_pillow

_QUALITIES = (90, 80, 70, 50, 30)


def _jpeg(pixels: Grid, quality: float, _: np.random.Generator) -> Grid:
    file = io.BytesIO()
    to_pillow(pixels).save(file, "JPEG", quality=int(quality))
    return from_pillow(Image.open(file))


def _jpeg_chain(
    pixels: Grid, quality: float, rng: np.random.Generator, *, more: tuple[int, ...]
) -> Grid:
    """Saved at ``quality`` plus each of ``more`` in turn. In between the picture gains a row and
    a column, so that no save finds the 8 by 8 blocks of the one before."""
    for crop, extra in enumerate(more):
        padded = np.pad(pixels, ((crop, 0), (crop, 0), (0, 0)), mode="edge")
        pixels = _jpeg(padded, quality + extra, rng)[crop:, crop:]
    return pixels


def _jpeg2000(pixels: Grid, ratio: float, _: np.random.Generator) -> Grid:
    file = io.BytesIO()
    to_pillow(pixels).save(
        file, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True
    )
    return from_pillow(Image.open(file))


KINDS: dict[str, Corruption] = {
    "jpeg": Corruption(_jpeg, _QUALITIES, "quality"),
    "jpeg_twice": Corruption(partial(_jpeg_chain, more=(5, 0)), _QUALITIES, "last quality"),
    "jpeg_thrice": Corruption(partial(_jpeg_chain, more=(-5, 5, 0)), _QUALITIES, "last quality"),
}
# Pillow may have been built without OpenJPEG
if features.check("jpg_2000"):
    KINDS["jpeg2000"] = Corruption(_jpeg2000, (5, 10, 15, 20, 40), "compression ratio")
