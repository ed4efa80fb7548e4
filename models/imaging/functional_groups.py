"""What a multi-frame object says of one frame (PS3.3 section C.7.6.16)."""

from __future__ import annotations

from typing import Final

from models.imaging.dicom_header import Elements, item, item_starts
from models.imaging.dicom_values import Values

_SHARED, _PER_FRAME = 0x52009229, 0x52009230
_MACROS: Final = {
    0x00289145: frozenset((0x00281052, 0x00281053)),  # pixel value transformation
    0x00289132: frozenset((0x00281050, 0x00281051, 0x00281056, 0x00283010)),  # frame VOI LUT
    0x00289110: frozenset((0x00280030,)),  # pixel measures
}
WANTED: Final = frozenset((_SHARED, _PER_FRAME))


class FunctionalGroups:
    """The groups of one object; where each frame's begin is found once."""

    def __init__(self, values: Values) -> None:
        self._values = values
        per_frame = values.element(_PER_FRAME)
        self._starts = () if per_frame is None else item_starts(per_frame)

    def of_frame(self, frame: int) -> Values:
        """The values that hold for a frame, from 0: its own functional groups win over the shared
        ones, and those over the object's."""
        values = self._values
        shared, per_frame = values.element(_SHARED), values.element(_PER_FRAME)
        if shared is not None:
            values = values.overridden(_of_macros(item(shared, frozenset(_MACROS))))
        if per_frame is not None and frame < len(self._starts):
            groups = item(per_frame, frozenset(_MACROS), self._starts[frame])
            values = values.overridden(_of_macros(groups))
        return values


def _of_macros(groups: Elements) -> Elements:
    found: Elements = {}
    for macro, sequence in groups.items():
        found |= item(sequence, _MACROS[macro])
    return found
