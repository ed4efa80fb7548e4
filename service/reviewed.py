"""Recent benign traffic, out of the records: what a bundle can be calibrated on again.

Benign is what was accepted and never contradicted, and what was held and then released by a
reviewer. What a reviewer confirmed is left out, and so is what the query history held. Held images
that nobody has looked at are neither; without them the highest benign scores would be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Engine, select

from detectors.bundle import Bundle
from detectors.recalibrate import ANCESTORS, Scores
from service.case_states import State
from service.tables import cases, requests

RELEASED, CONFIRMED = State.RELEASED, State.CONFIRMED
QUERY_ATTACK = "query_attack"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What was found."""

    scores: Scores
    accepted: int
    released: int
    confirmed: int
    """Left out: attacks, or images that must not be learnt from."""
    unreviewed: int
    """Held, and not decided on yet; among ``scores`` only if they were to be."""
    repeated: int
    """Left out: the same pixels again."""
    first: datetime | None
    last: datetime | None


def reviewed(
    engine: Engine,
    bundle: Bundle,
    since: datetime,
    sources: Sequence[str] = (),
    *,
    assume_benign: bool = False,
    most: int = 50_000,
) -> Reviewed:
    """The newest ``most`` images since then that this bundle's graph judged. Blocks.

    Args:
        sources: only of these clients; all if empty.
        assume_benign: take held images that nobody has reviewed for benign.
    """
    manifest = bundle.manifest
    digests = [bundle.digest, *manifest.provenance.get(ANCESTORS, [])]
    c = requests.c
    query = (
        select(
            c.at, c.label, c.verdict, c.route, c.bypass, c.fused_score, c.quality_score,
            c.detectors, c.pixels, c.client, cases.c.state,
        )
        .select_from(requests.outerjoin(cases, c.case_id == cases.c.case_id))
        .where(c.bundle.in_(digests), c.status == 200, c.at >= since)
        .order_by(c.id.desc())
        .limit(most)
    )  # fmt: skip
    if sources:
        query = query.where(c.client.in_(sources))
    classes = {name: index for index, name in enumerate(manifest.model.classes)}
    names = [entry.name for entry in manifest.detectors]
    counts = dict.fromkeys(("accepted", RELEASED, CONFIRMED, "unreviewed", "repeated"), 0)
    taken: list[tuple[int, float, float, list[float]]] = []
    clients: list[str] = []
    times: list[datetime] = []
    pixels: set[str] = set()
    with engine.connect() as connection:
        for row in connection.execute(query):
            standing = _standing(row)
            scores = _scores(row, names)
            if standing is None or scores is None or row.label not in classes:
                continue
            if row.pixels in pixels:
                counts["repeated"] += 1
                continue
            pixels.add(row.pixels)
            counts[standing] += 1
            if standing == CONFIRMED or (standing == "unreviewed" and not assume_benign):
                continue
            taken.append((classes[row.label], row.fused_score, row.quality_score, scores))
            clients.append(row.client or "")
            times.append(row.at)
    return Reviewed(
        scores=Scores(
            predicted=np.array([one[0] for one in taken], np.intp),
            fused=np.array([one[1] for one in taken], np.float32),
            quality=np.array([one[2] for one in taken], np.float32),
            detectors=np.array([one[3] for one in taken], np.float32).reshape(-1, len(names)),
            sources=tuple(clients),
        ),
        first=min(times, default=None),
        last=max(times, default=None),
        **counts,
    )


def _standing(row: Any) -> str | None:
    """What is known of an image; None for one that says nothing of benign traffic."""
    if row.bypass or row.route == QUERY_ATTACK:
        return None
    if row.verdict == "accept":
        return "accepted"
    return row.state if row.state in (RELEASED, CONFIRMED) else "unreviewed"


def _scores(row: Any, names: Sequence[str]) -> list[float] | None:
    """Every detector's score, if all are known and finite."""
    if row.fused_score is None or row.quality_score is None:
        return None
    known = {entry["name"]: entry["score"] for entry in row.detectors or ()}
    found = [known.get(name) for name in names]
    return (
        None
        if any(score is None for score in found)
        else [float(s) for s in found if s is not None]
    )
