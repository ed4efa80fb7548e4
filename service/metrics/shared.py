"""Several worker processes, one page: whichever worker is asked adds up what all of them left.

``prometheus_client`` keeps every worker's values in files that outlive it, so that totals never
fall. Three things differ from its own collector. A worker's files are named by its place and not
by its process id, so that one that replaces another goes on counting where that one stopped, and
files do not pile up. The names in the files are parsed once and not for every page, which halves
its cost. And exemplars, which the files have no room for, are those of the worker that is asked:
each is one sample of many anyhow, and the next scrape may ask another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import mark_process_dead
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where worker processes leave their values, if there are several."""

Labels = tuple[tuple[str, str], ...]
Combine = Callable[[float, float], float]


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
        self._folder = Path(os.environ[FOLDER])
        self._exemplars = exemplars

    def collect(self) -> Iterable[Family]:
        """Every family."""
        own = {
            (sample.name, frozenset(sample.labels.items())): sample.exemplar
            for family in self._exemplars()
            for sample in family.samples
            if sample.exemplar is not None
        }
        for kind, name, meaning, totals in _added_up(self._folder):
            family = Family(name, meaning, kind)
            family.samples = _buckets(name, totals) if kind == "histogram" else _plain(totals)
            if own and kind == "histogram":
                family.samples = [
                    sample._replace(
                        exemplar=own.get((sample.name, frozenset(sample.labels.items())))
                    )
                    for sample in family.samples
                ]
            yield family


@cache
def _parsed(key: str) -> tuple[str, str, Labels, str]:
    """Family, sample, labels and meaning of a value. As many as there are series."""
    family, sample, labels, meaning = json.loads(key)
    return family, sample, tuple(sorted(labels.items())), meaning


Totals = dict[tuple[str, Labels], float]


def _added_up(folder: Path) -> list[tuple[str, str, str, Totals]]:
    """Kind, name, meaning and values of every family, over all files."""
    families: dict[str, tuple[str, str, str, Totals]] = {}
    read: Any = MmapedDict.read_all_values_from_file
    for path in sorted(folder.glob("*.db")):
        kind, mode = path.name.split("_")[:2]
        combine: Combine = _sum
        if kind == "gauge":
            combine = {"livemax": max, "livemin": min}.get(mode, _sum)
        try:
            found = list(read(str(path)))
        except FileNotFoundError:  # its worker has just died
            continue
        for key, value, *_ in found:
            name, sample, labels, meaning = _parsed(key)
            if name not in families:
                families[name] = (kind, name, meaning, {})
            totals, at = families[name][3], (sample, labels)
            totals[at] = combine(totals[at], value) if at in totals else value
    return list(families.values())


def _sum(a: float, b: float) -> float:
    return a + b


def _plain(totals: Totals) -> list[Sample]:
    return [Sample(name, dict(labels), value) for (name, labels), value in totals.items()]


def _buckets(name: str, totals: Totals) -> list[Sample]:
    """The files count each bucket for itself; the page counts all up to its bound."""
    bounds: dict[Labels, list[tuple[float, float]]] = {}
    sums: dict[Labels, float] = {}
    for (_, labels), value in totals.items():
        upper = next((text for label, text in labels if label == "le"), None)
        if upper is None:
            sums[labels] = value
        else:
            rest = tuple(pair for pair in labels if pair[0] != "le")
            bounds.setdefault(rest, []).append((float(upper), value))
    samples = []
    for labels, counts in bounds.items():
        plain, count = dict(labels), 0.0
        for bound, value in sorted(counts):
            count += value
            samples.append(Sample(f"{name}_bucket", {**plain, "le": _text(bound)}, count))
        samples.append(Sample(f"{name}_count", plain, count))
        samples.append(Sample(f"{name}_sum", plain, sums.get(labels, 0.0)))
    return samples


@cache
def _text(bound: float) -> str:
    write: Any = floatToGoString
    return str(write(bound))
