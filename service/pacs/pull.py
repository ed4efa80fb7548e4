"""Studies from an archive into the spool: QIDO-RS and WADO-RS (PS3.18 sections 10.6 and 10.4).

What the archive answers is a stranger's word: sizes are bounded, UIDs checked before they become
part of an address, and every instance goes through the same checks as one that was sent.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
from python_multipart.multipart import parse_options_header

from service.pacs.dicomweb import JSON
from service.pacs.multipart import MultipartProblem, Parts
from service.pacs.part10 import NotPart10, take_apart
from service.pacs.received import Protocol, Received, is_uid
from service.pacs.spool import Spool
from service.pacs.take_in import TAKEN, take_in
from service.pacs.tally import Tally

PAGE: Final = 100
"""Matches asked for at a time."""
ANSWER_BYTES: Final = 16 * 2**20
"""Most bytes of one page of matches."""
TRIES: Final = 4
FIRST_WAIT_SECONDS: Final = 0.5
AT_ONCE: Final = 4
ACCEPT: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_Read = TypeVar("_Read")
_KEY = re.compile(r"[A-Za-z]{1,64}|[0-9A-Fa-f]{8}(\.[0-9A-Fa-f]{8})*")


class PullProblem(Exception):
    """The archive cannot be asked, or its answer not used. A sentence."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One instance in the archive."""

    study: str
    series: str
    instance: str

    @property
    def path(self) -> str:
        """Its address under the archive's root."""
        return f"/studies/{self.study}/series/{self.series}/instances/{self.instance}"


@dataclass(slots=True)
class Pulled:
    """How far a pull has come."""

    studies: int = 0
    found: int = 0
    known: int = 0
    """Instances whose UID the spool had seen before."""
    kept: int = 0
    failed: int = 0

    @property
    def handled(self) -> int:
        """Instances that are dealt with."""
        return self.known + self.kept + self.failed


