"""The protocol's one input, ``image``: bare pixels or files."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.body import Pixels, Source, Upload
from service.problems import ServiceProblem

INPUT = "image"
DATATYPES = frozenset(
    ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
     "FP16", "BF16", "FP32", "FP64", "BYTES")
)  # fmt: skip
_FORMS = (
    "send pixels as UINT8 of shape [N, height, width, 1 or 3], or PNG, JPEG or DICOM files as "
    "BYTES of shape [N]"
)


def malformed(detail: str) -> ServiceProblem:
    """A refusal, 400."""
    return ServiceProblem(400, detail)


def check_input(name: str, datatype: str, shape: Sequence[int], most: int) -> None:
    """Hold an input's declaration against the model's. Raises ``ServiceProblem`` 400, or 413 for
    more than ``most`` images."""
    if name != INPUT:
        raise malformed(f"The model has no input by that name; its one input is {INPUT}.")
    if datatype not in DATATYPES:
        raise malformed(f"The datatype of {INPUT} is none of the protocol's; {_FORMS}.")
    if datatype not in ("UINT8", "BYTES"):
        raise malformed(f"{INPUT} cannot be {datatype}; {_FORMS}.")
    if len(shape) > 8 or any(side < 1 for side in shape):
        raise malformed(f"{INPUT} has a shape that no image has; {_FORMS}.")
    fits = (
        len(shape) == 4 and shape[3] in (1, 3)
        if datatype == "UINT8"
        else len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    )
    if not fits:
        raise malformed(f"{INPUT} has shape {list(shape)}; {_FORMS}.")
    if shape[0] > most:
        raise ServiceProblem(413, f"Send at most {most} images in a request.")


def pixels_of(raw: bytes | memoryview, shape: Sequence[int]) -> list[Source]:
    """Views into ``raw``, one an image of ``uint8[N, H, W, C]``. Raises ``ServiceProblem`` 400."""
    wanted = _product(shape)
    if len(raw) != wanted:
        raise malformed(
            f"{INPUT} has shape {list(shape)}, which is {wanted} bytes, but {len(raw)} came."
        )
    images: npt.NDArray[np.uint8] = np.frombuffer(raw, np.uint8).reshape(shape)
    return [Pixels(image) for image in images]


def pixels_of_numbers(numbers: object, shape: Sequence[int]) -> list[Source]:
    """The same of JSON numbers, nested or flat. Raises ``ServiceProblem`` 400."""
    wanted = _product(shape)
    try:
        values = np.asarray(numbers)
    except (ValueError, OverflowError):
        values = np.empty(0)
    if values.dtype.kind not in "iu":
        raise malformed(f"The data of {INPUT} must be whole numbers, flat or nested as its shape.")
    if values.size != wanted or (values.ndim > 1 and list(values.shape) != list(shape)):
        raise malformed(
            f"{INPUT} has shape {list(shape)}, which is {wanted} numbers, but the data are "
            f"{list(values.shape)}."
        )
    if values.min() < 0 or values.max() > 255:
        raise malformed(f"{INPUT} holds numbers outside 0 to 255, which UINT8 cannot.")
    pixels = values.astype(np.uint8).reshape(shape)
    return [Pixels(image) for image in pixels]


def files_of(raw: bytes | memoryview, count: int) -> list[Source]:
    """BYTES elements: each a little-endian uint32 length and so many bytes. Raises
    ``ServiceProblem`` 400."""
    view, at = memoryview(raw), 0
    files: list[Source] = []
    for index in range(count):
        if at + 4 > len(view):
            raise malformed(f"{INPUT} holds {index} elements, but its shape says {count}.")
        (length,) = struct.unpack_from("<I", view, at)
        at += 4
        if length > len(view) - at:
            raise malformed(
                f"Element {index} of {INPUT} says it has {length} bytes, but {len(view) - at} "
                "follow; lengths are little-endian."
            )
        files.append(Upload(bytes(view[at : at + length]), None))
        at += length
    if at != len(view):
        raise malformed(f"{len(view) - at} bytes follow the last element of {INPUT}.")
    return files


def _product(shape: Sequence[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
