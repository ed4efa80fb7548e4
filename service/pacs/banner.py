"""What is written over a held image, in few words that need no manual."""

from __future__ import annotations

from service.decide import Route, Verdict
from service.pacs.finding import Finding

_WHY = {
    Route.ADVERSARIAL: "suspected manipulation of the image",
    Route.QUALITY: "degraded, or unlike the images the AI knows",
    Route.QUERY_ATTACK: "one of a series of like images that probe the AI",
}
_MEANS = {
    Verdict.FLAG: "Review before relying on AI results.",
    Verdict.REJECT: "AI results withheld.",
}


def banner(finding: Finding) -> str:
    """One line: who says what, why, and what follows. ASCII."""
    why = f": {_WHY[finding.route]}" if finding.route is not None else ""
    means = _MEANS.get(finding.verdict, "")
    return f"AI guard {finding.verdict.value.upper()}{why}. {means}".rstrip()
