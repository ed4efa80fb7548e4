"""What every test shares."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.postgres import Postgres, postgres
from tiny_bundle import write_bundle


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the user's cache of attacks."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LAZARET_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session", autouse=True)
def _programs_of_the_machine() -> None:
    """In an activated environment pynetdicom's ``storescu`` would stand before dcmtk's."""
    ours = {sysconfig.get_path("scripts"), f"{os.environ.get('VIRTUAL_ENV')}/bin"}
    rest = [folder for folder in os.get_exec_path() if folder not in ours]
    pytest.MonkeyPatch().setenv("PATH", os.pathsep.join(rest))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One PostgreSQL for all tests."""
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of either kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/records.sqlite3"
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.new_database()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``tiny_bundle``."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
