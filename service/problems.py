"""Every refusal, as an RFC 9457 problem document."""

from __future__ import annotations

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from models.imaging import ImageProblem
from service.identity import request_id_of

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = {429: 60, 503: 1}
"""What ``Retry-After`` asks for: a full queue empties in about a second."""

TITLES = {
    400: ("malformed", "The request or its image is malformed"),
    401: ("unauthenticated", "A valid API key is required"),
    403: ("forbidden", "This request is not allowed here"),
    404: ("not-found", "There is nothing here by that name"),
    405: ("method-not-allowed", "This address does not answer that method"),
    408: ("timeout", "The request took too long to arrive"),
    409: ("conflict", "It is not in a state for this"),
    413: ("too-large", "The image is too large"),
    415: ("unsupported", "This kind of image is not supported"),
    422: ("unusable", "The request is well-formed but cannot be used"),
    429: ("rate", "Too many requests"),
    500: ("internal", "The service failed"),
    503: ("unavailable", "The service cannot take this request now"),
    504: ("deadline", "The request's deadline passed"),
}


class ServiceProblem(Exception):
    """A refusal. ``detail`` is a sentence for the caller: what is wrong and what to do; ``shed``
    says what was full or cold where load or a start is the cause."""

    def __init__(self, status: int, detail: str, *, shed: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.shed = shed
        self.recorded = False
        """Whether it has been recorded and counted."""

    @classmethod
    def from_image(cls, problem: ImageProblem) -> ServiceProblem:
        """The same refusal, at the status that its kind means."""
        return cls(problem.problem.value, problem.detail)

    @property
    def kind(self) -> str:
        """A short fixed word: metrics label, record column, and the end of ``type``."""
        return kind_of(self.status)


class ProblemDocument(BaseModel):
    """RFC 9457, with the request's id."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str


def kind_of(status: int) -> str:
    """The fixed word for a status."""
    return TITLES.get(status, (f"status-{status}", ""))[0]


def document(status: int, detail: str, request_id: str) -> ProblemDocument:
    """The document for a status."""
    kind, title = TITLES.get(status, (f"status-{status}", "The request was refused"))
    return ProblemDocument(
        type=f"urn:lazaret:problem:{kind}",
        title=title,
        status=status,
        detail=detail,
        request_id=request_id,
    )


def problem_response(status: int, detail: str, request_id: str) -> Response:
    """The document as a response, with the headers that its status asks for."""
    headers = {"X-Request-ID": request_id, "Cache-Control": "no-store"}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in RETRY_SECONDS:
        headers["Retry-After"] = str(RETRY_SECONDS[status])
    return Response(
        document(status, detail, request_id).model_dump_json(),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def _respond(request: Request, status: int, detail: str) -> Response:
    """A problem document, or under ``/v2`` the form that the Open Inference Protocol gives to
    errors."""
    request_id = request_id_of(request)
    response = problem_response(status, detail, request_id)
    if not request.url.path.startswith("/v2/"):
        return response
    del response.headers["Content-Length"], response.headers["Content-Type"]
    return JSONResponse({"error": detail}, status, headers=dict(response.headers))


def install(app: FastAPI) -> None:
    """Answer every error of ``app`` with a problem document."""

    @app.exception_handler(ServiceProblem)
    async def refused(request: Request, error: ServiceProblem) -> Response:
        return _respond(request, error.status, error.detail)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        detail = "See /docs for the addresses and methods that are answered."
        response = _respond(request, error.status_code, detail)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"])
        return _respond(request, 422, f"{where}: {first['msg']}.")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        request_id = request_id_of(request)
        structlog.get_logger().error(
            "failed", request_id=request_id, error=type(error).__name__, exc_info=error
        )
        return _respond(request, 500, "The failure is in the log by this request id.")
