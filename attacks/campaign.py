"""From clean images to everything that a guard is fitted and judged on: shifted and attacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from attacks.adversarial import AdversarialSet
from attacks.corruptions import CORRUPTIONS, corrupt
from attacks.generate import Sources, generate
from attacks.judge import Answers
from attacks.part_store import PartStore
from attacks.registry import parse
from attacks.spec import AttackSpec
from attacks.work import Bench, Part, image_seed
from detectors.judgement import Attacked
from detectors.samples import Samples

Advance = Callable[[int, int], None]
"""Called with images attacked so far, and images to attack over all attacks."""

FAMILIES = ("fgsm", "bim", "pgd", "cw_linf")  # Ma et al. 2021
FIT_EPSILONS = (1.0, 2.0, 4.0, 8.0)
EPSILONS = (0.5, 1.0, 2.0, 4.0)

FIT_SHIFTS = (
    ("faint_noise", 1),
    ("sign_noise", 1),
    ("jpeg", 1),
    ("gaussian_blur", 1),
    ("contrast_up", 1),
    ("contrast_down", 1),
    ("gaussian_noise", 1),
    ("shot_noise", 1),
    ("speckle_noise", 1),
    ("impulse_noise", 1),
    ("gaussian_noise", 2),
    ("shot_noise", 2),
    ("speckle_noise", 2),
    ("impulse_noise", 2),
    ("dead_columns", 1),
    ("dead_columns", 2),
    ("faint_noise", 2),
    ("faint_noise", 4),
    ("faint_noise", 5),
    ("sharpen", 1),
    ("sharpen", 2),
    ("burned_in_text", 1),
    ("burned_in_text", 2),
    ("collimation", 1),
    ("collimation", 2),
    ("contrast_down", 2),
    ("gamma_down", 2),
    ("brightness_down", 2),
    ("brightness_up", 2),
    ("defocus_blur", 2),
)
"""Benign shifts, with severity, that every guard is fitted to pass: mild ones, as small as an
attack of 1/255, and noise of ten times that size, which must not be taken for one. What squeezing
takes out again, noise and a detector's dead columns, is what looks most like an attack: it is here
at both mild severities; so is what else raised alarms: labels, collimators, a flatter, darker or
brighter image, one out of focus. Noise of 1 to 3 grey levels and edge enhancement stand for sites
and histories whose images are crisper."""


def shifted(clean: Samples, name: str, severity: int, seed: int) -> Samples:
    """``clean`` through one corruption."""
    return Samples(
        images=tuple(
            corrupt(name, image, severity, image_seed(seed, f"{name}:{severity}:{key}"))
            for image, key in zip(clean.images, clean.keys, strict=True)
        ),
        labels=clean.labels,
        groups=clean.groups,
        keys=clean.keys,
        origin=name,
        level=float(severity),
        sources=clean.sources,
    )


def every_shift(clean: Samples, seed: int, *, mildest: int = 5) -> tuple[Samples, ...]:
    """``clean`` through every corruption that can change it, at its ``mildest`` severities."""
    colour = any(image.shape[2] == 3 for image in clean.images)
    return tuple(
        shifted(clean, name, severity, seed)
        for name, corruption in CORRUPTIONS.items()
        if colour or not corruption.colour
        for severity in corruption.severities
        if severity <= mildest
    )


def sources_of(clean: Samples, targets: Answers | None = None) -> Sources:
    """Samples as the generator takes them."""
    return Sources(clean.images, clean.labels, clean.groups, clean.keys, targets)


def attacked(
    bench: Bench,
    clean: Samples,
    families: Sequence[str],
    epsilons: Sequence[float],
    *,
    progress: Advance | None = None,
    store: PartStore | None = None,
) -> tuple[AdversarialSet, ...]:
    """Every family at every epsilon on every image.

    Args:
        families: names, with parameters if need be: ``pgd:steps=10``.
    """
    specs = [parse(family, epsilon) for epsilon in epsilons for family in families]
    total, done = len(specs) * len(clean), 0

    def advance(_: AttackSpec, part: Part) -> None:
        nonlocal done
        done += len(part.linf)
        if progress is not None:
            progress(done, total)

    return generate(bench, specs, sources_of(clean), progress=advance, store=store)


def attacked_once(
    bench: Bench,
    clean: Samples,
    families: Sequence[str] = FAMILIES,
    epsilons: Sequence[float] = FIT_EPSILONS,
    *,
    progress: Advance,
    store: PartStore | None = None,
) -> tuple[Samples, ...]:
    """Every family on every image, the epsilons dealt out by patient: a fit needs every epsilon,
    not every epsilon on every image."""
    # of 64 bits: as floating point they would lose the last ones, which deal
    seeds = [image_seed(bench.seed, f"epsilon:{group}") for group in clean.groups]
    place = np.array(seeds, dtype=np.uint64)
    results: list[Samples] = []
    done = 0
    for i, epsilon in enumerate(epsilons):
        part = clean.rows(np.flatnonzero(place % np.uint64(len(epsilons)) == i))
        if not len(part):
            continue
        sets = attacked(bench, part, families, [epsilon], store=store)
        results += [as_samples(adversarial) for adversarial in sets]
        done += len(part)
        progress(done, len(clean))
    return tuple(results)


def attack_as_delivered(
    bench: Bench,
    clean: Samples,
    families: Sequence[str],
    epsilons: Sequence[float],
    *,
    progress: Advance,
    store: PartStore | None = None,
) -> tuple[Attacked, ...]:
    """Every family at every epsilon on every image, as 8-bit files.

    Below one grey level the source itself is the only file in reach: such an attack is made in
    float, to say what it would have done, and delivers the source.
    """
    whole = [epsilon for epsilon in epsilons if epsilon >= 1]
    below = [epsilon for epsilon in epsilons if epsilon < 1]
    total = len(clean) * len(families) * len(epsilons)
    first = len(clean) * len(families) * len(below)
    results = []
    for made in attacked(
        replace(bench, container=None), clean, families, below, store=store,
        progress=lambda done, _: progress(done, total),
    ):  # fmt: skip
        source = replace(
            clean, origin=made.spec.name, level=made.spec.epsilon or 0.0, attacked=True
        )
        results.append(Attacked(source, 0.0, made.success_rate))
    for made in attacked(
        bench, clean, families, whole, store=store,
        progress=lambda done, _: progress(first + done, total),
    ):  # fmt: skip
        results.append(Attacked(as_samples(made, clean), float(np.median(made.linf)), float("nan")))
    return tuple(results)


def as_samples(adversarial: AdversarialSet, clean: Samples | None = None) -> Samples:
    """The delivered images of one attack, from the same sources as the ``clean`` ones."""
    source = dict(zip(clean.keys, clean.sources, strict=True)) if clean and clean.sources else {}
    return Samples(
        images=tuple(np.asarray(image, dtype=np.uint8) for image in adversarial.pixels),
        labels=np.asarray(adversarial.labels, dtype=np.int64),
        groups=adversarial.groups,
        keys=adversarial.keys,
        origin=adversarial.spec.name,
        level=adversarial.spec.epsilon or 0.0,
        attacked=True,
        sources=tuple(source[key] for key in adversarial.keys) if source else (),
    )
