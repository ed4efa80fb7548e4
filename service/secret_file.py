"""A secret that a file keeps from one start to the next."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from service.settings import SettingsProblem

SECRET_BYTES = 32


def read_secret(path: Path) -> bytes:
    """The secret in a file; a new one, for its owner's eyes only, where there is no file. Raises
    ``SettingsProblem``."""
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise SettingsProblem(f"setting query_secret_file: {path}: {error.strerror}") from None
    else:
        with os.fdopen(made, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(SECRET_BYTES) + "\n")
    try:
        if path.stat().st_mode & stat.S_IWOTH:
            raise SettingsProblem(
                f"setting query_secret_file: anybody may write {path}; run `chmod 600 {path}`"
            )
        secret = path.read_bytes().strip()
    except OSError as error:
        raise SettingsProblem(f"setting query_secret_file: {path}: {error.strerror}") from None
    if len(secret) < SECRET_BYTES:
        raise SettingsProblem(
            f"setting query_secret_file: {path} holds {len(secret)} bytes, too few for a secret; "
            "write at least 32, such as `openssl rand -hex 32` prints, or remove it"
        )
    return secret
