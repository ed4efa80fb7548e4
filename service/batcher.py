"""Dynamic batching: requests from the event loop, runs of the engine in threads of its own.

An idle engine takes what is there at once, unless more than that is just being decoded, which a
fast one then lets catch up for a moment; while it runs, the next batch gathers. Images of one shape
run together. A batch that fails is run again image by image, so that an image which breaks the
engine fails alone.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog

from models.engine import Batch, Engine, Readings

BATCH_BYTES = 64 * 2**20
"""Most input bytes of a batch of several images: mammograms run one or two at a time."""
GATHER_SECONDS = 0.02
"""Longest wait of an idle engine for images that are being decoded."""
COMPANY_SECONDS = 0.005
"""What an image took in the last run, above which an idle engine does not wait: it runs a larger
model's images together hardly faster than one by one (ResNet-18 on a CPU: 4 %), and waiting costs
more."""
RECOVERY_SECONDS = 5.0
"""How often an engine that failed its warm-up tries it again."""


class EngineRefused(Exception):
    """The engine fails on this image alone."""


class EngineLate(Exception):
    """The deadline passed while the image waited; it was not run."""


class EngineUnavailable(Exception):
    """The engine cannot answer now: its queue is full or slow, or it fails on every image.
    ``shed`` is the metrics' word for it."""

    def __init__(self, message: str, shed: str = "not_ready") -> None:
        super().__init__(message)
        self.shed = shed


