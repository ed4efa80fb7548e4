"""One bundle being served, and the choice between several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.numpy import load

from detectors.bundle import (
    Bundle,
    CellLevels,
    SourceLevels,
    levels_for,
    levels_of,
    source_levels_for,
)
from detectors.calibrate import PValues
from detectors.canaries import Canary, canaries_of, check
from detectors.fixture import FIXTURE, AcceptanceProblem, check_fixture
from detectors.manifest_file import BundleProblem, Refusal
from detectors.second_stage import SecondStage
from models.engine import Engine
from models.spec import ModelSpec
from service.batcher import Batcher
from service.cores import cores
from service.decide import Policy
from service.problems import ServiceProblem
from service.second_stage_key import second_stage_key
from service.settings import PolicyOverrides, Settings, SettingsProblem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LoadEngine = Callable[[bytes, Settings], Engine]
"""From a graph to what runs it."""
Proof = Callable[[Bundle, Engine], None]
"""Raises ``BundleProblem`` where an engine does not do what the bundle's was fitted to do."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Guard:
    """A verified bundle with its engine's queue and the operator's policy. Hold it only while a
    request is answered: another may take its place."""

    bundle: Bundle
    batcher: Batcher
    policy: Policy
    levels: tuple[CellLevels, ...]
    """Per class, for the policy's alphas."""
    canaries: tuple[Canary, ...] = ()
    """Files whose verdict is known."""
    source_levels: SourceLevels = field(default_factory=dict)
    """The same for clients and PACS peers that have calibration images of their own."""

    def levels_of(self, p: PValues) -> CellLevels:
        """The levels of the cell that gave ``p``."""
        return levels_of(p, self.levels, self.source_levels)

    @property
    def model(self) -> ModelSpec:
        """The diagnostic model's declaration."""
        return self.bundle.manifest.model

    @property
    def unguarded_classes(self) -> list[str]:
        """Classes with too few calibration images for any adversarial verdict."""
        return [
            name
            for name, levels in zip(self.model.classes, self.levels, strict=True)
            if levels.flag is None and levels.reject is None
        ]


class Guards:
    """The bundles of one process, by model name; in the order of the settings."""

    def __init__(self, guards: Sequence[Guard]) -> None:
        self.all = tuple(guards)
        self._by_name = {guard.model.name: guard for guard in guards}

    def replace(self, old: Guard, new: Guard) -> None:
        """Serve another bundle of the same model to requests from now on."""
        self.all = tuple(new if guard is old else guard for guard in self.all)
        self._by_name = {guard.model.name: guard for guard in self.all}

    def choose(self, name: str | None) -> Guard:
        """The named guard, or the only one. Raises ``ServiceProblem`` 400, 404 or 503."""
        names = ", ".join(self._by_name)
        if not self.all:
            raise ServiceProblem(
                503, "No bundle is loaded; start with `lazaret serve --bundle`.", shed="not_ready"
            )
        if name is not None:
            if name not in self._by_name:
                raise ServiceProblem(404, f"That model is not loaded; loaded: {names}.")
            return self._by_name[name]
        if len(self.all) > 1:
            raise ServiceProblem(400, f"Several models are loaded; add ?model= one of: {names}.")
        return self.all[0]


def open_guards(settings: Settings, load_engine: LoadEngine) -> Guards:
    """Verify and load every bundle of the settings.

    Raises:
        BundleProblem: one must not be served.
        EngineProblem: one cannot be run here.
        SettingsProblem: two share a model name, or a policy names a model that is not served.
    """
    guards = [open_guard(path, settings, load_engine) for path in settings.bundles]
    names = [guard.model.name for guard in guards]
    for name in names:
        if names.count(name) > 1:
            raise SettingsProblem(f"two bundles hold a model named {name}; serve one of them")
    for name in settings.policies:
        if name not in names:
            raise SettingsProblem(
                f"setting policies.{name}: no bundle holds that model; loaded: "
                f"{', '.join(names) or 'none'}"
            )
    return Guards(guards)


def open_guard(path: Path, settings: Settings, load_engine: LoadEngine) -> Guard:
    """Verify and load one bundle. Raises as ``open_guards``."""
    return guard_of(Bundle.open(path, trusted_keys(settings)), settings, load_engine)


def trusted_keys(settings: Settings) -> tuple[Ed25519PublicKey, ...]:
    """Whose bundles are served; anybody's if there are none. Raises ``SettingsProblem``."""
    if settings.bundle_keys is None:
        return ()
    from detectors.signature import KeyProblem, public_keys

    try:
        return public_keys(settings.bundle_keys)
    except KeyProblem as problem:
        raise SettingsProblem(f"setting bundle_keys: {problem}") from None


