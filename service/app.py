"""Wires the service together; nothing is decided here."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

import structlog
from fastapi import FastAPI

from models.imaging import Limits
from service import batch, cases, endpoints, operations, problems
from service.admission import Admission
from service.auth import Auth
from service.drift import routes as drift_routes
from service.gateway import Gateway
from service.guard import Guards, LoadEngine, onnx_engine, open_guards
from service.inference import endpoints as inference
from service.linger import Linger
from service.metrics import GatewayMetrics, Metrics
from service.metrics.catalogue import DECODER_DEATHS, WORKERS
from service.query_history import open_history
from service.records import Records
from service.reviews import Reviews
from service.settings import Settings, SettingsProblem
from service.tracing import Spans, Traced
from service.watches import Watches

if TYPE_CHECKING:
    from service.pacs.node import Node
    from service.pacs.outgoing import Outgoing


def create_app(
    settings: Settings, load_engine: LoadEngine = onnx_engine, *, leads: bool = True
) -> FastAPI:
    """The application. Bundles are verified and loaded, and the database opened, here, before
    anything listens; engines warm up when it starts.

    Args:
        leads: receive and judge DICOM, deliver, count cases, test for drift: what one of several
            workers does for all.

    Raises:
        SettingsProblem, BundleProblem, EngineProblem, RecordsProblem: it must not start; each is
            a sentence.
    """
    if settings.grpc_port is not None and find_spec("grpc") is None:
        raise SettingsProblem("setting grpc_port: gRPC needs `pip install 'lazaret[grpc]'`")
    auth = Auth(settings.keys(), settings.host, settings.anonymous, settings.reviewers)
    guards = open_guards(settings, load_engine)
    admission = Admission(settings.max_in_flight, settings.max_held_bytes)
    records = Records(settings.database)
    records.open()
    metrics = Metrics()
    gateway_metrics = GatewayMetrics(metrics, admission)
    reviews = Reviews(records.engine, metrics)
    for guard in guards.all:
        gateway_metrics.serves(guard)
    if not leads:  # STOW-RS may reach any worker, and each puts what it gets into the spool
        settings = settings.model_copy(update={"dicom_port": None})
    node = _pacs_node(settings, metrics)
    limits = Limits(file_bytes=settings.max_file_bytes, pixels=settings.max_pixels)
    history = open_history(settings, metrics)
    decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
    spans = open_spans(settings)
    watches = Watches(
        settings, guards, load_engine, records, reviews, gateway_metrics, limits, decoders,
        records_too=leads,
    )  # fmt: skip

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        records.start()
        decoders.submit(_load_decoders, metrics)
        _start_engines(guards)
        await watches.start()
        if settings.workers > 1:  # one that is not ready must not be dealt connections
            await asyncio.gather(*(asyncio.to_thread(g.batcher.warmed) for g in guards.all))
        metrics.set(WORKERS, 1)
        async with _grpc(gateway, settings), _pacs(node, outgoing):
            yield
        await watches.close()
        for guard in guards.all:
            await asyncio.to_thread(guard.batcher.close)
        decoders.shutdown()
        if history is not None:
            await history.close()
        await asyncio.to_thread(records.close)
        if spans is not None:
            await asyncio.to_thread(spans.close)

    app = FastAPI(
        title="Lazaret",
        summary="A guard in front of diagnostic imaging models",
        version=version("lazaret"),
        lifespan=running,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Linger)
    app.add_middleware(Traced, spans=spans)
    problems.install(app)
    gateway = Gateway(
        guards=guards,
        auth=auth,
        admission=admission,
        records=records,
        metrics=gateway_metrics,
        limits=limits,
        request_images=settings.max_request_images,
        request_bytes=settings.max_request_bytes,
        body_seconds=settings.body_seconds,
        decoders=decoders,
        history=history,
        response=settings.query_response,
        spans=spans,
    )
    outgoing = _pacs_outgoing(settings, node, gateway, metrics) if leads else None
    app.include_router(endpoints.routes(gateway))
    app.include_router(batch.routes(gateway))
    app.include_router(inference.routes(gateway))
    app.include_router(cases.routes(records, reviews, auth))
    app.include_router(operations.routes(guards, metrics, auth))
    app.include_router(drift_routes(watches.drift, auth))
    if node is not None and settings.dicomweb:
        from service.pacs import stow

        app.include_router(stow.routes(node, auth, admission, settings))
    return app


def _start_engines(guards: Guards) -> None:
    """In a function of its own, whose end lets go of the last guard: one that is replaced lives
    for as long as somebody holds it."""
    for guard in guards.all:
        if guard.unguarded_classes:
            structlog.get_logger().warning(
                "too few calibration images to hold anything",
                model=guard.model.name,
                classes=guard.unguarded_classes,
            )
        guard.batcher.start()


@asynccontextmanager
async def _grpc(gateway: Gateway, settings: Settings) -> AsyncIterator[None]:
    """The inference protocol over gRPC while the application runs, where a port is set for it."""
    if settings.grpc_port is None:
        yield
        return
    from service.inference import grpc_server

    server = await grpc_server.start(
        gateway, settings.host, settings.grpc_port, settings.max_in_flight
    )
    yield
    await server.stop(settings.drain_seconds)


def _pacs_node(settings: Settings, metrics: Metrics) -> Node | None:
    """The PACS node, where the settings ask for one. Raises ``SettingsProblem``."""
    if settings.dicom_port is None and not settings.dicomweb:
        return None
    from service.pacs.node import Node

    return Node(settings, metrics)


def _pacs_outgoing(
    settings: Settings, node: Node | None, gateway: Gateway, metrics: Metrics
) -> Outgoing | None:
    """What judges the node's instances and sends verdicts. Raises ``SettingsProblem``."""
    if node is None:
        return None
    from service.pacs.outgoing import Outgoing

    return Outgoing(settings, node.spool, gateway, metrics)


@asynccontextmanager
async def _pacs(node: Node | None, outgoing: Outgoing | None) -> AsyncIterator[None]:
    """The node while the application runs."""
    if node is None:
        yield
        return
    if outgoing is not None:
        await outgoing.start()
    node.start()
    yield
    await asyncio.to_thread(node.stop_receiving)
    if outgoing is not None:
        await outgoing.close()
    node.close()


def load_late() -> None:
    """Import what is imported late, so that workers share it."""
    for name in (
        "models.imaging.raster",
        "models.imaging.dicom",
        "models.onnx_engine",
        "alembic.command",
        "uvicorn.loops.auto",
    ):
        importlib.import_module(name)


def open_spans(settings: Settings) -> Spans | None:
    """Where spans go, if anywhere. Raises ``SettingsProblem``."""
    if settings.otlp_endpoint is None:
        return None
    try:
        from service.otlp import OtlpSpans
    except ImportError:
        raise SettingsProblem(
            "setting otlp_endpoint: sending traces needs `pip install 'lazaret[otel]'`"
        ) from None
    return OtlpSpans(settings.otlp_endpoint, settings.trace_share)


def _load_decoders(metrics: Metrics) -> None:
    """Import what ``models.imaging.decode`` imports late, and start a process for compressed
    DICOM, so that no request pays for it."""
    for name in ("raster", "dicom"):
        importlib.import_module(f"models.imaging.{name}")
    from models.imaging import codec_pool

    codec_pool.shared().on_death = partial(metrics.count, DECODER_DEATHS)
    codec_pool.shared().warm()
