"""What the query history remembers of an image: a salted sketch of its coarse structure.

Black-box attacks ask about one picture again and again, changed a little. Averaged over cells of
a 28th of the side their changes all but vanish, while two patients' images stay far apart: the
fingerprint keeps the middle frequencies of that average, whitened, of unit length and so blind to
brightness and contrast. Two images are compared by the cosine distance of these vectors, through
random projections that a deployment's secret fixes. ``docs/query_history.md`` has the choice and
its numbers. NumPy only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from models.spec import Preprocessing

GRID = 28
"""Cells a side. Noise of a pixel averages out; anatomy of a tenth of the image does not."""
LOWEST, HIGHEST, WHITENING = 2.0, 20.0, 0.75
"""Frequencies kept, in half-waves a side, each times its 0.75th power: the spectrum of medical
images falls faster than that, and without it all chests are alike. Chosen by
``benchmarks/query_fingerprints.py``."""
SKETCH = 48
"""Bytes of a sketch. The distance it gives has a relative error of √(2 / 48)."""
TABLES, PROJECTIONS, WIDTH = 12, 24, 3.0
"""Locality-sensitive hashing (Datar et al. 2004): so many hash tables, each keyed by so many
projections cut into bins of this width. Two patients' chests, about 1.2 apart, share a table's bin
once in ten thousand pairs; queries of an attack, 0.1 apart or less, three times in five."""
BANDS = TABLES + 1
"""The last table is keyed by the pixels themselves, so that a repeat is always found."""
SCALE = 180.0
"""Steps of a sketch's byte in a unit: five standard deviations of a projection fit."""
FEATURELESS = 1.5
"""Grey levels, r.m.s. of the kept frequencies, below which an image shows nothing to remember it
by: blank, or a flat field."""
NEAR = 3
"""Cells to each side that are around one."""
BLACK = (6.0, 30.0)
"""Grey levels between which a cell goes from background to tissue."""
ROWS = 2**20
"""Pixels that are converted at once, so that a mammogram costs no second copy of itself."""

Float = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """An image as the history knows it; 48 bytes of sketch and some numbers, no pixels."""

    sketch: bytes
    """``uint8[48]``, 128 is 0."""
    bands: tuple[int, ...]
    """One number below 2**32 for each of ``BANDS`` tables: images alike tend to share some."""
    contrast: float
    """Grey levels: r.m.s. of the kept frequencies, about."""
    brightness: float
    """Grey levels: the mean."""
    pixels: bytes
    """8 bytes that only bit-identical images share."""


