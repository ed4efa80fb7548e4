"""The codes in our objects. The standard has none for suspected manipulation (searched in PS3.16
and PS3.6), so those are private, each beside a standard companion that any display knows."""

from __future__ import annotations

from typing import Final

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

from service.decide import Route, Verdict

SCHEME: Final = "99LAZARET"
SCHEME_UID: Final = "2.25.215339416312786349266903093216640391421"


def _private(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, SCHEME, meaning)


SCREENING: Final = _private("SCREENING", "Image integrity screening")
VERDICT: Final = _private("VERDICT", "Guard verdict")
VERDICTS: Final = {
    Verdict.ACCEPT: _private("ACCEPT", "Accepted"),
    Verdict.FLAG: _private("FLAG", "Flagged: review before relying on AI results"),
    Verdict.REJECT: _private("REJECT", "Rejected: AI results withheld"),
}
REASON: Final = _private("REASON", "Reason for the verdict")
REASONS: Final = {
    Route.ADVERSARIAL: _private("ADVERSARIAL", "Suspected adversarial manipulation"),
    Route.QUALITY: _private("QUALITY", "Degraded or unlike the images the AI knows"),
    Route.QUERY_ATTACK: _private("QUERYATTACK", "One of a series of like images that probe the AI"),
}
SUSPICION: Final = _private("SUSPICION", "Suspicion score")
P_VALUE: Final = _private("PVALUE", "Conformal p-value")
QUALITY_P_VALUE: Final = _private("PQUALITY", "Conformal p-value of image quality")
LEVELS: Final = {
    "flag": _private("LEVELFLAG", "p-value at or below which is flagged"),
    "reject": _private("LEVELREJECT", "p-value at or below which is rejected"),
    "quality": _private("LEVELQUALITY", "Quality p-value at or below which is flagged"),
}
QUALITY_FINDING: Final = CodedConcept.from_code(codes.DCM.QualityFinding)
QUALITY_ISSUE: Final = CodedConcept.from_code(codes.DCM.QualityIssue)
"""113010. Unlike 113001 and 113037 it hides nothing from anyone."""
ARTIFICIAL_INTELLIGENCE: Final = CodedConcept.from_code(codes.DCM.ArtificialIntelligence)
IMAGING_PROCEDURE: Final = CodedConcept.from_code(codes.SCT.ImagingProcedure)
NO_UNITS: Final = CodedConcept.from_code(codes.UCUM.NoUnits)


def scheme() -> CodingSchemeIdentificationItem:
    """Who is responsible for the private codes (PS3.3 section C.12.1.1, 0008,0110)."""
    return CodingSchemeIdentificationItem(
        designator=SCHEME,
        name="Lazaret image integrity screening",
        uid=SCHEME_UID,
        responsible_organization="Lazaret",
    )
