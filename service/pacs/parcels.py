"""What is sent of one instance, to whom: a function of its route and of what was found."""

from __future__ import annotations

from collections.abc import Sequence

from service.decide import Verdict
from service.pacs.authorship import Made
from service.pacs.outbox import Parcel
from service.pacs.routes import Handling, Original, Unjudged

DICOM = "application/dicom"


def parcels_of_judged(
    handling: Handling, verdict: Verdict, original: bytes, made: Sequence[Made]
) -> list[Parcel]:
    """The original where it is forwarded, then the objects that tell of the verdict."""
    withheld = handling.original is Original.JUDGE_ONLY or (
        handling.original is Original.WITHHOLD_REJECTED and verdict is Verdict.REJECT
    )
    contents = [] if withheld else [("image", original)]
    contents += [(one.kind.value, one.file) for one in made]
    return _to_each(handling, contents)


def parcels_of_unjudged(handling: Handling, original: bytes, image: bool) -> list[Parcel]:
    """The original, unless the route holds images that cannot be judged."""
    if handling.original is Original.JUDGE_ONLY:
        return []
    if image and handling.unjudged is Unjudged.HOLD:
        return []
    return _to_each(handling, [("image", original)])


def _to_each(handling: Handling, contents: Sequence[tuple[str, bytes]]) -> list[Parcel]:
    return [
        Parcel(destination, kind, DICOM, content)
        for destination in handling.destinations
        for kind, content in contents
    ]
