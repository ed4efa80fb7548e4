"""A held image marked with a key object titled 113010 "Quality Issue" (TID 2010, CID 7010).

Never 113001 or 113037: an archive that follows IHE IOCM hides from radiologists what those name,
and a guard's false alarm must not hide a patient's image. Only a named person may reject one, and
nothing here does it for them.
"""

from __future__ import annotations

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom import Dataset

from service.pacs.authorship import Made, made, observer, placement
from service.pacs.banner import banner
from service.pacs.coding import QUALITY_ISSUE
from service.pacs.finding import Finding
from service.pacs.routes import Emitted


def key_object(subject: Dataset, finding: Finding) -> Made:
    """Build the key object.

    Args:
        subject: attributes of the judged instance.
    """
    content = KeyObjectSelection(
        document_title=QUALITY_ISSUE,
        referenced_objects=[subject],
        observer_device_context=observer(finding),
        description=banner(finding),
    )
    document = KeyObjectSelectionDocument(
        evidence=[subject], content=content, **placement(subject, finding, Emitted.KOS)
    )
    return made(document, subject, finding, Emitted.KOS)