class Archive:
    """A DICOMweb archive. Thread-safe.

    Args:
        client: from ``dicomweb.client_of``.
        instance_bytes: most bytes of an instance.
    """

    def __init__(self, client: httpx.Client, instance_bytes: int) -> None:
        self._client = client
        self._instance_bytes = instance_bytes

    def studies(self, query: Mapping[str, str], limit: int | None) -> Iterator[str]:
        """UIDs of the studies that match. Raises ``PullProblem``."""
        for count, match in enumerate(self._matches("/studies", query)):
            if limit is not None and count >= limit:
                return
            yield _value(match, _STUDY)

    def instances(self, study: str) -> Iterator[Wanted]:
        """The instances of one study. Raises ``PullProblem``."""
        for match in self._matches(f"/studies/{study}/instances", {}):
            yield Wanted(study, _value(match, _SERIES), _value(match, _INSTANCE))

    def fetch(self, wanted: Wanted) -> bytes:
        """One instance's DICOM file. Raises ``PullProblem``."""

        def read(answer: httpx.Response) -> bytes:
            media_type, options = parse_options_header(answer.headers.get("Content-Type"))
            if media_type != b"multipart/related":
                raise PullProblem("the archive answers an instance in another form than asked for")
            held = 0

            def hold(count: int) -> None:
                nonlocal held
                held += count
                if held > self._instance_bytes:
                    raise PullProblem("the archive sends a larger instance than is taken")

            try:
                parts = Parts(options.get(b"boundary", b""), self._instance_bytes, hold)
                found = [part.data for chunk in answer.iter_bytes() for part in parts.feed(chunk)]
                parts.close()
            except MultipartProblem:
                raise PullProblem("the archive's answer is malformed or cut short") from None
            if len(found) != 1:
                raise PullProblem("the archive answers one instance with another number of them")
            return found[0]

        return self._ask(wanted.path, {}, ACCEPT, read)

    def _matches(self, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        offset = 0
        seen: set[str] = set()
        while True:
            page = self._ask(
                path, {**query, "limit": str(PAGE), "offset": str(offset)}, JSON, _page
            )
            # An archive that knows no offset answers the same page again.
            fresh = [match for match in page if json.dumps(match) not in seen]
            seen.update(json.dumps(match) for match in fresh)
            yield from fresh
            if len(page) < PAGE or not fresh:
                return
            offset += len(page)

    def _ask(
        self,
        path: str,
        query: Mapping[str, str],
        accept: str,
        read: Callable[[httpx.Response], _Read],
    ) -> _Read:
        """Ask, again where it may help."""
        pause = FIRST_WAIT_SECONDS
        for attempt in range(1, TRIES + 1):
            try:
                with self._client.stream(
                    "GET", path, params=dict(query), headers={"Accept": accept}
                ) as answer:
                    if answer.status_code == 200:
                        return read(answer)
                    status = answer.status_code
                    if status == 204:
                        return read(httpx.Response(200, content=b"[]"))
                    why = f"the archive answers {status}"
                    if status < 500 and status != 429:
                        raise PullProblem(why)
            except httpx.HTTPError as error:
                why = f"the archive does not answer ({type(error).__name__})"
            if attempt < TRIES:
                time.sleep(pause)
                pause *= 2
        raise PullProblem(why)


def pull(
    archive: Archive,
    name: str,
    query: Mapping[str, str],
    spool: Spool,
    tally: Tally,
    *,
    address: str,
    limit: int | None = None,
    again: bool = False,
    told: Callable[[Pulled], None] = lambda _: None,
    failed: Callable[[str], None] = lambda _: None,
) -> Pulled:
    """Fetch every instance of the studies that match, ``AT_ONCE`` at a time.

    Args:
        name: the archive's configured name.
        again: fetch also what the spool has seen before; without it a pull that was cut off
            goes on where it stopped.
        told: called after each step; ``failed`` with a sentence for each instance that was not
            kept.

    Raises:
        PullProblem: the archive cannot be searched.
    """
    state, lock, pull_id = Pulled(), threading.Lock(), uuid4().hex

    def one(wanted: Wanted) -> None:
        try:
            sentence = _keep(archive.fetch(wanted), wanted, name, address, pull_id, spool, tally)
        except PullProblem as problem:
            sentence = str(problem)
        with lock:
            if sentence:
                state.failed += 1
                failed(sentence)
            else:
                state.kept += 1
            told(state)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pull") as threads:
        running = set()
        for study in archive.studies(query, limit):
            listed = list(archive.instances(study))
            with lock:
                state.studies += 1
                state.found += len(listed)
                told(state)
            for wanted in listed:
                if not again and spool.seen(wanted.instance):
                    with lock:
                        state.known += 1
                        told(state)
                    continue
                running.add(threads.submit(one, wanted))
                if len(running) > 2 * AT_ONCE:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
        for future in running:
            future.result()
    return state


def query_of(pairs: list[str]) -> dict[str, str]:
    """``Keyword=value`` pairs as a QIDO-RS query. Raises ``PullProblem``."""
    query = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not _KEY.fullmatch(key) or key in ("limit", "offset"):
            raise PullProblem(f"{pair}: write a DICOM keyword, = and what it must match")
        query[key] = value
    return query


def host_of(url: str) -> str:
    """The host of an address."""
    return urlsplit(url).hostname or ""


def _keep(
    file: bytes,
    wanted: Wanted,
    name: str,
    address: str,
    pull_id: str,
    spool: Spool,
    tally: Tally,
) -> str:
    """Put one into the spool; a sentence when it cannot be."""
    try:
        parts = take_apart(file)
    except NotPart10 as problem:
        return f"the archive sends what is no DICOM file: {problem}"
    received = Received(
        protocol=Protocol.PULL,
        calling=name,
        called="",
        address=address,
        association=pull_id,
        at=datetime.now(UTC),
        transfer_syntax=parts.transfer_syntax,
        sop_class=parts.sop_class,
        sop_instance=wanted.instance,
    )
    taken = take_in(parts.dataset, received, spool, tally, study=wanted.study)
    return "" if taken.outcome in TAKEN else taken.sentence


def _page(answer: httpx.Response) -> list[dict[str, Any]]:
    chunks, size = [], 0
    for chunk in answer.iter_bytes():
        size += len(chunk)
        if size > ANSWER_BYTES:
            raise PullProblem("the archive's list of matches is too large; narrow the query")
        chunks.append(chunk)
    try:
        found = json.loads(b"".join(chunks) or b"[]")
    except (ValueError, RecursionError):
        raise PullProblem("the archive's list of matches is no JSON") from None
    if not isinstance(found, list) or not all(isinstance(match, dict) for match in found):
        raise PullProblem("the archive's list of matches is not a list of DICOM JSON objects")
    return found


def _value(match: dict[str, Any], tag: str) -> str:
    """A UID of a match."""
    try:
        value = match[tag]["Value"][0]
    except (KeyError, IndexError, TypeError):
        value = None
    if not isinstance(value, str) or not is_uid(value):
        raise PullProblem("the archive lists something without a valid UID")
    return value
