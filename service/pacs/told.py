"""What audiences beside the archive are told of one instance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.pacs.finding import Finding
from service.pacs.outbox import Parcel
from service.pacs.received import Received
from service.pacs.routes import Choice


@dataclass(frozen=True, slots=True)
class Told:
    """It names patients' objects: never log it."""

    key: str
    """The instance's in the spool."""
    received: Received
    choice: Choice
    finding: Finding | None
    """None: it could not be judged."""
    case_id: str | None
    """None: it is not held."""
    bypassed: bool
    """An image was sent on although nobody judged it, or a detector could not."""
    patient: str
    """Patient ID, or empty."""


Tell = Callable[[Told], Sequence[Parcel]]
"""Makes further parcels of an instance: audit messages, FHIR resources."""
