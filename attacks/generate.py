"""Run attacks over a set of images and judge each result as delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from attacks.adversarial import AdversarialSet, Unguided
from attacks.container import PNG8, Container
from attacks.crew import Crew, Threads
from attacks.gradient import Ailment
from attacks.judge import Answers, Grid, ModelJudge
from attacks.objective import Model
from attacks.part_store import PartStore
from attacks.problem import AttackProblem
from attacks.spec import Attacker, AttackSpec, Need
from attacks.work import UNIT, Bench, Part, Unit, attack_unit, cut, unit_digest
from models.imaging.decode import digest


@dataclass(frozen=True, slots=True)
class Sources:
    """The images to attack."""

    images: Sequence[Grid]
    """``uint8[H, W, C]`` each; sizes may differ."""
    labels: Answers
    """``int64[N]`` true classes; ``bool[N, L]`` for a multi-label model, whose own answers on the
    clean images are then taken for the truth."""
    groups: Sequence[str]
    """Patient or source of each image."""
    keys: Sequence[str]
    """Unique names; an image's random numbers follow from its key and the seed."""
    targets: Answers | None = None
    """For targeted attacks; each differs from its label."""

    def __len__(self) -> int:
        return len(self.images)


Progress = Callable[[AttackSpec, Part], None]
"""Called with every finished part."""


def prepare(bench: Bench, specs: Sequence[AttackSpec], attacker: Attacker | None) -> Bench:
    """The bench with what its attacks learn once. Raises ``AttackProblem`` when one of them needs
    images and there is no attacker."""
    learned = {}
    for spec in specs:
        learns = {Need.IMAGES, Need.SURROGATE}
        if not (spec.needs | spec.uses) & learns:
            continue
        if attacker is None:
            if not spec.needs & learns:
                continue
            raise AttackProblem(f"{spec.title} learns from the attacker's own images; give some")
        learned[spec.title] = spec.prepare(attacker)
    return replace(bench, prepared=learned)


def attack_parts(
    bench: Bench,
    specs: Sequence[AttackSpec],
    sources: Sources,
    *,
    crew: Crew | None = None,
    store: PartStore | None = None,
) -> Iterator[tuple[Unit, str, Part]]:
    """Every unit with its digest and its part, spec by spec. Parts that are in the store are not
    made again, and new ones are stored as soon as they are there.

    Raises ``GradientProblem`` if the model has no gradient at all, ``AttackProblem`` on arguments
    that do not fit together and on logits that are not finite.
    """
    check(sources, specs)
    size = UNIT["cpu" if bench.device == "cpu" else "cuda"]
    cuts = list(cut(specs, sources.images, sources.labels, sources.keys, sources.targets, size))
    digests = [unit_digest(bench, unit) for unit in cuts]
    known = [store is not None and store.holds(name) for name in digests]
    places = [place for place, done in enumerate(known) if not done]

    def keep(name: str, part: Part) -> None:
        if store is not None:
            store.put(name, part)

    made = (crew or Threads()).work(
        bench,
        (cuts[place] for place in places),
        lambda place, part: keep(digests[places[place]], part),
    )
    for unit, name, done in zip(cuts, digests, known, strict=True):
        part = store.get(name) if done and store is not None else next(made)
        if part is None:  # stored, but not whole
            part = attack_unit(bench, unit)
            keep(name, part)
        yield unit, name, part


def generate(
    bench: Bench,
    specs: Sequence[AttackSpec],
    sources: Sources,
    *,
    crew: Crew | None = None,
    store: PartStore | None = None,
    progress: Progress | None = None,
) -> tuple[AdversarialSet, ...]:
    """Attack every image with every spec; one set a spec, images in their order, in memory.

    The same images, keys and seed give the same set, whoever does the work.
    """
    parts: dict[str, list[tuple[Unit, Part]]] = {spec.title: [] for spec in specs}
    for unit, _, part in attack_parts(bench, specs, sources, crew=crew, store=store):
        parts[unit.spec.title].append((unit, part))
        if progress is not None:
            progress(unit.spec, part)
    digests = tuple(digest(image) for image in sources.images)
    return tuple(assemble(bench, spec, sources, digests, parts[spec.title]) for spec in specs)


