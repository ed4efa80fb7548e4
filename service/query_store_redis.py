"""The query history that replicas share, in Redis: one script, one round trip a query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from detectors.query_sequence import (
    ALARM,
    BRIGHTNESS,
    CONTRAST,
    FLIP_STEP,
    FLIP_TONED,
    RELIEF,
    SENDERS,
    WEIGHTS,
    Kind,
    Sight,
)
from service.query_store import FINE, LIMIT, SAME_LIMIT, Query, Size, StoreProblem
from service.settings import SettingsProblem

SCRIPT = Path(__file__).with_name("query_store.lua")
PREFIX = "{lazaret:queries}"


class RedisStore:
    """The store of several processes. Fixed strings hold records and tables; a hash, with its time
    to live, each cluster. What is idle for twice the history's time is dropped by Redis.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py has it.
        timeout: seconds after which the store counts as lost, to connect and to answer.

    Raises:
        SettingsProblem: no such URL.
    """

    def __init__(self, url: str, size: Size, timeout: float) -> None:
        try:
            self._redis = Redis.from_url(
                url,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise SettingsProblem(f"setting redis: {error}; give redis://HOST:PORT/0") from None
        self._size = size
        self._link = self._redis.register_script(SCRIPT.read_text(encoding="utf-8"))
        # The whole of what the script is told that no query changes.
        self._fixed = (
            size.seconds,
            size.queries,
            LIMIT,
            SAME_LIMIT,
            ALARM,
            CONTRAST,
            BRIGHTNESS * FINE,
            SENDERS,
            RELIEF,
            FLIP_STEP,
            FLIP_TONED,
            *WEIGHTS,
        )
        # Histories of another size or layout lie apart.
        self._prefix = f"{PREFIX}:2:{size.queries}"

    async def observe(self, query: Query, now: float) -> Sight:
        """As ``Store``."""
        fingerprint, hint = query.fingerprint, query.hint
        arguments: tuple[Any, ...] = (
            int(now),
            *self._fixed,
            query.label,
            int(query.known),
            query.sender,
            query.study,
            round(fingerprint.contrast * FINE),
            round(fingerprint.brightness * FINE),
            fingerprint.pixels,
            fingerprint.sketch,
            query.incident,
            *(
                (hint.cluster, int(hint.kind), int(hint.flip), int(hint.relieved))
                if hint
                else 4 * (0,)
            ),
            *((hint.sender, int(hint.wanted)) if hint else (0, 0)),
            *(band % self._size.slots for band in fingerprint.bands),
        )
        try:
            answer: list[Any] = await self._link(keys=[self._prefix], args=arguments)
        except (RedisError, OSError) as error:
            raise StoreProblem(f"Redis: {type(error).__name__}") from None
        kind, flip, cluster, queries, flips, senders, points, incident, first, late = answer
        return Sight(
            kind=Kind(kind),
            flip=bool(flip),
            cluster=cluster,
            queries=queries,
            flips=flips,
            senders=senders,
            points=points,
            incident=incident.decode() or None,
            first=bool(first),
            late=bool(late),
        )

    async def withdraw(self, cluster: int) -> None:
        """As ``Store``."""
        try:
            await self._redis.hset(f"{self._prefix}:c:{cluster}", "incident", "")
        except (RedisError, OSError) as error:
            raise StoreProblem(f"Redis: {type(error).__name__}") from None

    async def close(self) -> None:
        """As ``Store``."""
        await self._redis.aclose()
