"""What operators and orchestrators poll: liveness, readiness, models, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from service.answers import Levels, ModelName, model_name
from service.auth import Auth
from service.guard import Guard, Guards
from service.metrics import Metrics
from service.metrics.exposition import page
from service.openapi import problems
from service.problems import ServiceProblem


class Status(BaseModel):
    """One word."""

    status: str


class ClassLevels(BaseModel):
    """What one class's calibration images support; null: too few for that verdict."""

    name: str
    calibration_images: int
    flag: float | None
    reject: float | None
    quality: float | None


class ModelAnswer(ModelName):
    """One served model."""

    ready: bool
    classes: list[ClassLevels]
    input: str
    detectors: list[str]
    alpha: Levels
    on_detector_failure: str


def routes(guards: Guards, metrics: Metrics, auth: Auth) -> APIRouter:
    """The router. All but ``/models`` are open: probes carry no keys and learn nothing here."""
    router = APIRouter()

    @router.get("/livez", summary="The process answers")
    async def livez() -> Status:
        return Status(status="ok")

    @router.get("/readyz", summary="Every engine has run a real batch", responses=problems(503))
    async def readyz() -> Status:
        cold = [guard.model.name for guard in guards.all if not guard.batcher.ready]
        if cold or not guards.all:
            waiting = ", ".join(cold) or "a bundle"
            raise ServiceProblem(503, f"Not ready: {waiting}.")
        return Status(status="ok")

    @router.get("/models", summary="What is served", responses=problems(401, 403))
    async def models(request: Request) -> list[ModelAnswer]:
        auth.client(request)
        return [_describe(guard) for guard in guards.all]

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def prometheus(request: Request) -> Response:
        metrics.refresh()
        content, media_type = page(metrics.readable(), request.headers.get("Accept", ""))
        return Response(content, headers={"Content-Type": media_type})

    return router


def _describe(guard: Guard) -> ModelAnswer:
    preprocessing = guard.model.preprocessing
    height, width = preprocessing.size
    return ModelAnswer(
        **model_name(guard).model_dump(),
        ready=guard.batcher.ready,
        classes=[
            ClassLevels(
                name=name,
                calibration_images=levels.images,
                flag=levels.flag,
                reject=levels.reject,
                quality=levels.quality,
            )
            for name, levels in zip(guard.model.classes, guard.levels, strict=True)
        ],
        input=f"{height} x {width} {'gray' if preprocessing.channels == 1 else 'RGB'}",
        detectors=[entry.name for entry in guard.bundle.manifest.detectors],
        alpha=Levels(**guard.policy.alphas.model_dump()),
        on_detector_failure=guard.policy.on_detector_failure,
    )