def guard_of(
    bundle: Bundle, settings: Settings, load_engine: LoadEngine, proof: Proof = lambda *_: None
) -> Guard:
    """Load a verified bundle, whose engine must pass the proof.

    Raises:
        BundleProblem: it must not be served.
        EngineProblem: it cannot be run here.
    """
    manifest = bundle.manifest
    if len(manifest.levels) != len(manifest.model.classes):
        raise BundleProblem(
            f"{bundle.directory}: levels for {len(manifest.levels)} classes of "
            f"{len(manifest.model.classes)}; fit the bundle again",
            Refusal.SCHEMA,
        )
    engine = bundle_engine(bundle, settings, load_engine)
    proof(bundle, engine)
    guard = Guard(
        bundle=bundle,
        batcher=Batcher(
            engine,
            batch_images=settings.batch_images,
            queue_images=settings.max_in_flight,
            queue_seconds=settings.queue_seconds,
            sizes=_batch_sizes(settings),
            runs=_runs_at_once(settings),
        ),
        policy=Policy(manifest.alphas),
        levels=manifest.levels,
        canaries=canaries_of(bundle),
        source_levels=manifest.source_levels,
    )
    overrides = settings.policies.get(manifest.model.name)
    return guard if overrides is None else with_policy(guard, overrides)


def prove(bundle: Bundle, engine: Engine) -> None:
    """Run a bundle's graph on a blank image, on its fixture and on its canaries. Raises
    ``BundleProblem``."""
    folder = bundle.directory
    try:
        engine.warm_up()
    except Exception as error:  # whatever a runtime throws
        raise BundleProblem(
            f"{folder}: its graph fails on a blank image ({error}); fit the bundle again",
            Refusal.ENGINE,
        ) from None
    if FIXTURE in bundle.manifest.files:
        try:
            check_fixture(load(bundle.read(FIXTURE)), engine, bundle.calibration)
        except AcceptanceProblem as problem:
            raise BundleProblem(f"{folder}: {problem}", Refusal.FIXTURE) from None
    if wrong := check(canaries_of(bundle), engine, bundle):
        raise BundleProblem(f"{folder}: {wrong[0]}", Refusal.CANARY)


def with_policy(guard: Guard, overrides: PolicyOverrides) -> Guard:
    """The same bundle and engine, judged by what the operator chose; what is not chosen is the
    bundle's."""
    chosen = overrides.alphas.model_dump(exclude_none=True)
    manifest = guard.bundle.manifest
    alphas = manifest.alphas.model_copy(update=chosen)
    return replace(
        guard,
        policy=Policy(alphas, overrides.on_detector_failure),
        levels=tuple(levels_for(cell, alphas) for cell in guard.bundle.calibration.cells)
        if chosen
        else manifest.levels,
        source_levels=source_levels_for(guard.bundle.calibration, alphas)
        if chosen
        else manifest.source_levels,
    )


def _runs_at_once(settings: Settings) -> int:
    """On a CPU as many as a worker's cores have room for, by the threads of one run."""
    if settings.provider != "cpu" or settings.threads is None:
        return 1
    return max(1, cores() // settings.workers // settings.threads)


def _batch_sizes(settings: Settings) -> tuple[int, ...]:
    """Powers of two for TensorRT, which builds an engine for every shape that it meets, and of four
    on CUDA, where each has a session; any size on a CPU, which runs them all alike."""
    if settings.provider == "cpu":
        return ()
    step, most = 2 if settings.provider == "tensorrt" else 4, settings.batch_images
    sizes = [1]
    while sizes[-1] * step < most:
        sizes.append(sizes[-1] * step)
    return (*sizes, most) if most > 1 else (1,)


def onnx_engine(graph: bytes, settings: Settings) -> Engine:
    """What runs a bundle's graph in production. Raises ``EngineProblem``."""
    # Here, so that importing the service costs no ONNX Runtime.
    from models.onnx_engine import OnnxEngine

    return OnnxEngine(
        graph, provider=settings.provider, threads=settings.threads, sizes=_batch_sizes(settings)
    )


def bundle_engine(
    bundle: Bundle, settings: Settings, load_engine: LoadEngine = onnx_engine
) -> Engine:
    """What runs a verified bundle: its graph and, where it has one, its second stage.

    Raises ``BundleProblem``, ``EngineProblem`` and ``SettingsProblem``.
    """
    if load_engine is not onnx_engine or SecondStage.of(bundle) is None:
        return load_engine(bundle.graph, settings)
    from detectors.staged_engine import open_engine

    return open_engine(
        bundle,
        second_stage_key(settings),
        provider=settings.provider,
        threads=settings.threads,
        sizes=_batch_sizes(settings),
    )
