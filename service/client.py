"""A small client of ``/diagnose``: typed answers, retries, batches.

    with Client("http://127.0.0.1:8000", key="KEY") as lazaret:
        answer = lazaret.diagnose(Path("scan.png"))
        for found in lazaret.diagnose_many(Path("scans").glob("*.png")):
            ...

``AsyncClient`` is the same for asyncio. Overload (429, 503) and lost connections are tried again,
after what ``Retry-After`` asks for or a pause that doubles; diagnosing an image twice only puts it
on record twice.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from service.answers import Answer
from service.problems import ProblemDocument

File = Path | bytes
AGAIN = (429, 503)
"""Statuses that ask to come again."""
LONGEST_PAUSE_SECONDS = 30.0


class Refused(Exception):
    """The service answered with a problem. The message is its sentence."""

    def __init__(self, problem: ProblemDocument) -> None:
        super().__init__(problem.detail)
        self.problem = problem

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status


@dataclass(frozen=True, slots=True)
class Found:
    """One image of several: its answer, or what the service refused it with."""

    file: File
    answer: Answer | None
    problem: ProblemDocument | None


@dataclass(frozen=True, slots=True)
class Options:
    """What both clients are told.

    Args:
        url: of the service, without a path.
        key: an API key, where the service asks for one.
        model: which, where several are loaded.
        seconds: longest wait for one answer; the service is told as well and stops in time.
        tries: at most so many, the first included.
        at_once: most requests at once of ``diagnose_many``.
    """

    url: str
    key: str | None = None
    model: str | None = None
    seconds: float = 30.0
    tries: int = 5
    at_once: int = 8

    def client(self) -> dict[str, Any]:
        """Arguments of httpx's client."""
        headers = {"X-Request-Timeout": f"{self.seconds:g}"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        return {"base_url": self.url, "headers": headers, "timeout": self.seconds + 1}

    def request(self, data: bytes, request_id: str | None) -> dict[str, Any]:
        """Arguments of ``POST /diagnose``."""
        return {
            "url": "/diagnose",
            "content": data,
            "params": {} if self.model is None else {"model": self.model},
            "headers": {} if request_id is None else {"X-Request-ID": request_id},
        }

    def pause(self, tried: int, response: httpx.Response | None) -> float | None:
        """Seconds until the next try after ``tried`` of them; None: there is none."""
        if tried >= self.tries or not (response is None or response.status_code in AGAIN):
            return None
        asked = "" if response is None else response.headers.get("Retry-After", "")
        wait = float(asked) if asked.isdecimal() else 0.1 * 2**tried
        # Not all at the same moment again.
        return min(wait, LONGEST_PAUSE_SECONDS) * (1 + 0.2 * random.random())  # noqa: S311  # a pause needs no secrecy


class Client:
    """The client. Thread-safe; close it, or use it as a context. Arguments are ``Options``'."""

    def __init__(self, url: str, **options: Any) -> None:
        self._options = Options(url, **options)
        self._http = httpx.Client(**self._options.client())

    def diagnose(self, file: File, *, request_id: str | None = None) -> Answer:
        """One image's answer.

        Raises:
            Refused: the service's problem.
            httpx.TransportError: it cannot be reached.
        """
        request = self._options.request(_content(file), request_id)
        tried = 0
        while True:
            tried += 1
            response, failure = None, None
            try:
                response = self._http.post(**request)
            except httpx.TransportError as error:
                failure = error
            pause = self._options.pause(tried, response)
            if pause is None:
                return _answer(response, failure)
            time.sleep(pause)

    def diagnose_many(self, files: Iterable[File], *, progress: bool = False) -> Iterator[Found]:
        """Several images, in their order, some at once. A refused one is an entry, not an error.

        Args:
            progress: show a bar on standard error.

        Raises:
            httpx.TransportError: the service cannot be reached.
        """

        def one(file: File) -> Found:
            try:
                return Found(file, self.diagnose(file), None)
            except Refused as refused:
                return Found(file, None, refused.problem)

        files = list(files)
        with ThreadPoolExecutor(self._options.at_once) as pool:
            yield from _shown(pool.map(one, files), len(files), progress)

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """``Client`` for asyncio."""

    def __init__(self, url: str, **options: Any) -> None:
        self._options = Options(url, **options)
        self._http = httpx.AsyncClient(**self._options.client())

    async def diagnose(self, file: File, *, request_id: str | None = None) -> Answer:
        """As ``Client.diagnose``."""
        request = self._options.request(_content(file), request_id)
        tried = 0
        while True:
            tried += 1
            response, failure = None, None
            try:
                response = await self._http.post(**request)
            except httpx.TransportError as error:
                failure = error
            pause = self._options.pause(tried, response)
            if pause is None:
                return _answer(response, failure)
            await asyncio.sleep(pause)

    async def diagnose_many(self, files: Iterable[File]) -> AsyncIterator[Found]:
        """As ``Client.diagnose_many``, in the order of completion."""
        places = asyncio.Semaphore(self._options.at_once)

        async def one(file: File) -> Found:
            async with places:
                try:
                    return Found(file, await self.diagnose(file), None)
                except Refused as refused:
                    return Found(file, None, refused.problem)

        tasks = [asyncio.create_task(one(file)) for file in files]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()

    async def close(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _content(file: File) -> bytes:
    return file.read_bytes() if isinstance(file, Path) else file


def _answer(response: httpx.Response | None, failure: httpx.TransportError | None) -> Answer:
    if response is None:
        assert failure is not None  # one of the two is there
        raise failure
    if response.status_code == 200:
        return Answer.model_validate_json(response.content)
    try:
        raise Refused(ProblemDocument.model_validate_json(response.content))
    except ValueError:  # a proxy's own page
        raise Refused(
            ProblemDocument(
                type="about:blank", title="No answer of the service's", request_id="",
                status=response.status_code, detail=f"HTTP {response.status_code}.",
            )
        ) from None  # fmt: skip


def _shown(found: Iterator[Found], total: int, progress: bool) -> Iterator[Found]:
    if not progress:
        yield from found
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(
        found, description="diagnosing", total=total, console=Console(stderr=True), transient=True
    )
