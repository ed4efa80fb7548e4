"""Questions in disguise, as one process knows them again: the last images it judged, by model.

The store, which replicas share, finds what an index can find. What a shift, a window or smooth
noise hides from it is found here and handed to it as a hint; the evidence is the store's alone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from detectors.query_disguise import Gallery, Known, Likeness
from detectors.query_sequence import Kind, Sight, retoned
from service.query_store import Link, Query

MODELS = 16
"""Most models whose last images are kept."""


class Disguises:
    """The last images of a process.

    Args:
        seconds: how long those of an incident count.
    """

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._galleries: OrderedDict[str, Gallery] = OrderedDict()

    def hinted(self, query: Query, likeness: Likeness, model: str, now: float) -> Query:
        """The query, with what it was known by."""
        known = self._of(model).find(likeness, now)
        if known is None:
            return query
        mark = query.fingerprint
        toned = retoned(mark.contrast, mark.brightness, (known.contrast, known.brightness))
        link = Link(
            cluster=known.cluster,
            kind=Kind.TONE if toned else Kind.NEAR,
            flip=query.label != known.label,
            relieved=query.relieved_by(known.sender, known.study),
            sender=known.sender,
            wanted=known.wanted,
        )
        return replace(query, hint=link)

    def keep(self, query: Query, likeness: Likeness, model: str, sight: Sight, now: float) -> None:
        """Remember a query that the store has seen, unless it is a repeat."""
        if sight.kind is Kind.REPEAT:
            return
        mark = query.fingerprint
        known = Known(
            cluster=sight.cluster,
            label=query.label,
            sender=query.sender,
            study=query.study,
            contrast=mark.contrast,
            brightness=mark.brightness,
            wanted=sight.attack,
            until=now + self._seconds,
        )
        self._of(model).keep(likeness, known)

    def _of(self, model: str) -> Gallery:
        gallery = self._galleries.pop(model, None) or Gallery()
        self._galleries[model] = gallery
        if len(self._galleries) > MODELS:
            self._galleries.popitem(last=False)
        return gallery
