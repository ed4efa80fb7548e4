"""``lazaret score``."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Annotated
from uuid import uuid4

import typer
from rich.console import Console

from models.imaging import ImageProblem, Limits
from service.answers import Answer, Said, answer
from service.auth import ANONYMOUS
from service.body import Upload
from service.cli.sentence import refuse, told
from service.diagnose import diagnose
from service.guard import Guard, onnx_engine, open_guard
from service.logs import configure
from service.problems import ProblemDocument, ServiceProblem, document
from service.question import Question
from service.settings import Settings

EXAMPLE = "Example: lazaret score scans/*.png --bundle bundles/chest-xray --json | jq .verdict"
AHEAD = 32
"""Files read and decoded at once, so that batches fill."""


def score(
    files: Annotated[list[Path], typer.Argument(help="PNG, JPEG or DICOM files.")],
    bundle: Annotated[Path, typer.Option(help="The bundle folder.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON line a file, as POST /diagnose answers.")
    ] = False,
    provider: Annotated[
        str | None, typer.Option(help="What runs the graph: cpu, cuda or tensorrt.")
    ] = None,
) -> None:
    """Judge files without a server. Nothing is recorded and no case is opened.

    The same walk as POST /diagnose. A file that cannot be judged gets a problem line, and the
    others are judged all the same. Exit status: 0 all judged, 1 some could not be, 2 the bundle
    cannot be used.
    """
    with told():
        # No client waits here, so no image is refused for waiting.
        settings = Settings.load(provider=provider).model_copy(update={"queue_seconds": math.inf})
        configure("warning")
        guard = open_guard(bundle, settings, onnx_engine)
    guard.batcher.start()
    if not guard.batcher.warmed():
        refuse(f"{bundle}: its graph fails; see the log above, and `lazaret doctor`")
    failed = asyncio.run(_score_all(files, guard, settings, as_json))
    guard.batcher.close()
    raise typer.Exit(1 if failed else 0)


async def _score_all(files: Sequence[Path], guard: Guard, settings: Settings, as_json: bool) -> int:
    """Print every file's answer, in order; how many could not be judged."""
    limits = Limits(file_bytes=settings.max_file_bytes, pixels=settings.max_pixels)
    failed = 0
    with ThreadPoolExecutor(settings.decode_threads) as threads:
        for start in range(0, len(files), AHEAD):
            group = files[start : start + AHEAD]
            found = await asyncio.gather(
                *(_score_one(path, guard, limits, threads) for path in group)
            )
            for path, judged in zip(group, found, strict=True):
                failed += isinstance(judged, ProblemDocument)
                _show(path, judged, as_json)
    return failed


async def _score_one(
    path: Path, guard: Guard, limits: Limits, threads: ThreadPoolExecutor
) -> Answer | ProblemDocument:
    started = perf_counter()
    request_id = uuid4().hex
    try:
        if path.stat().st_size > limits.file_bytes:
            return document(413, f"The bound is {limits.file_bytes:,} bytes.", request_id)
        upload = Upload(await asyncio.to_thread(path.read_bytes), None)
        question = Question(request_id, ANONYMOUS, started)
        found = await diagnose(upload, guard, limits, threads, question)
    except OSError as error:
        return document(400, f"The file cannot be read: {error.strerror or error}.", request_id)
    except ImageProblem as problem:
        return document(problem.problem.value, problem.detail, request_id)
    except ServiceProblem as problem:
        return document(problem.status, problem.detail, request_id)
    timing = found.timing.recorded(0.0, perf_counter() - started)
    return answer(request_id, guard, found.decision, Said.of(guard, found), None, timing)


def _show(path: Path, judged: Answer | ProblemDocument, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"file": str(path), **judged.model_dump(mode="json")}), flush=True)
        return
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if isinstance(judged, ProblemDocument):
        console.print(f"{path}: {judged.status} {judged.detail}", style="red")
        return
    said = judged.diagnosis.label if judged.diagnosis else "withheld"
    why = f" ({judged.route})" if judged.route else ""
    console.print(f"{path}: {judged.verdict}{why}, {said}, p = {judged.guard.p_value}")
