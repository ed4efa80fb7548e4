"""Another bundle in a served one's folder is served in its place, without a restart.

It is verified like one at a start and must also prove itself before an image is judged by it: its
graph runs, reads its fixture as it was read when it was fitted, and gives its canaries their
verdicts. One that fails is refused, counted and logged, and what was served goes on. Requests that
had begun are answered by the bundle that they began with, and its engine ends after the last.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import structlog

from detectors.bundle import Bundle
from detectors.manifest_file import BundleProblem, Refusal
from models.engine import EngineProblem
from service.guard import Guard, Guards, LoadEngine, guard_of, prove, trusted_keys
from service.metrics import GatewayMetrics
from service.settings import Settings

Stamp = tuple[tuple[str, int, int, int], ...]
"""A folder's files: name, size, time of change and inode. Equal while nobody touches them."""


class BundleWatch:
    """Looks at the folders of the settings' bundles.

    Args:
        guards: those that are served, one a folder.
    """

    def __init__(
        self, settings: Settings, guards: Guards, load_engine: LoadEngine, metrics: GatewayMetrics
    ) -> None:
        self._settings = settings
        self._guards = guards
        self._load_engine = load_engine
        self._metrics = metrics
        self._keys = trusted_keys(settings)
        self._dealt_with: dict[Path, Stamp] = {}
        self._last: dict[Path, Stamp] = {}

    def look(self) -> None:
        """Look at every folder once. A changed one is read when it has stayed as it is from one
        look to the next, so that nobody's copying is taken for damage. Blocks."""
        for place, path in enumerate(self._settings.bundles):
            found = stamp(path)
            settled = found == self._last.get(path)
            self._last[path] = found
            if found and settled and found != self._dealt_with.get(path):
                self._dealt_with[path] = found
                self._read(path, place)

    def _read(self, path: Path, place: int) -> None:
        served = self._guards.all[place]
        log = structlog.get_logger().bind(model=served.model.name, folder=str(path))
        try:
            bundle = Bundle.open(path, self._keys)
            if bundle.digest == served.bundle.digest:
                return
            guard = self._prepare(bundle, served)
        except BundleProblem as problem:
            self._metrics.bundle_refused(problem.reason)
            log.error("bundle refused", reason=problem.reason, advice="lazaret bundle verify")
            return
        self._guards.replace(served, guard)
        self._metrics.served_before(served)
        self._metrics.serves(guard)
        # Whoever is still being answered by it holds it; the last to let go ends its engine.
        weakref.finalize(served, served.batcher.stop).atexit = False
        log.info(
            "bundle changed", bundle=guard.bundle.digest, before=served.bundle.digest,
            version=guard.model.version,
        )  # fmt: skip

    def _prepare(self, bundle: Bundle, served: Guard) -> Guard:
        """A guard that is warm. Raises ``BundleProblem``."""
        name = bundle.manifest.model.name
        if name != served.model.name:
            raise BundleProblem(
                f"{bundle.directory}: holds {name} where {served.model.name} is served; serve "
                "another model by another folder and a restart",
                Refusal.SCHEMA,
            )
        try:
            guard = guard_of(bundle, self._settings, self._load_engine, prove)
        except EngineProblem as problem:
            raise BundleProblem(str(problem), Refusal.ENGINE) from None
        guard.batcher.start()
        if not guard.batcher.warmed():
            guard.batcher.close()
            raise BundleProblem(f"{bundle.directory}: does not warm up", Refusal.ENGINE)
        return guard


def stamp(folder: Path) -> Stamp:
    """The folder's files as they are now; empty for one that is not there."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries]
    except OSError:
        return ()
    return tuple(sorted((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in found))
