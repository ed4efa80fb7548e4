"""What is offered to senders: SOP classes and the transfer syntaxes that each may come in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final

from models.imaging.transfer_syntax import (
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    TRANSFER_SYNTAXES,
    read_here,
)

NATIVE: Final = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
VERIFICATION: Final = "1.2.840.10008.1.1"


@cache
def image_syntaxes() -> tuple[str, ...]:
    """What this installation decodes; first what senders should choose: native, then lossless."""
    rest = [uid for uid in read_here() if uid not in NATIVE]
    return (*NATIVE, *sorted(rest, key=lambda uid: TRANSFER_SYNTAXES[uid].lossy))


@cache
def storage_classes() -> dict[str, str]:
    """UID to keyword of every SOP class of the Storage Service Class (PS3.4 section B.5)."""
    from pynetdicom import sop_class

    return {str(uid): keyword for keyword, uid in sop_class._STORAGE_CLASSES.items()}


def is_image(sop_class: str) -> bool:
    """Whether instances of a class are judged. Others are kept and sent on unjudged."""
    keyword = storage_classes().get(sop_class, "")
    return ("Image" in keyword and not keyword.startswith("Video")) or (
        keyword == "EnhancedUSVolumeStorage"
    )


def offered() -> Iterator[tuple[str, tuple[str, ...]]]:
    """SOP classes with their transfer syntaxes."""
    yield VERIFICATION, NATIVE
    for uid in storage_classes():
        yield uid, syntaxes_of(uid)


def syntaxes_of(sop_class: str) -> tuple[str, ...]:
    """The transfer syntaxes that a class may come in; empty for one that is no storage class."""
    if sop_class not in storage_classes():
        return ()
    return image_syntaxes() if is_image(sop_class) else NATIVE
