"""STOW-RS (PS3.18 section 10.5): instances over HTTP into the same spool as C-STORE."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from models.imaging.decode import is_second_kind
from service.admission import Admission, Ticket
from service.auth import Auth
from service.identity import request_id_of
from service.openapi import problems
from service.pacs.multipart import MultipartProblem, Part, Parts, PartTooLarge
from service.pacs.node import Node
from service.pacs.part10 import NotPart10, take_apart
from service.pacs.received import Protocol, Received, is_uid
from service.pacs.sop_classes import storage_classes, syntaxes_of
from service.pacs.spool_entry import SpoolProblem
from service.pacs.take_in import TAKEN, Outcome, Taken, take_in
from service.pacs.write_behind import Together
from service.problems import ServiceProblem
from service.settings import Settings

DICOM: Final = "application/dicom"
JSON: Final = "application/dicom+json"
REQUEST_SECONDS: Final = 900.0
"""Longest time for a whole request: a CT of 2,000 slices at 1 MB/s."""
CANNOT_UNDERSTAND: Final = 0xC000
CLASS_NOT_SUPPORTED: Final = 0x0122
SYNTAX_NOT_SUPPORTED: Final = 0xC122
REASON: Final = {
    Outcome.MALFORMED: CANNOT_UNDERSTAND,
    Outcome.MISMATCH: 0xA900,
    Outcome.FULL: 0xA700,
    Outcome.FAILED: 0x0110,
}
"""Failure Reason (0008,1197): PS3.18 table I.2-2."""
_REFERENCED, _FAILED, _OTHER = "00081199", "00081198", "0008119A"
_CLASS, _INSTANCE, _REASON = "00081150", "00081155", "00081197"


@dataclass(slots=True)
class Report:
    """What became of a request's instances: the Store Instances Response (PS3.18 annex I)."""

    stored: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    other: list[dict[str, Any]] = field(default_factory=list)
    """Failures of parts that do not say which instance they are."""
    full: int = 0

    def store(self, received: Received) -> None:
        """One instance is kept."""
        self.stored.append(_reference(received))

    def fail(self, reason: int, received: Received | None = None) -> None:
        """One is not."""
        value = {_REASON: {"vr": "US", "Value": [reason]}}
        self.full += reason == REASON[Outcome.FULL]
        if received is None:
            self.other.append(value)
        else:
            self.failed.append(_reference(received) | value)

    @property
    def status(self) -> int:
        """200 all kept, 202 some, 409 none."""
        if not self.failed and not self.other:
            return 200
        return 202 if self.stored else 409

    def to_json(self) -> bytes:
        """DICOM JSON (PS3.18 annex F)."""
        sequences = ((_FAILED, self.failed), (_REFERENCED, self.stored), (_OTHER, self.other))
        return json.dumps(
            {tag: {"vr": "SQ", "Value": items} for tag, items in sequences if items},
            separators=(",", ":"),
        ).encode()


