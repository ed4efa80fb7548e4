"""Disjoint splits by patient."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping


def assign(groups: Iterable[str], fractions: Mapping[str, float], seed: int) -> tuple[str, ...]:
    """The split of every image, decided by its group's name alone.

    A group lies where ``sha256(seed, group)``, read as a number in ``[0, 1)``, falls among the
    cumulated fractions. So a group never straddles splits, adding images moves no other image,
    and two data sets that share a patient put that patient in the same split.

    Args:
        groups: patient (or source) of each image.
        fractions: split name to its share; the shares sum to one. Order matters.

    Returns:
        One split name an image, in the order of ``groups``.
    """
    total = sum(fractions.values())
    if min(fractions.values(), default=-1.0) < 0 or abs(total - 1) > 1e-6:
        raise ValueError(f"split fractions must be shares of one, got {dict(fractions)}")
    return tuple(_place(group, fractions, seed) for group in groups)


def _place(group: str, fractions: Mapping[str, float], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    edge = 0.0
    for name, fraction in fractions.items():
        edge += fraction
        if position < edge:
            return name
    return [name for name, fraction in fractions.items() if fraction > 0][-1]
