"""PNG and JPEG by Pillow, shown nothing but what it needs to make pixels.

What a pixel means is decided here once: samples are taken as display values. Colour profiles,
gamma and text are never evaluated; for PNG they do not even reach the decoder.
"""

from __future__ import annotations

import io
import struct
from typing import Final

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image as Pillow

from models.imaging.bounds import check_size
from models.imaging.image import ImageProblem, Limits, Problem

Pixels = npt.NDArray[np.uint8]

_MOST_CHUNKS: Final = 65_536  # a loop in Python visits each one
_MOST_SCANS: Final = 32  # progressive encoders write about 10; every scan visits every block
_LONGEST_EXIF: Final = 2**16
_ORIENTATION: Final = 0x0112


def decoder_name() -> str:
    """What decodes: library and version."""
    return f"pillow {PIL.__version__}"


def decode_png(data: bytes, limits: Limits) -> tuple[Pixels, tuple[str, ...]]:
    """``uint8[H, W, C]`` and notes. Sixteen-bit gray becomes ``(255 v + 32767) // 65535``;
    sixteen-bit colour keeps its high byte. Alpha that is opaque everywhere is dropped; other
    transparency and animation are refused, for no compositing is the right one."""
    if data[12:16] == b"IHDR":
        width, height = struct.unpack_from(">II", data, 16)
        check_size(height, width, limits)
    with _open(_essential_chunks(data), "PNG", limits) as file:
        file.load()
        notes: list[str] = []
        if file.mode == "P":
            pixels = _from_palette(file, notes)
        else:
            if "transparency" in file.info:
                raise _transparent()
            pixels = _from_samples(np.asarray(file), notes)
            if file.mode in ("LA", "RGBA"):
                if pixels[..., -1].min() < 255:
                    raise _transparent()
                pixels = pixels[..., :-1]
                notes.append("opaque alpha dropped")
        if data[24] == 16 and file.mode != "I;16":
            notes.append("16 to 8 bits (high byte)")
        pixels = _upright(file, pixels, notes)
    return pixels, tuple(notes)


def decode_jpeg(
    data: bytes, limits: Limits, least: tuple[int, int] | None = None
) -> tuple[Pixels, tuple[str, ...]]:
    """``uint8[H, W, C]`` and notes, upright by its EXIF orientation. CMYK is refused: without its
    profile the colours, and so the pixels, would be a guess.

    Args:
        least: rows and columns, as ``RenderingPolicy.jpeg``; full resolution if None.
    """
    if _scans(data) > _MOST_SCANS:
        raise ImageProblem(
            Problem.UNUSABLE,
            f"The JPEG has more than {_MOST_SCANS} scans. Save it as a baseline JPEG or a PNG.",
        )
    check_size(*_jpeg_size(data), limits)
    with _open(data, "JPEG", limits) as file:
        if getattr(file, "n_frames", 1) > 1:
            raise ImageProblem(
                Problem.UNUSABLE, "The JPEG holds several pictures. Send one picture a file."
            )
        if file.mode not in ("L", "RGB"):
            raise ImageProblem(
                Problem.UNUSABLE,
                "The JPEG is in CMYK, whose gray values are undefined. Save it as gray or RGB.",
            )
        notes: list[str] = []
        if least is not None:
            _reduce(file, least, notes)
        file.load()
        pixels = _upright(file, _from_samples(np.asarray(file), notes), notes)
    return pixels, tuple(notes)


