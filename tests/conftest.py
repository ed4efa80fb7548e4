"""What every test shares."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the user's cache of attacks."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LAZARET_CACHE", str(tmp_path_factory.mktemp("cache")))
