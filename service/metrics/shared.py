"""Several worker processes, one page: whichever worker is asked adds up what all of them left.

``prometheus_client.multiprocess`` keeps every worker's values in files that outlive it, so that
totals never fall. Two things are added. A worker's files are named by its place and not by its
process id, so that one that replaces another goes on counting where that one stopped, and files do
not pile up. And exemplars, which the files have no room for, are those of the worker that is asked:
each is one sample of many anyhow, and the next scrape may ask another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import values
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where worker processes leave their values, if there are several."""


def shared() -> bool:
    """Whether values are shared with other processes."""
    return FOLDER in os.environ


def keep_values_as(place: int) -> None:
    """Keep this process's values in the files of a worker's place. Before any ``Metrics``."""
    make: Any = values.MultiProcessValue
    kept: Any = make(process_identifier=lambda: place)

    class Value(kept):  # type: ignore[misc]  # made at run time by the library
        """With its exemplar in memory."""

        _exemplar: Exemplar | None = None

        def set_exemplar(self, exemplar: Exemplar) -> None:
            self._exemplar = exemplar

        def get_exemplar(self) -> Exemplar | None:
            return self._exemplar

    values.ValueClass = Value


def forget_present_values(place: int) -> None:
    """Of a worker that has died: its counts stay, its gauges do not."""
    dead: Any = mark_process_dead
    dead(place)


class Together(Collector):
    """What all workers counted.

    Args:
        exemplars: this process's families that have some.
    """

    def __init__(self, exemplars: Callable[[], Iterable[Family]]) -> None:
        together: Any = MultiProcessCollector
        self._all = together(None)
        self._exemplars = exemplars

    def collect(self) -> Iterable[Family]:
        """Every family."""
        own = {
            (sample.name, frozenset(sample.labels.items())): sample.exemplar
            for family in self._exemplars()
            for sample in family.samples
            if sample.exemplar is not None
        }
        named = {name.removesuffix("_bucket") for name, _ in own}
        for family in self._all.collect():
            if family.name in named:
                family.samples = [
                    sample._replace(
                        exemplar=own.get((sample.name, frozenset(sample.labels.items())))
                    )
                    for sample in family.samples
                ]
            yield family