def _scans(data: bytes) -> int:
    """How often the marker of a scan (SOS, ITU-T T.81 section B.2.3) occurs, at even places and at
    odd ones. ``bytes.count`` takes eight times as long, and as long as a tenth of decoding."""
    # little-endian, as this machine reads them: swapping bytes takes longer than counting
    pairs = (np.frombuffer(data, "<u2", (len(data) - at) // 2, at) for at in (0, 1))
    return sum(int(np.count_nonzero(pair == 0xDAFF)) for pair in pairs)


def _reduce(file: Pillow.Image, least: tuple[int, int], notes: list[str]) -> None:
    """Let libjpeg decode at a fraction of the size that still has ``least`` rows and columns."""
    turned = file.getexif().get(_ORIENTATION, 1) >= 5
    rows, columns = least[::-1] if turned else least
    width, height = file.size
    for part in (8, 4, 2):
        # libjpeg rounds the reduced size up; reduced once, an image is then not reduced again
        if -(-width // part) >= columns and -(-height // part) >= rows:
            file.draft(file.mode, (width // part, height // part))
            notes.append(f"decoded at 1/{part} of its size")
            return


def _open(data: bytes, name: str, limits: Limits) -> Pillow.Image:
    try:
        file = Pillow.open(io.BytesIO(data), formats=[name])
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning):  # its own bound
        raise ImageProblem(
            Problem.TOO_LARGE,
            f"The image has more than {limits.pixels} pixels. Send a smaller one.",
        ) from None
    check_size(file.height, file.width, limits)
    return file


def _essential_chunks(data: bytes) -> bytes:
    """The PNG without the chunks that do not decide pixels (PNG, third edition, section 11.3)."""
    kept = [data[:8]]
    position, chunks = 8, 0
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        chunks += 1
        if end > len(data) or chunks > _MOST_CHUNKS or (chunks == 1) != (kind == b"IHDR"):
            raise ImageProblem(
                Problem.MALFORMED, "The PNG's chunks are damaged or truncated. Send it again."
            )
        if kind == b"acTL":
            raise ImageProblem(Problem.UNUSABLE, "The PNG is animated. Send a single image.")
        essential = kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
        if essential or (kind == b"eXIf" and length <= _LONGEST_EXIF):
            kept.append(data[position:end])
        if kind == b"IEND":
            return b"".join(kept)
        position = end


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width from the frame header (ITU-T T.81 section B.2.2), the first SOF marker."""
    at = 2
    while True:
        marker, kind, length = struct.unpack_from(">BBH", data, at)
        if kind == 0xFF:  # a fill byte
            at += 1
            continue
        if marker != 0xFF or kind in (0xD9, 0xDA):
            raise ImageProblem(Problem.MALFORMED, "The JPEG has no frame header. Send it again.")
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        at += 2 + length


def _from_samples(samples: npt.NDArray[np.generic], notes: list[str]) -> Pixels:
    """``uint8[H, W, C]`` of an array as Pillow gives it: ``[H, W]`` or ``[H, W, C]``."""
    if samples.dtype == np.bool_:
        samples = samples.astype(np.uint8) * np.uint8(255)
    elif samples.dtype.kind == "u" and samples.dtype.itemsize == 2:
        table = ((np.arange(65_536, dtype=np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)
        samples = table[samples]
        notes.append("16 to 8 bits")
    if samples.dtype != np.uint8:
        raise TypeError("Pillow gave samples of a type that no PNG or JPEG has")
    pixels = samples.view(np.uint8)
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def _from_palette(file: Pillow.Image, notes: list[str]) -> Pixels:
    """Gray when every palette entry is gray, RGB otherwise."""
    entries: Pixels = np.asarray(file.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    indices = np.asarray(file)
    if int(indices.max()) >= len(entries):
        raise ImageProblem(
            Problem.MALFORMED, "The PNG uses colours that its palette lacks. Send it again."
        )
    if np.isin(indices, _transparent_entries(file)).any():
        raise _transparent()
    if np.all(entries == entries[:, :1]):
        notes.append("palette to gray")
        entries = entries[:, :1]
    else:
        notes.append("palette to RGB")
    return np.take(entries, indices, axis=0)


def _transparent_entries(file: Pillow.Image) -> list[int]:
    """Indices that are not opaque, from tRNS: Pillow gives one index, or alphas as bytes."""
    alphas = file.info.get("transparency", b"")
    if isinstance(alphas, int):
        return [alphas]
    return [index for index, alpha in enumerate(alphas) if alpha < 255]


def _upright(file: Pillow.Image, pixels: Pixels, notes: list[str]) -> Pixels:
    """Undo the EXIF orientation (EXIF 2.32, tag 0x0112: which corner row 0, column 0 is)."""
    orientation = file.getexif().get(_ORIENTATION, 1)
    if orientation not in range(2, 9):
        return pixels
    notes.append("turned upright by EXIF")
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _transparent() -> ImageProblem:
    return ImageProblem(
        Problem.UNUSABLE,
        "The PNG has transparent pixels, whose gray value is undefined. Save it without alpha.",
    )
