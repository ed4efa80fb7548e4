"""One image from bytes to verdict: decode, run, calibrate, decide."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from detectors.calibrate import PValues
from detectors.query_sequence import UNSEEN, Sight
from models.engine import Readings
from models.imaging import Image, Limits, RenderingPolicy
from models.imaging.bounds import check_size
from models.imaging.decode import PNG, decode, digest
from models.spec import ModelSpec
from service.batcher import EngineLate, EngineRefused, EngineUnavailable, Outcome
from service.body import Source, Upload
from service.decide import Decision, decide
from service.guard import Guard
from service.problems import ServiceProblem
from service.query_history import Mark, QueryHistory
from service.question import Question, late

RAW = "application/x-pixels"
"""The media type on record of an image that was sent as a bare array."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each stage."""

    decode: float = 0.0
    queue: float = 0.0
    infer: float = 0.0
    decide: float = 0.0
    record: float = 0.0
    total: float = 0.0

    def milliseconds(self) -> dict[str, float]:
        """By stage, to the microsecond."""
        stages = {
            "decode": self.decode,
            "queue": self.queue,
            "infer": self.infer,
            "decide": self.decide,
            "record": self.record,
            "total": self.total,
        }
        return {name: round(seconds * 1000, 3) for name, seconds in stages.items()}

    def decided(self, seconds: float) -> Timing:
        """With so many more seconds of deciding."""
        return replace(self, decide=self.decide + seconds, total=self.total + seconds)

    def recorded(self, seconds: float, total: float) -> Timing:
        """With the two that are known last."""
        return replace(self, record=seconds, total=total)


@dataclass(frozen=True, slots=True)
class Diagnosed:
    """What the walk found out about one image."""

    image: Image
    readings: Readings
    """Of this image: N = 1."""
    p: PValues
    decision: Decision
    batch: int
    timing: Timing
    mark: Mark | None = None
    """For the query history; None where there is none or the image shows nothing."""
    sight: Sight = UNSEEN
    """What the query history says, once it has been asked."""

    @property
    def second_score(self) -> float | None:
        """The second stage's; None where it did not run."""
        second = self.readings.second
        return None if second is None or np.isnan(second[0]) else float(second[0])

    @property
    def file_type(self) -> str:
        """The media type of the file that a case keeps."""
        return PNG if self.image.media_type == RAW else self.image.media_type


async def diagnose(
    source: Source,
    guard: Guard,
    limits: Limits,
    threads: Executor,
    question: Question,
    hold: Callable[[int], None] = lambda _: None,
    history: QueryHistory | None = None,
) -> Diagnosed:
    """Judge one image.

    Args:
        threads: decode here, off the event loop.
        hold: told the bytes that the decoded image takes while it waits, on a decoding thread.
        history: marks the image.

    Raises:
        ImageProblem: the file is no image that can be diagnosed.
        ServiceProblem: 422, the model cannot read this image; 503, not now; 504, too late.
    """
    started = perf_counter()
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Outcome] = loop.create_future()
    decoded = _Decoded()

    def decode_and_queue() -> None:
        # Straight to the engine: by way of the event loop it would wake one thread more.
        expected = True
        try:
            image, mark = load_and_mark(source, limits, guard.model, history)
            if isinstance(source, Upload):  # bare pixels lie in the body, which is accounted for
                hold(image.pixels.nbytes)
            question.check("decoding")
            decoded.image, decoded.mark, decoded.at = image, mark, perf_counter()
            expected = False
            guard.batcher.put(image.pixels, question.deadline, answer, expected=True)
        except Exception as error:  # whatever it is, the request must be told
            if expected:
                guard.batcher.nothing_to_expect()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_fail, answer, error)

    guard.batcher.expect()
    try:
        threads.submit(decode_and_queue)
    except RuntimeError:  # they take no more
        guard.batcher.nothing_to_expect()
        raise ServiceProblem(503, "The service is closing; ask again.") from None
    outcome = await _outcome(answer)
    assert decoded.image is not None  # it has been run
    return _judged(decoded.image, decoded.mark, guard, question, started, decoded.at, outcome)


async def judge(image: Image, guard: Guard, question: Question, started: float) -> Diagnosed:
    """Judge a decoded image.

    Args:
        started: ``perf_counter`` seconds when its decoding began.

    Raises:
        ServiceProblem: as ``diagnose``.
    """
    decoded = perf_counter()
    outcome = await _outcome(guard.batcher.read(image.pixels, question.deadline))
    return _judged(image, None, guard, question, started, decoded, outcome)


@dataclass(slots=True)
class _Decoded:
    """What a decoding thread leaves for the event loop."""

    image: Image | None = None
    mark: Mark | None = None
    at: float = 0.0
    """``perf_counter`` seconds."""


def _fail(answer: asyncio.Future[Outcome], error: Exception) -> None:
    if not answer.done():  # its request was cancelled
        answer.set_exception(error)


def _judged(
    image: Image,
    mark: Mark | None,
    guard: Guard,
    question: Question,
    started: float,
    decoded: float,
    outcome: Outcome,
) -> Diagnosed:
    question.check("running the model")
    read = perf_counter()
    (p,) = guard.bundle.calibration.p_values(outcome.readings, [question.client])
    decision = decide(p, guard.levels_of(p), guard.policy)
    ended = perf_counter()
    return Diagnosed(
        image=image,
        readings=outcome.readings,
        p=p,
        decision=decision,
        batch=outcome.batch,
        timing=Timing(
            decode=decoded - started,
            queue=outcome.queued,
            infer=outcome.inferred,
            decide=ended - read,
            total=ended - started,
        ),
        mark=mark,
    )


def load_and_mark(
    source: Source, limits: Limits, model: ModelSpec, history: QueryHistory | None
) -> tuple[Image, Mark | None]:
    """The image, and what the history will know it by. Raises ``ImageProblem``."""
    image = load(source, limits, model.preprocessing.rendering)
    return image, None if history is None else history.mark(image, source, model)


def load(source: Source, limits: Limits, rendering: RenderingPolicy) -> Image:
    """The image, as the model wants DICOM shown. Raises ``ImageProblem``."""
    if isinstance(source, Upload):
        return decode(source.data, source.declared, limits, rendering)
    pixels = source.pixels
    check_size(pixels.shape[0], pixels.shape[1], limits)
    return Image(pixels, RAW, digest(pixels))


async def _outcome(answer: Awaitable[Outcome]) -> Outcome:
    try:
        outcome = await answer
    except EngineLate:
        raise late("waiting for the model") from None
    except EngineUnavailable as error:
        raise ServiceProblem(
            503, f"The model cannot answer now ({error}); try again.", shed=error.shed
        ) from None
    except EngineRefused:
        raise ServiceProblem(422, "The model cannot process this image.") from None
    if not np.isfinite(outcome.readings.probabilities).all():
        raise ServiceProblem(422, "The model gives no finite probability for this image.")
    return outcome
