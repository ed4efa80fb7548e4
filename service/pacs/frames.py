"""Every frame of an instance through the walk of ``service.diagnose``, one in memory at a time."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter

from models.imaging import ImageProblem, Limits
from models.imaging.decode import DICOM, decode_frames
from service.decide import Verdict
from service.diagnose import Diagnosed, judge
from service.guard import Guard
from service.pacs.finding import FrameFinding, frame_finding
from service.question import Question


@dataclass(frozen=True, slots=True)
class Judged:
    """An instance's frames."""

    gravest: Diagnosed
    frames: tuple[FrameFinding, ...]
    """In the instance's order."""


async def judge_frames(
    file: bytes, guard: Guard, limits: Limits, threads: Executor, question: Question
) -> Judged:
    """Judge an instance. A frame that cannot be read ends it; what was held before counts all the
    same, so that nobody escapes a verdict by breaking the frame behind it.

    Raises:
        ImageProblem: it is no image that can be judged.
        ServiceProblem: 422, the model cannot read it; 503, not now.
    """
    loop = asyncio.get_running_loop()
    images = decode_frames(file, DICOM, limits, guard.model.preprocessing.rendering)
    found: list[FrameFinding] = []
    gravest: tuple[FrameFinding, Diagnosed] | None = None
    while True:
        started = perf_counter()
        try:
            image = await loop.run_in_executor(threads, next, images, None)
        except ImageProblem:
            if gravest is None or gravest[0].verdict is Verdict.ACCEPT:
                raise
            break
        if image is None:
            break
        diagnosed = await judge(image, guard, question, started)
        frame = frame_finding(guard, len(found) + 1, diagnosed)
        found.append(frame)
        if gravest is None or frame.rank < gravest[0].rank:
            gravest = frame, diagnosed
    assert gravest is not None  # an instance has a frame or is a problem
    return Judged(gravest[1], tuple(found))
