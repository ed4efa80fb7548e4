"""The DICOM objects that tell of one finding, by what the route asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import structlog
from pydicom import Dataset

from service.pacs.authorship import MANUFACTURER, Made
from service.pacs.finding import Finding
from service.pacs.key_object import key_object
from service.pacs.presentation_state import presentation_state
from service.pacs.routes import Emitted
from service.pacs.secondary_capture import secondary_capture
from service.pacs.structured_report import structured_report


def objects(
    kinds: Sequence[Emitted],
    subject: Dataset,
    finding: Finding,
    pixels: npt.NDArray[np.uint8],
    failed: Callable[[Emitted], None] = lambda _: None,
) -> list[Made]:
    """Build them, in the order asked for. About 0.1 s of CPU each: off the request path. One that
    a library fails to build is left out, told of and logged; the others tell all the same.

    Args:
        subject: attributes of the judged instance.
        pixels: ``uint8[H, W, C]``, the gravest frame.
        failed: told which could not be built.
    """
    build = {
        Emitted.SR: lambda: structured_report(subject, finding),
        Emitted.GSPS: lambda: presentation_state(subject, finding),
        Emitted.KOS: lambda: key_object(subject, finding),
        Emitted.SC: lambda: secondary_capture(subject, finding, pixels),
    }
    made = []
    for kind in dict.fromkeys(kinds):
        if kind is Emitted.SC and subject.get("Manufacturer") == MANUFACTURER:
            continue  # a copy of our copy, and so on: the archive has sent it back to us
        try:
            made.append(build[kind]())
        except Exception as error:  # the verdict must be on record whatever a library does
            failed(kind)
            structlog.get_logger().error("object failed", object=kind, error=type(error).__name__)
    return made
