"""A container's health check: ``python -m service.probe`` succeeds when the service is ready.

It asks ``/readyz`` on this machine, at ``LAZARET_PORT`` or 8000, and imports next to nothing,
because it runs every few seconds.
"""

from __future__ import annotations

import http.client
import os
import sys

SECONDS = 2.0
"""Longest wait for the answer; an orchestrator's own limit should be above it."""


def ready(host: str, port: int) -> bool:
    """Whether the service there answers ``/readyz`` with 200."""
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if ready("127.0.0.1", int(os.environ.get("LAZARET_PORT", "8000"))) else 1)
