"""What a multi-frame object says of one frame (PS3.3 section C.7.6.16)."""

from __future__ import annotations

from typing import Final

from models.imaging.dicom_header import Elements, item
from models.imaging.dicom_values import Values

_SHARED, _PER_FRAME = 0x52009229, 0x52009230
_MACROS: Final = {
    0x00289145: frozenset((0x00281052, 0x00281053)),  # pixel value transformation
    0x00289132: frozenset((0x00281050, 0x00281051, 0x00281056, 0x00283010)),  # frame VOI LUT
    0x00289110: frozenset((0x00280030,)),  # pixel measures
}
WANTED: Final = frozenset((_SHARED, _PER_FRAME))


def of_frame(values: Values, frame: int) -> Values:
    """The values that hold for a frame: its own functional groups win over the shared ones, and
    those over the object's."""
    for tag, index in ((_SHARED, 0), (_PER_FRAME, frame)):
        groups = values.element(tag)
        if groups is None:
            continue
        found: Elements = {}
        for macro, sequence in item(groups, frozenset(_MACROS), index).items():
            found |= item(sequence, _MACROS[macro])
        values = values.overridden(found)
    return values
