"""Typed reading of the header's values: binary (US, SS) and text (CS, IS, DS) numbers."""

from __future__ import annotations

import math
import struct
from typing import Final

from models.imaging.dicom_header import Element, Elements
from models.imaging.image import ImageProblem, Problem

_LONGEST_TEXT: Final = 1024  # a DS has at most 16 characters; windows come in short lists


class Values:
    """Values by tag. A value that cannot be read is malformed, never a default."""

    def __init__(self, elements: Elements) -> None:
        self._elements = elements

    def element(self, tag: int) -> Element | None:
        """The element, or None when it is absent or empty."""
        element = self._elements.get(tag)
        return element if element is not None and element.value else None

    def overridden(self, elements: Elements) -> Values:
        """With ``elements`` in place of those with the same tags."""
        return Values(self._elements | elements)

    def integer(self, tag: int, absent: int | None = None) -> int:
        """A single US."""
        element = self.element(tag)
        if element is None and absent is not None:
            return absent
        if element is None or len(element.value) != 2:
            raise _missing()
        return int(struct.unpack("<H", element.value)[0])

    def shorts(self, tag: int, count: int) -> tuple[int, ...]:
        """``count`` values of US."""
        element = self.element(tag)
        if element is None or len(element.value) != 2 * count:
            raise _missing()
        return struct.unpack(f"<{count}H", element.value)

    def text(self, tag: int, absent: str | None = None) -> str:
        """A single CS, without padding."""
        element = self.element(tag)
        if element is None and absent is not None:
            return absent
        if element is None or len(element.value) > _LONGEST_TEXT:
            raise _missing()
        return element.value.decode("ascii", "replace").strip(" \0")

    def integer_string(self, tag: int, absent: int) -> int:
        """A single IS."""
        text = self.text(tag, "")
        if not text:
            return absent
        if not text.isascii() or not text.lstrip("+-").isdigit() or len(text) > 12:
            raise _missing()
        return int(text)

    def decimals(self, tag: int) -> tuple[float, ...]:
        """The DS values, all finite; empty when absent."""
        text = self.text(tag, "")
        if not text:
            return ()
        try:
            numbers = tuple(float(part) for part in text.split("\\"))
        except ValueError:
            raise _missing() from None
        if not all(math.isfinite(number) and abs(number) < 1e12 for number in numbers):
            raise unusable("The DICOM rescale or window has a value that is not a finite number.")
        return numbers


def unusable(detail: str) -> ImageProblem:
    """A well-formed file that gives no picture to diagnose."""
    return ImageProblem(Problem.UNUSABLE, detail)


def _missing() -> ImageProblem:
    return ImageProblem(
        Problem.MALFORMED,
        "The DICOM header lacks an element that describes the pixels, or has one that cannot be "
        "read. Export it again.",
    )
