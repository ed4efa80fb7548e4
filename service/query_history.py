"""The query-history detector as the gateway uses it: mark each image, then link it to those before.

Every door's images come here, so that an attack is one attack however it is spread over
identities, doors and replicas. Marking is arithmetic and belongs on a decoding thread; linking is
one look-up, in Redis where there is one. While Redis does not answer, each process goes on with a
history of its own: that is counted and logged, and an attack that is split over replicas is then
seen in parts.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from detectors.query_disguise import Likeness, likeness_of
from detectors.query_fingerprint import Fingerprint, Fingerprinter, cells_of
from detectors.query_sequence import Sight
from models.imaging import Image, ImageProblem
from models.imaging.dicom_header import read as read_header
from models.spec import ModelSpec
from service.body import Source, Upload
from service.metrics import Metrics
from service.metrics import catalogue as c
from service.query_disguises import Disguises
from service.query_store import LocalStore, Query, Size, Store, StoreProblem
from service.secret_file import SECRET_BYTES, read_secret
from service.settings import Settings, SettingsProblem

if TYPE_CHECKING:
    from service.query_store_redis import RedisStore

REDIS = "redis"
RETRY_SECONDS = 5.0
"""How long a lost Redis is left alone before it is asked again."""
STUDY_INSTANCE_UID = 0x0020000D


@dataclass(frozen=True, slots=True)
class Mark:
    """An image as the history will know it."""

    fingerprint: Fingerprint
    study: int
    """Stands for the study it says it is of; 0 if it says nothing."""
    likeness: Likeness
    model: str


class QueryHistory:
    """Marks and links the images of one process.

    Args:
        secret: fixes the fingerprints; equal on all replicas that share a store.
        size: of the store, and of the one that stands in for a lost Redis.
        known: clients and DICOM peers whose repeats of their own images are expected.
        shared: the Redis store, if there is one.
    """

    def __init__(
        self,
        secret: bytes,
        size: Size,
        metrics: Metrics,
        known: tuple[str, ...] = (),
        shared: RedisStore | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fingerprinter = Fingerprinter(secret)
        self._local = LocalStore(size)
        self._seconds = size.seconds
        # By store: clusters of one are not those of another.
        self._here, self._there = Disguises(size.seconds), Disguises(size.seconds)
        self._shared = shared
        self._metrics = metrics
        self._known = frozenset(known)
        self._clock = clock
        self._lost_until = 0.0
        self._up = True
        if shared is not None:
            metrics.set(c.SHARED_UP, 1, REDIS)

    def mark(self, image: Image, source: Source, model: ModelSpec) -> Mark | None:
        """What is to be remembered of an image; None where it shows nothing. Blocks for about a
        millisecond a megapixel."""
        cells = cells_of(image.pixels, model.preprocessing)
        fingerprint = self._fingerprinter.of_cells(cells, image.digest, model.name)
        if fingerprint is None:
            return None
        study = study_of(source.data) if isinstance(source, Upload) and _is_dicom(image) else None
        return Mark(
            fingerprint,
            self._fingerprinter.key("study", study) if study else 0,
            likeness_of(cells),
            model.name,
        )

    async def link(self, mark: Mark, label: int, client: str) -> Sight:
        """Link a judged image to its predecessors and keep it.

        Args:
            label: the predicted class.
            client: who asked.
        """
        query = Query(
            fingerprint=mark.fingerprint,
            label=label,
            sender=self._fingerprinter.key("sender", client),
            study=mark.study,
            known=client in self._known,
            incident=f"{random.getrandbits(128):032x}",
        )
        now = self._clock()
        store = self._store(now)
        if store is self._shared:
            known = self._there.hinted(query, mark.likeness, mark.model, now)
            try:
                sight = await store.observe(known, now)
            except StoreProblem as problem:
                self._lost(problem, now)
            else:
                self._answered()
                self._there.keep(query, mark.likeness, mark.model, sight, now)
                return sight
        sight = self._local.link(self._here.hinted(query, mark.likeness, mark.model, now), now)
        self._here.keep(query, mark.likeness, mark.model, sight, now)
        return sight

    async def withdraw(self, sight: Sight) -> None:
        """The incident that ``sight`` raised could not be recorded: let the next query raise it."""
        now = self._clock()
        try:
            await self._store(now).withdraw(sight.cluster)
        except StoreProblem as problem:
            self._lost(problem, now)

    async def close(self) -> None:
        """Disconnect."""
        if self._shared is not None:
            await self._shared.close()

    def _store(self, now: float) -> Store:
        if self._shared is None or now < self._lost_until:
            return self._local
        return self._shared

    def _lost(self, problem: StoreProblem, now: float) -> None:
        self._lost_until = now + RETRY_SECONDS
        self._there = Disguises(self._seconds)  # it may come back empty and number anew
        self._metrics.count(c.SHARED_FAILURES, REDIS)
        if self._up:
            self._up = False
            self._metrics.set(c.SHARED_UP, 0, REDIS)
            structlog.get_logger().warning(
                "shared query history lost; this process goes on with its own", reason=str(problem)
            )

    def _answered(self) -> None:
        if not self._up:
            self._up = True
            self._metrics.set(c.SHARED_UP, 1, REDIS)
            structlog.get_logger().info("shared query history is back")


def open_history(settings: Settings, metrics: Metrics) -> QueryHistory | None:
    """The history that the settings ask for, or None.

    Raises:
        SettingsProblem: a shared history without its secret, or a secret that cannot be used.
    """
    if settings.query_response == "off":
        return None
    size = Size(settings.query_history_images, round(settings.query_history_hours * 3600))
    path = settings.query_secret_file
    if settings.redis is None:
        # What lives and dies with the process needs no secret that outlives it.
        secret = read_secret(path) if path else secrets.token_bytes(SECRET_BYTES)
        return QueryHistory(secret, size, metrics, settings.query_known_senders)
    if path is None:
        raise SettingsProblem(
            "setting query_secret_file: replicas that share a history through redis need one "
            "secret; name a file, which is made if absent, and give all replicas the same"
        )
    # Here, because a service without Redis should not pay for its client.
    from service.query_store_redis import RedisStore

    return QueryHistory(
        read_secret(path),
        size,
        metrics,
        settings.query_known_senders,
        RedisStore(settings.redis.get_secret_value(), size, settings.redis_seconds),
    )


def study_of(data: bytes) -> str | None:
    """The Study Instance UID of a DICOM file that has been decoded, if it has one."""
    try:
        element = read_header(data, frozenset({STUDY_INSTANCE_UID})).elements.get(
            STUDY_INSTANCE_UID
        )
    except ImageProblem:
        return None
    return element.value.decode("ascii", "replace").strip("\0 ") or None if element else None


def _is_dicom(image: Image) -> bool:
    return image.media_type == "application/dicom"