def assemble(
    bench: Bench,
    spec: AttackSpec,
    sources: Sources,
    digests: tuple[str, ...],
    parts: Sequence[tuple[Unit, Part]],
    *,
    pixels: bool = True,
) -> AdversarialSet:
    """One attack's parts in the images' order; without ``pixels`` its outcome alone."""
    order = np.argsort(np.array([row for unit, _ in parts for row in unit.rows], dtype=np.intp))

    def column(of: Callable[[Part], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        return np.concatenate([of(part) for _, part in parts])[order]

    unguided: dict[Ailment, list[str]] = {}
    for unit, part in parts:
        for ailment, rows in part.findings.items():
            unguided.setdefault(ailment, []).extend(unit.keys[row] for row in rows)
    clean = column(lambda part: part.clean_predicted)
    multilabel = np.ndim(sources.labels) == 2
    images = [image for _, part in parts for image in part.pixels] if pixels else []
    return AdversarialSet(
        spec=spec,
        seed=bench.seed,
        container=bench.container,
        keys=tuple(sources.keys),
        groups=tuple(sources.groups),
        sources=digests,
        labels=clean if multilabel else np.asarray(sources.labels, dtype=np.int64),
        targets=sources.targets if spec.targeted else None,
        clean_predicted=clean,
        predicted=column(lambda part: part.predicted),
        accepted=None
        if parts[0][1].accepted is None
        else column(lambda part: np.asarray(part.accepted)),
        linf=column(lambda part: part.linf),
        l2=column(lambda part: part.l2),
        mean_abs=column(lambda part: part.mean_abs),
        l0=column(lambda part: part.l0),
        forwards=column(lambda part: part.forwards),
        backwards=column(lambda part: part.backwards),
        findings=tuple(
            Unguided(ailment, tuple(sorted(keys, key=list(sources.keys).index)))
            for ailment, keys in sorted(unguided.items())
        ),
        pixels=tuple(images[i] for i in order) if pixels else (),
    )


def bench_of(
    model: Model,
    *,
    digest: str = "",
    seed: int = 0,
    container: Container | None = PNG8,
    attempts: bool = False,
    device: str = "cpu",
    multilabel: bool = False,
) -> Bench:
    """A bench without a guard, judged by the model itself."""
    judge = ModelJudge(model, device, multilabel)
    return Bench(model, digest, judge, seed, container, attempts, device=device)


def check(sources: Sources, specs: Sequence[AttackSpec]) -> None:
    """Raises ``AttackProblem`` on sources and specs that do not fit together."""
    lengths = {
        "labels": len(sources.labels),
        "groups": len(sources.groups),
        "keys": len(sources.keys),
    }
    if sources.targets is not None:
        lengths["targets"] = len(sources.targets)
    for name, length in lengths.items():
        if length != len(sources):
            raise AttackProblem(f"{length} {name} for {len(sources)} images; give one each")
    for key, image in zip(sources.keys, sources.images, strict=True):
        if image.dtype != np.uint8 or image.ndim != 3:
            raise AttackProblem(f"{key}: {image.dtype}{list(image.shape)} is not uint8[H, W, C]")
    if len(set(sources.keys)) != len(sources.keys):
        raise AttackProblem(
            "keys repeat; every image needs its own, its random numbers follow from it"
        )
    if len({spec.title for spec in specs}) != len(specs):
        raise AttackProblem("two attacks share a title; name them apart")
    if any(spec.targeted for spec in specs):
        if sources.targets is None:
            raise AttackProblem("a targeted attack needs targets, one class an image")
        if np.equal(sources.targets, sources.labels).any():
            raise AttackProblem("a target equals its label; there would be nothing to attack")
