"""Who this node says it is, in associations and in the files that it writes (PS3.7 D.3.3.2)."""

from __future__ import annotations

from typing import Final

# UUIDs under 2.25, which nobody has to be asked for (PS3.5 section B.2).
CLASS_UID: Final = "2.25.231150829350485912436888731638529524629"
PRIVATE_CREATOR_UID: Final = "2.25.175462070108371841439465608045745274255"
"""Whose (0002,0102) Private Information a spooled file carries."""
VERSION_NAME: Final = "LAZARET"