class Fingerprinter:
    """Makes fingerprints with one deployment's secret: who lacks it cannot tell which changes of
    an image move its fingerprint.

    Args:
        secret: any bytes; equal on all replicas that share a history.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.sha256(secret).digest()
        frequencies = np.hypot(*np.indices((GRID, GRID)))
        kept_ones = (frequencies >= LOWEST) & (frequencies < HIGHEST)
        self._kept = np.flatnonzero(kept_ones)
        self._gains = (frequencies[kept_ones] ** WHITENING).astype(np.float32)
        kept = len(self._kept)
        count = SKETCH + TABLES * PROJECTIONS
        # Signs from a hash and not from a generator of random numbers, whose streams differ
        # between versions: replicas must agree.
        bits = np.unpackbits(np.frombuffer(self._bytes(b"signs", -(-count * kept // 8)), np.uint8))
        self._signs = bits[: count * kept].reshape(count, kept).astype(np.float32) * 2 - 1
        offsets = np.frombuffer(self._bytes(b"offsets", 2 * TABLES * PROJECTIONS), "<u2")
        self._offsets = (offsets / 2**16).astype(np.float32)
        factors = np.frombuffer(self._bytes(b"factors", 8 * TABLES * PROJECTIONS), "<u8")
        self._factors = factors.reshape(TABLES, PROJECTIONS) | np.uint64(1)

    def key(self, kind: str, value: str) -> int:
        """A number below 2**32, not 0, that stands for ``value`` without telling it."""
        digest = hashlib.blake2b(f"{kind}:{value}".encode(), key=self._key, digest_size=4).digest()
        return int.from_bytes(digest, "little") or 1

    def of(
        self,
        pixels: npt.NDArray[np.uint8],
        digest: str,
        preprocessing: Preprocessing,
        namespace: str,
    ) -> Fingerprint | None:
        """The fingerprint of what the model sees of an image, or None where that is featureless.

        Args:
            pixels: ``uint8[H, W, 1 or 3]``.
            digest: of the pixels, as ``models.imaging.Image`` has it.
            preprocessing: the model's, for the part of the image that it crops to.
            namespace: images of different namespaces (models) share no band.
        """
        return self.of_cells(cells_of(pixels, preprocessing), digest, namespace)

    def of_cells(self, cells: Float, digest: str, namespace: str) -> Fingerprint | None:
        """As ``of``, given what ``cells_of`` made of the image."""
        vector = (_WAVES @ without_background(cells) @ _WAVES.T).ravel()[self._kept]
        contrast = float(np.linalg.norm(vector)) / GRID
        if contrast < FEATURELESS:
            return None
        vector = vector * self._gains
        vector /= np.linalg.norm(vector)
        projected = self._signs @ vector
        sketch = np.rint(projected[:SKETCH] * (SCALE / SKETCH**0.5)) + 128
        bins = np.floor(projected[SKETCH:] / WIDTH + self._offsets).astype(np.int64)
        # multilinear hashing modulo 2**64, of which the upper half is universal
        mixed = bins.astype(np.uint64).reshape(TABLES, PROJECTIONS) * self._factors
        hashed = mixed.sum(axis=1, dtype=np.uint64) + self._start(namespace)
        exact = hashlib.blake2b(
            f"{namespace}:{digest}".encode(), key=self._key, digest_size=8
        ).digest()
        return Fingerprint(
            sketch=sketch.clip(0, 255).astype(np.uint8).tobytes(),
            bands=(
                *(int(value) for value in hashed >> np.uint64(32)),
                int.from_bytes(exact[:4], "little"),
            ),
            contrast=contrast,
            brightness=float(cells.mean()),
            pixels=exact,
        )

    def _start(self, namespace: str) -> np.uint64:
        digest = hashlib.blake2b(namespace.encode(), key=self._key, digest_size=8).digest()
        return np.uint64(int.from_bytes(digest, "little"))

    def _bytes(self, purpose: bytes, count: int) -> bytes:
        return hashlib.shake_256(self._key + purpose).digest(count)


def cells_of(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> Float:
    """``float32[28, 28]``, grey levels: the means of cells of what the model sees of an image,
    ``uint8[H, W, 1 or 3]``."""
    height, width, channels = pixels.shape
    top, bottom, left, right = seen(preprocessing, height, width)
    down = _cells(top, bottom, height)
    across = _cells(left, right, width, channels)
    flat = pixels.reshape(height, width * channels)
    step = max(1, ROWS // flat.shape[1])
    strips = np.zeros((GRID, flat.shape[1]), np.float32)
    for row in range(0, height, step):
        part = slice(row, row + step)
        strips += down[:, part] @ flat[part].astype(np.float32)
    cells: Float = strips @ across.T
    return cells


def distances(sketch: bytes, others: Sequence[bytes]) -> npt.NDArray[np.float64]:
    """``float64[N]``: about the cosine distances between what the sketches stand for; 0 to 2."""
    one = np.frombuffer(sketch, np.uint8).astype(np.int32)
    many = np.frombuffer(b"".join(others), np.uint8).astype(np.int32).reshape(-1, SKETCH)
    squares: npt.NDArray[np.float64] = ((many - one) ** 2).sum(axis=1) / (2 * SCALE**2)
    return squares


def seen(
    preprocessing: Preprocessing, height: int, width: int
) -> tuple[float, float, float, float]:
    """Top, bottom, left and right of what the model sees, in pixels of an image of this size."""
    crop, resize = preprocessing.crop, preprocessing.resize
    if crop is None:
        return 0.0, float(height), 0.0, float(width)
    if resize is None:
        resized = (float(height), float(width))
    elif isinstance(resize, tuple):
        resized = (float(resize[0]), float(resize[1]))
    else:
        scale = resize / min(height, width)
        resized = (height * scale, width * scale)
    tall, wide = (min(1.0, crop[axis] / resized[axis]) for axis in (0, 1))
    return (
        height * (1 - tall) / 2,
        height * (1 + tall) / 2,
        width * (1 - wide) / 2,
        width * (1 + wide) / 2,
    )


def without_background(cells: Float) -> Float:
    """``float32[28, 28]``: how far each cell is from the mean of the tissue around it; nothing in
    the black background. The edge of a field of view is the same in every image of a device and
    would outweigh what it shows."""
    tissue: Float = ((cells - BLACK[0]) / (BLACK[1] - BLACK[0])).clip(0, 1)
    around, weight = NEIGHBOURS @ np.stack([tissue * cells, tissue]) @ NEIGHBOURS.T
    relief: Float = tissue * (cells - around / np.maximum(weight, 1e-6))
    return relief


@lru_cache(maxsize=64)
def _cells(start: float, end: float, size: int, channels: int = 1) -> Float:
    """``float32[28, size * channels]``: the weights of an axis' pixels in the means over 28 equal
    cells between two positions on it, and over channels that lie side by side."""
    edges = np.linspace(start, end, GRID + 1)
    pixel = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights: Float = (overlap.clip(0) / (edges[1] - edges[0]) / channels).astype(np.float32)
    return np.repeat(weights, channels, axis=1)


def cosines(side: int) -> Float:
    """``float32[side, side]``: the orthonormal DCT-II."""
    position = np.arange(side)
    waves = np.cos(np.pi * (position + 0.5) * position[:, None] / side) * (2 / side) ** 0.5
    waves[0] /= 2**0.5
    transform: Float = waves.astype(np.float32)
    return transform


_WAVES = cosines(GRID)
NEIGHBOURS: Float = (np.abs(np.subtract.outer(np.arange(GRID), np.arange(GRID))) <= NEAR).astype(
    np.float32
)
"""Of both sides in turn: which cells are around one."""
