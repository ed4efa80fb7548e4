"""A wrong row here lets an attacked image through, or withholds a good patient's diagnosis."""

import math

import pytest

from detectors.bundle import UNUSUAL, Alphas, CellLevels
from detectors.calibrate import PValues
from service.decide import Policy, Route, Verdict, decide

CLOSED = Policy(Alphas())
OPEN = Policy(Alphas(), on_detector_failure="open")
LEVELS = CellLevels(images=5000, flag=0.01, reject=0.001, quality=0.005)
NO_REJECT = LEVELS.model_copy(update={"reject": None})
LAX = CellLevels(images=60, flag=0.05, reject=None, quality=0.05)
NO_LEVELS = CellLevels(images=5, flag=None, reject=None, quality=None)
NAN = math.nan

ACCEPT = (Verdict.ACCEPT, None)
FLAG = (Verdict.FLAG, Route.ADVERSARIAL)
REJECT = (Verdict.REJECT, Route.ADVERSARIAL)
DEGRADED = (Verdict.FLAG, Route.QUALITY)
UNJUDGED = (Verdict.REJECT, Route.QUALITY)


@pytest.mark.parametrize(
    ("fused", "quality", "levels", "policy", "expected", "bypass"),
    [
        (0.5, 0.5, LEVELS, CLOSED, ACCEPT, False),
        (0.0101, 0.0051, LEVELS, CLOSED, ACCEPT, False),
        (0.01, 0.5, LEVELS, CLOSED, FLAG, False),
        (0.0011, 0.5, LEVELS, CLOSED, FLAG, False),
        (0.001, 0.5, LEVELS, CLOSED, REJECT, False),
        (0.5, 0.005, LEVELS, CLOSED, DEGRADED, False),
        # what the quality score explains is no security alarm, and is held no less
        (0.01, 0.005, LEVELS, CLOSED, DEGRADED, False),
        (0.001, 0.005, LEVELS, CLOSED, (Verdict.REJECT, Route.QUALITY), False),
        # to call a suspicious image unusual takes less than to hold it for that alone
        (0.01, UNUSUAL, LEVELS, CLOSED, DEGRADED, False),
        (0.01, UNUSUAL + 1e-4, LEVELS, CLOSED, FLAG, False),
        (0.01, 0.05, LAX, CLOSED, DEGRADED, False),
        (0.01, 0.0501, LAX, CLOSED, FLAG, False),
        (0.0001, 0.5, NO_REJECT, CLOSED, FLAG, False),  # unattainable: the next verdict holds
        (0.0001, 0.0001, NO_LEVELS, CLOSED, ACCEPT, False),
        (NAN, 0.5, LEVELS, CLOSED, UNJUDGED, False),
        (math.inf, 0.5, LEVELS, CLOSED, UNJUDGED, False),
        (NAN, 0.5, LEVELS, OPEN, ACCEPT, True),
        (NAN, 0.5, NO_LEVELS, CLOSED, UNJUDGED, False),
        (0.5, NAN, LEVELS, CLOSED, UNJUDGED, False),
        (0.5, NAN, LEVELS, OPEN, ACCEPT, True),
        (0.5, NAN, NO_LEVELS, CLOSED, ACCEPT, False),  # nobody asks the quality score
        (0.001, NAN, LEVELS, OPEN, REJECT, False),  # what the fused score holds stays held
    ],
)
def test_every_row(
    fused: float,
    quality: float,
    levels: CellLevels,
    policy: Policy,
    expected: tuple[Verdict, Route | None],
    bypass: bool,
) -> None:
    decision = decide(PValues(0, fused, quality, ()), levels, policy)
    assert (decision.verdict, decision.route, decision.bypass) == (*expected, bypass)
    assert decision.held == (decision.verdict is not Verdict.ACCEPT)
    assert not decision.held or decision.route is not None
