"""A collector that keeps what it is sent: OTLP over HTTP, protobuf."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


@dataclass
class Collector:
    """What arrived."""

    url: str
    bodies: list[bytes] = field(default_factory=list)

    def spans(self) -> list[Any]:
        """Every span."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        return [
            span
            for body in list(self.bodies)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def wait_for(self, names: set[str], seconds: float = 20) -> list[Any]:
        """Until spans of all these names arrived."""
        until = time.monotonic() + seconds
        while not names <= {span.name for span in self.spans()}:
            assert time.monotonic() < until, {span.name for span in self.spans()}
            time.sleep(0.05)
        return self.spans()


@contextmanager
def collector() -> Iterator[Collector]:
    """Listen on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
