"""Tables whose cells are coloured by their number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from detectors.wording import NOTHING

Colour = tuple[float, float, float]
"""sRGB, 0 to 255."""

BAD: Colour = (190, 78, 48)
PALE: Colour = (246, 238, 220)
GOOD: Colour = (22, 110, 140)
# blue against orange: told apart by colour-blind readers, who have the number too


@dataclass(frozen=True, slots=True)
class Cell:
    """A number and the colours that show it."""

    text: str
    background: str
    ink: str


@dataclass(frozen=True, slots=True)
class Heat:
    """A table; rows begin with their names."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Cell, ...]], ...]


def cell(value: float, goodness: float, show: Callable[[float], str]) -> Cell:
    """A cell.

    Args:
        goodness: 0 is worst, 1 is best.
    """
    if not math.isfinite(value):
        return Cell(NOTHING, "transparent", "inherit")
    at = min(max(goodness, 0.0), 1.0)
    ends = (BAD, PALE, 2 * at) if at < 0.5 else (PALE, GOOD, 2 * at - 1)
    red, green, blue = (round(a + (b - a) * ends[2]) for a, b in zip(*ends[:2], strict=True))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
    return Cell(show(value), f"#{red:02x}{green:02x}{blue:02x}", "#fff" if dark else "#1b1b1b")


def by_auc(value: float) -> Cell:
    """Chance is worst."""
    return cell(value, 2 * value - 1, "{:.3f}".format)


def by_rate(value: float) -> Cell:
    """A rate of detection."""
    return cell(value, value, "{:.2f}".format)


def by_alarms(value: float) -> Cell:
    """A rate of false alarms: the square root shows small ones."""
    return cell(value, 1 - math.sqrt(max(value, 0.0)), lambda v: f"{100 * v:.1f}")
