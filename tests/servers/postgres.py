"""A private PostgreSQL, and a fresh database in it for every test that asks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from servers.process import accepts, free_port, program, running

PROGRAM_FOLDERS = "/usr/lib/postgresql/*/bin"
"""Where Debian keeps the server's programs."""
ACCOUNT = "postgres"
"""Whom to run it as when the tests run as root, which PostgreSQL refuses."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server that trusts whoever reaches its loopback port."""

    port: int

    def new_database(self) -> str:
        """Create a database; its SQLAlchemy URL."""
        import psycopg

        name = f"lazaret_{uuid4().hex}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._url(name).replace("postgresql://", "postgresql+psycopg://")

    def _url(self, database: str) -> str:
        return f"postgresql://{ACCOUNT}@127.0.0.1:{self.port}/{database}"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a server on a free port; stop it and remove its files afterwards."""
    server = program("postgres", "postgresql", PROGRAM_FOLDERS)
    user = ACCOUNT if os.geteuid() == 0 else None
    # Not under pytest's own folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="lazaret-postgres-"))
    try:
        if user:
            shutil.chown(folder, user)
        data = folder / "data"
        subprocess.run(
            [
                str(Path(server).with_name("initdb")), "--pgdata", str(data), "--no-sync",
                "--auth", "trust", "--username", ACCOUNT, "--encoding", "UTF8",
                "--no-locale",
            ],
            check=True, capture_output=True, user=user, cwd=folder,
        )  # fmt: skip
        port = free_port()
        command = [
            server, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder),
            "-c", "fsync=off",  # processes are killed here, not machines
        ]  # fmt: skip
        # SIGINT ends it although clients are connected; SIGTERM would wait for them.
        with running(command, folder / "log", lambda: accepts(port), user=user, stop=signal.SIGINT):
            yield Postgres(port)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