@dataclass(frozen=True, slots=True)
class Stow:
    """What a request needs."""

    node: Node
    auth: Auth
    admission: Admission
    part_bytes: int
    idle_seconds: float

    async def handle(self, request: Request, study: str | None) -> Report:
        """Keep what a request brings. Raises ``ServiceProblem``."""
        client = self.auth.client(request)
        if study is not None and not is_uid(study):
            raise ServiceProblem(400, "The study in the address is not a UID.")
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise ServiceProblem(415, "Send the body without Content-Encoding.")
        with self.admission.enter() as ticket:
            if self.node.spool.free_bytes() <= 0:
                raise ServiceProblem(503, "There is no space for more instances; try again later.")
            report = await self._keep(request, client, study, ticket)
        if not (report.stored or report.failed or report.other):
            raise ServiceProblem(400, "The body holds no instance.")
        if report.full and not report.stored:
            raise ServiceProblem(503, "There is no space for more instances; try again later.")
        return report

    async def _keep(
        self, request: Request, client: str, study: str | None, ticket: Ticket
    ) -> Report:
        report, together = Report(), Together(self.node.spool)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                async for part in self._parts(request, ticket):
                    await asyncio.to_thread(
                        self._keep_one, part, request, client, study, together, report
                    )
                    ticket.hold(-len(part.data))
        except TimeoutError:
            raise ServiceProblem(408, "The instances took too long to arrive.") from None
        except ClientDisconnect:
            raise ServiceProblem(400, "The body ended before its declared length.") from None
        except PartTooLarge as problem:
            raise ServiceProblem(413, str(problem)) from None
        except MultipartProblem as problem:
            raise ServiceProblem(400, str(problem)) from None
        finally:
            # What came before a fault stays: whoever sends it again is told so.
            try:
                await asyncio.to_thread(together.flush)
            except SpoolProblem:
                raise ServiceProblem(503, "The instances could not be stored; try again.") from None
        return report

    async def _parts(self, request: Request, ticket: Ticket) -> AsyncIterator[Part]:
        media_type, options = parse_options_header(request.headers.get("Content-Type"))
        if media_type == DICOM.encode():
            yield await self._single(request, ticket)
            return
        kind = options.get(b"type", DICOM.encode()).strip(b'"')
        if media_type != b"multipart/related" or kind != DICOM.encode():
            raise ServiceProblem(
                415, f'Send multipart/related; type="{DICOM}", or one instance as {DICOM}.'
            )
        parts = Parts(options.get(b"boundary", b""), self.part_bytes, ticket.hold)
        async for chunk in self._chunks(request):
            for part in parts.feed(chunk):
                yield part
        parts.close()

    async def _single(self, request: Request, ticket: Ticket) -> Part:
        chunks, size = [], 0
        async for chunk in self._chunks(request):
            size += len(chunk)
            if size > self.part_bytes:
                raise PartTooLarge(f"Send instances of at most {self.part_bytes:,} bytes.")
            ticket.hold(len(chunk))
            chunks.append(chunk)
        return Part(DICOM, b"".join(chunks))

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        stream = request.stream()
        while True:
            async with asyncio.timeout(self.idle_seconds):
                try:
                    chunk = await anext(stream)
                except StopAsyncIteration:
                    return
            yield chunk

    def _keep_one(
        self,
        part: Part,
        request: Request,
        client: str,
        study: str | None,
        together: Together,
        report: Report,
    ) -> None:
        if part.media_type not in ("", DICOM):
            report.fail(CANNOT_UNDERSTAND)
            return
        try:
            file = take_apart(part.data)
        except NotPart10:
            report.fail(CANNOT_UNDERSTAND)
            return
        if not (file.sop_class and file.sop_instance) or is_second_kind(file.preamble):
            report.fail(CANNOT_UNDERSTAND)
            return
        received = Received(
            protocol=Protocol.STOW,
            calling=client,
            called="",
            address=request.client.host if request.client else "",
            association=request_id_of(request),
            at=datetime.now(UTC),
            transfer_syntax=file.transfer_syntax,
            sop_class=file.sop_class,
            sop_instance=file.sop_instance,
        )
        if file.sop_class not in storage_classes():
            report.fail(CLASS_NOT_SUPPORTED, received)
        elif file.transfer_syntax not in syntaxes_of(file.sop_class):
            report.fail(SYNTAX_NOT_SUPPORTED, received)
        else:
            taken = take_in(
                file.dataset,
                received,
                self.node.spool,
                self.node.tally,
                study=study,
                sync=together.hand,
            )
            _report(taken, received, report)


def _report(taken: Taken, received: Received, report: Report) -> None:
    if taken.outcome in TAKEN:
        report.store(received)
    else:
        report.fail(REASON[taken.outcome], received)


def _reference(received: Received) -> dict[str, Any]:
    return {
        _CLASS: {"vr": "UI", "Value": [received.sop_class]},
        _INSTANCE: {"vr": "UI", "Value": [received.sop_instance]},
    }


_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            f'multipart/related; type="{DICOM}"': {"schema": {"type": "string", "format": "binary"}}
        },
    }
}


def routes(node: Node, auth: Auth, admission: Admission, settings: Settings) -> APIRouter:
    """The router of ``/dicomweb/studies``."""
    router = APIRouter()
    stow = Stow(node, auth, admission, settings.dicom_instance_bytes, settings.body_seconds)
    said: dict[int | str, dict[str, Any]] = {
        200: {"description": "All instances are kept", "content": {JSON: {}}},
        202: {"description": "Some are not: FailedSOPSequence says which and why"},
        409: {"description": "None is"},
        **problems(400, 401, 403, 408, 413, 415, 503),
    }

    @router.post(
        "/dicomweb/studies", summary="Receive instances (STOW-RS)", responses=said,
        openapi_extra=_BODY, response_class=Response,
    )  # fmt: skip
    async def studies(request: Request) -> Response:
        return _answer(request, await stow.handle(request, None))

    @router.post(
        "/dicomweb/studies/{study}", summary="Receive instances of one study (STOW-RS)",
        responses=said, openapi_extra=_BODY, response_class=Response,
    )  # fmt: skip
    async def one_study(request: Request, study: str) -> Response:
        return _answer(request, await stow.handle(request, study))

    return router


def _answer(request: Request, report: Report) -> Response:
    return Response(
        report.to_json(),
        status_code=report.status,
        media_type=JSON,
        headers={"X-Request-ID": request_id_of(request), "Cache-Control": "no-store"},
    )
