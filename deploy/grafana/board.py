"""The words of a dashboard: boards of rows of panels of queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["lines", "stacked", "number", "heat", "table"]
SHARE, SECONDS, COUNT, BYTES, RATE = "percentunit", "s", "short", "bytes", "reqps"
WHEN = "dateTimeFromNow"


@dataclass(frozen=True, slots=True)
class Query:
    """One expression. ``$model`` is the chosen model, ``$__rate_interval`` a few scrapes."""

    expr: str
    legend: str = ""
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Args:
        says: what it tells, for whoever opens it for the first time.
        needs: what must have happened, or be switched on, before it shows anything; empty where
            ordinary traffic is enough.
        bad: from this value on, red.
        good: below this value, red.
        width: of 24.
    """

    title: str
    says: str
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    unit: str = COUNT
    needs: str = ""
    bad: float | None = None
    good: float | None = None
    width: int = 12


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard. Its address is ``/d/lazaret-NAME``."""

    name: str
    title: str
    says: str
    rows: tuple[Row, ...]

    @property
    def uid(self) -> str:
        """What alerts link to."""
        return f"lazaret-{self.name}"

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Of all rows."""
        return tuple(panel for row in self.rows for panel in row.panels)


def query(expr: str, legend: str = "", *, exemplars: bool = False) -> tuple[Query, ...]:
    """The one expression of a panel."""
    return (Query(expr, legend, exemplars),)