@dataclass(frozen=True, slots=True)
class Outcome:
    """One image's reading and what it waited and ran, in seconds."""

    readings: Readings
    """Of one image: N = 1."""
    queued: float
    inferred: float
    batch: int
    """How many images ran together."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    pixels: npt.NDArray[np.uint8]
    since: float
    deadline: float
    answer: asyncio.Future[Outcome]
    loop: asyncio.AbstractEventLoop


@dataclass(frozen=True, slots=True)
class _Ran:
    readings: Readings
    started: float
    ended: float
    images: int


class Batcher:
    """The queue of one engine.

    Args:
        engine: called from as many threads as there are ``runs``.
        batch_images: most images of a batch.
        queue_images: most images that wait; the next is refused.
        queue_seconds: longest wait.
        sizes: batches are filled up to one of these, ascending, by repeating an image, for engines
            that prepare themselves for each size. Empty: any size runs as it is.
        runs: most runs of the engine at once. Several runs of one thread each do more on a CPU
            than one run of several threads, which wait for one another.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        batch_images: int,
        queue_images: int,
        queue_seconds: float,
        sizes: Sequence[int] = (),
        runs: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine = engine
        self.batch_images = batch_images
        self._queue_images = queue_images
        self._queue_seconds = queue_seconds
        self._sizes = tuple(sizes)
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._expected = 0
        self._image_seconds = 0.0
        """What an image took in the last run."""
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [
            threading.Thread(target=run, name="engine", daemon=True)
            for run in (self._begin, *(runs - 1) * (self._run_forever,))
        ]
        self._tried = threading.Event()
        self.ready = False
        """Whether the last warm-up succeeded."""

    def start(self) -> None:
        """Start the engine's threads, the first of which begins with a warm-up."""
        for thread in self._threads:
            thread.start()

    def warmed(self) -> bool:
        """Wait for the first warm-up; whether it succeeded. Blocks."""
        self._tried.wait()
        return self.ready

    def stop(self) -> None:
        """Let the thread end after what waits. Returns at once."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self) -> None:
        """Run what waits, then stop the thread. Blocks."""
        self.stop()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    @property
    def depth(self) -> int:
        """How many images wait."""
        return len(self._waiting)

    async def read(self, pixels: npt.NDArray[np.uint8], deadline: float | None = None) -> Outcome:
        """Run one image, ``uint8[H, W, C]``, unless the clock passes ``deadline`` before.

        Raises:
            EngineLate: it did.
            EngineRefused: the engine fails on this image.
            EngineUnavailable: it cannot be run now.
        """
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.put(pixels, deadline, answer)
        return await answer

    def put(
        self,
        pixels: npt.NDArray[np.uint8],
        deadline: float | None,
        answer: asyncio.Future[Outcome],
        *,
        expected: bool = False,
    ) -> None:
        """``read`` from any thread: the outcome, or ``EngineLate`` or ``EngineRefused``, goes into
        ``answer``. Raises ``EngineUnavailable``.

        Args:
            expected: ``expect`` was told of it.
        """
        with self._changed:
            self._expected -= expected
            if not self.ready:
                raise EngineUnavailable("the engine is not ready")
            if self._closing or len(self._waiting) >= self._queue_images:
                raise EngineUnavailable("the engine's queue is full", "queue_full")
            until = math.inf if deadline is None else deadline
            entry = _Waiting(pixels, self._clock(), until, answer, answer.get_loop())
            self._waiting.append(entry)
            self._changed.notify()

    def expect(self) -> None:
        """An image is being decoded: it will be ``put``, or there is ``nothing_to_expect``."""
        with self._changed:
            self._expected += 1

    def nothing_to_expect(self) -> None:
        """An image that was expected does not come."""
        with self._changed:
            self._expected -= 1
            self._changed.notify()

    def _begin(self) -> None:
        self._warm_up()
        self._run_forever(recovers=True)

    def _run_forever(self, recovers: bool = False) -> None:
        """
        Args:
            recovers: tries the warm-up again from time to time after one that failed.
        """
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait(RECOVERY_SECONDS if recovers and not self.ready else None)
                    if recovers and not self.ready and not self._closing:
                        break
                if self._closing and not self._waiting:
                    return
                self._gather()
                batch = self._next_batch()
            if batch:
                self._answer(batch)
            elif recovers and not self.ready:
                self._warm_up()

    def _gather(self) -> None:
        """Let what is being decoded catch up, while that is more than waits: images that run
        together are also answered and recorded together, at a fraction of the cost, and one half
        is decoded while the other runs. Holds the lock."""
        if self._image_seconds > COMPANY_SECONDS:
            return
        until = self._clock() + GATHER_SECONDS
        while 0 < len(self._waiting) < min(self._expected, self.batch_images):
            left = until - self._clock()
            if left <= 0 or self._closing:
                return
            self._changed.wait(left)

    def _next_batch(self) -> list[_Waiting]:
        """The longest-waiting image and those of its shape, in order. Holds the lock."""
        batch: list[_Waiting] = []
        others: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < self.batch_images:
            entry = self._waiting.popleft()
            if entry.answer.cancelled():
                continue
            now = self._clock()
            if now > entry.deadline:
                _settle([(entry, EngineLate())])
                continue
            if now - entry.since > self._queue_seconds:
                slow = EngineUnavailable("the engine's queue is too slow", "queue_slow")
                _settle([(entry, slow)])
                continue
            same = not batch or entry.pixels.shape == batch[0].pixels.shape
            if same and (not batch or size + entry.pixels.nbytes <= BATCH_BYTES):
                batch.append(entry)
                size += entry.pixels.nbytes
            else:
                others.append(entry)
        self._waiting.extendleft(reversed(others))
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            ran = self._run([entry.pixels for entry in batch])
        except Exception as error:  # whatever a runtime throws, the thread goes on
            structlog.get_logger().warning(
                "batch failed", images=len(batch), error=type(error).__name__
            )
            self._answer_alone(batch)
            return
        self._image_seconds = (ran.ended - ran.started) / ran.images
        _settle((entry, _outcome(entry, ran, i)) for i, entry in enumerate(batch))

    def _answer_alone(self, batch: list[_Waiting]) -> None:
        culprits = []
        for entry in batch:
            try:
                ran = self._run([entry.pixels])
            except Exception:  # whatever a runtime throws
                culprits.append(entry)
            else:
                _settle([(entry, _outcome(entry, ran, 0))])
        if culprits:
            # Is it the image or the engine? A plain image tells.
            self._warm_up()
        for entry in culprits:
            if self.ready:
                _settle([(entry, EngineRefused("the engine fails on this image"))])
            else:
                _settle([(entry, EngineUnavailable("the engine fails on every image"))])

    def _run(self, images: list[npt.NDArray[np.uint8]]) -> _Ran:
        size = next((size for size in self._sizes if size >= len(images)), len(images))
        filled = images + [images[-1]] * (size - len(images))
        batch: Batch = images[0][None] if size == 1 else np.stack(filled)
        started = self._clock()
        readings = self._engine.run(batch)
        ended = self._clock()
        if len(readings) != size:
            raise ValueError(f"{len(readings)} readings of {size} images")
        return _Ran(readings, started, ended, len(images))

    def _warm_up(self) -> None:
        try:
            self._engine.warm_up()
        except Exception as error:  # whatever a runtime throws
            self.ready = False
            structlog.get_logger().error(
                "warm-up failed", error=type(error).__name__, advice="lazaret bundle verify"
            )
        else:
            self.ready = True
        self._tried.set()


def _outcome(entry: _Waiting, ran: _Ran, index: int) -> Outcome:
    row = slice(index, index + 1)
    readings = Readings(
        logits=ran.readings.logits[row],
        probabilities=ran.readings.probabilities[row],
        scores=ran.readings.scores[row],
        fused=ran.readings.fused[row],
        quality=ran.readings.quality[row],
        second=None if ran.readings.second is None else ran.readings.second[row],
    )
    return Outcome(readings, ran.started - entry.since, ran.ended - ran.started, ran.images)


def _settle(results: Iterable[tuple[_Waiting, Outcome | Exception]]) -> None:
    """Answer, and wake each event loop once: a wake is a system call and a change of threads, and
    what wakes together is recorded together."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Waiting, Outcome | Exception]]] = {}
    for entry, result in results:
        by_loop.setdefault(entry.loop, []).append((entry, result))
    for loop, its in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_tell, its)


def _tell(results: list[tuple[_Waiting, Outcome | Exception]]) -> None:
    for entry, result in results:
        if entry.answer.done():  # its request was cancelled
            continue
        if isinstance(result, Outcome):
            entry.answer.set_result(result)
        else:
            entry.answer.set_exception(result)
