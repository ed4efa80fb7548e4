"""The deployment's secret from which every image's random views follow."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from functools import cache

import structlog

from service.secret_file import read_secret
from service.settings import Settings

PURPOSE = b"lazaret second stage"


def second_stage_key(settings: Settings) -> bytes:
    """Of the query history's secret file, for this purpose alone; without one, of this process.
    Raises ``SettingsProblem``."""
    path = settings.query_secret_file
    secret = _own_secret() if path is None else read_secret(path)
    return hmac.new(secret, PURPOSE, hashlib.sha256).digest()


@cache
def _own_secret() -> bytes:
    structlog.get_logger().warning(
        "second stage without a lasting secret",
        advice="name a file in query_secret_file: other processes, and this one after a restart, "
        "look at the same image through other views",
    )
    return secrets.token_bytes(32)
