"""One instance from whatever protocol into the spool: identified, checked, kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from service.pacs.object_identity import IdentityProblem, agree, identify
from service.pacs.part10 import head
from service.pacs.received import Received
from service.pacs.sop_classes import is_image
from service.pacs.spool import Spool
from service.pacs.spool_entry import Entry, SpoolFull, SpoolProblem
from service.pacs.tally import Tally


class Outcome(StrEnum):
    """What became of an instance; also the metrics label."""

    STORED = "stored"
    NOT_IMAGE = "not_image"
    """Stored too; it will not be judged."""
    DUPLICATE = "duplicate"
    """This UID with this data set was taken before."""
    MALFORMED = "malformed"
    """It cannot be understood; its bytes were set aside."""
    MISMATCH = "refused"
    """It is not what it was sent as; its bytes were set aside."""
    FULL = "full"
    FAILED = "failed"


TAKEN = (Outcome.STORED, Outcome.NOT_IMAGE, Outcome.DUPLICATE)
"""What the sender need not send again."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The outcome and, for the sender, a sentence of at most 64 characters."""

    outcome: Outcome
    sentence: str = ""
    entry: Entry | None = None
    received: Received | None = None
    """With what the data set says of itself, where it could be read."""


def take_in(
    dataset: bytes | memoryview,
    received: Received,
    spool: Spool,
    tally: Tally,
    *,
    study: str | None = None,
    sync: Callable[[int], None] | None = None,
) -> Taken:
    """Keep one instance. Never fails: every outcome is an answer to the sender.

    Args:
        study: the only Study Instance UID that is welcome, if any.
        sync: see ``Spool.add``.
    """
    taken = _take_in(dataset, received, spool, study, sync)
    tally.instance(received, taken.outcome, len(dataset), _detail(taken))
    return taken


def _take_in(
    dataset: bytes | memoryview,
    received: Received,
    spool: Spool,
    study: str | None,
    sync: Callable[[int], None] | None,
) -> Taken:
    try:
        problem = None
        try:
            identity = identify(head(received) + dataset, is_image(received.sop_class))
            received = replace(
                received,
                study=identity.study,
                series=identity.series,
                modality=identity.modality,
            )
            agree(identity, received)
            if study is not None and identity.study != study:
                raise IdentityProblem("other-study", "The data set belongs to another study")
        except IdentityProblem as found:
            problem = found
        if problem is not None:
            added = spool.add(dataset, received, aside=problem.reason, sync=sync)
            mismatch = problem.reason.startswith("other-")
            return Taken(
                Outcome.MISMATCH if mismatch else Outcome.MALFORMED,
                str(problem),
                added.entry,
                received,
            )
        added = spool.add(dataset, received, sync=sync)
    except SpoolFull:
        return Taken(Outcome.FULL, "No space for more instances; try again later")
    except SpoolProblem:
        return Taken(Outcome.FAILED, "The instance could not be stored")
    if not added.new:
        outcome = Outcome.DUPLICATE
    else:
        outcome = Outcome.STORED if is_image(received.sop_class) else Outcome.NOT_IMAGE
    return Taken(outcome, "", added.entry, received)


def _detail(taken: Taken) -> str:
    if taken.entry is not None and taken.entry.reason is not None:
        return taken.entry.reason
    return taken.outcome
