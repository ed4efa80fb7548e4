"""From p-values to a verdict. Pure: no clock, no state, no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from detectors.bundle import Alphas, CellLevels
from detectors.calibrate import PValues
from detectors.query_sequence import Sight

Response = Literal["flag", "reject", "throttle", "silent", "off"]
"""``query_response`` of the settings."""


class Verdict(StrEnum):
    """What happens to the image."""

    ACCEPT = "accept"
    FLAG = "flag"
    """The diagnosis is given, marked, and a case is opened."""
    REJECT = "reject"
    """The diagnosis is withheld and a case is opened."""


class Route(StrEnum):
    """Why an image is held."""

    ADVERSARIAL = "adversarial"
    QUALITY = "quality"
    QUERY_ATTACK = "query_attack"
    """It belongs to a series of queries that feel their way to a wrong diagnosis."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator chose for one model."""

    alphas: Alphas
    """Accepted false-positive rates; ``CellLevels`` are what calibration made of them."""
    on_detector_failure: Literal["closed", "open"] = "closed"
    """Closed rejects an image that a detector could not judge; open lets it by, counted."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and what led to it."""

    verdict: Verdict
    route: Route | None
    reason: str
    """One sentence in fixed words, for the case and the record."""
    bypass: bool = False
    """The image was let by although a detector could not judge it."""

    @property
    def held(self) -> bool:
        """Whether a case is opened."""
        return self.verdict is not Verdict.ACCEPT


def decide(p: PValues, levels: CellLevels, policy: Policy) -> Decision:
    """Judge one image: the adversarial level decides how grave the verdict is, ``levels`` which
    route it takes. A score that is not finite is answered by ``policy.on_detector_failure``.

    Args:
        p: the image's conformal p-values.
        levels: of the predicted class; a level that is None can never be reached.
    """
    if not math.isfinite(p.fused):
        return _unjudged(policy, "the fused detector gave no finite score")
    route = levels.route(p)
    if route is None:
        return Decision(Verdict.ACCEPT, None, "no p-value at or below a level")
    for verdict, level in ((Verdict.REJECT, levels.reject), (Verdict.FLAG, levels.flag)):
        if level is not None and p.fused <= level:
            unusual = ", and the image is unusual" if route == "quality" else ""
            reason = f"fused p-value at or below {verdict} level{unusual}"
            return Decision(verdict, Route(route), reason)
    if not math.isfinite(p.quality):
        return _unjudged(policy, "the quality detector gave no finite score")
    return Decision(Verdict.FLAG, Route.QUALITY, "quality p-value at or below its level")


def with_history(decision: Decision, sight: Sight, response: Response) -> Decision:
    """The decision on an image, given the queries before it. A verdict is never made milder.

    Under ``silent`` this is what is recorded and held; the caller is told ``decision``.
    """
    if not sight.attack:
        return decision
    withheld = response in ("reject", "throttle") or decision.verdict is Verdict.REJECT
    return Decision(
        Verdict.REJECT if withheld else Verdict.FLAG,
        Route.QUERY_ATTACK,
        "part of a series of queries about one picture",
    )


def _unjudged(policy: Policy, reason: str) -> Decision:
    if policy.on_detector_failure == "open":
        return Decision(Verdict.ACCEPT, None, reason, bypass=True)
    return Decision(Verdict.REJECT, Route.QUALITY, reason)
