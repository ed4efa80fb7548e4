"""Lists of attacks by name: what a paper ran, what a standard asks for, everything there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from attacks.registry import category, methods, named, needs_epsilon, parse, smoke
from attacks.spec import AttackSpec, Need

PAPER = ("fgsm", "bim", "pgd", "cw_linf")  # Ma et al. 2021

# Beside each method's defaults: its other norms. An L-inf budget of one grey level has an L2 norm
# of sqrt(pixels) grey levels, 224 on 224 x 224; half of that is as hard to see.
OTHER_NORMS = (
    "pgd:norm=l2,eps=112",
    "pgd:norm=l1,eps=8000",
    "deepfool:norm=linf",
    "fab:norm=l2",
    "fab:norm=l1",
    "square:norm=l2,eps=448",
    "hopskipjump:norm=linf",
    "apgd_ce:norm=l2,eps=112",
)


def _each(names: Sequence[str], epsilons: Sequence[float]) -> list[AttackSpec]:
    specs = [named(name, epsilon) for epsilon, name in product(epsilons, names)]
    return list({spec.title: spec for spec in specs}.values())


def _paper(epsilons: Sequence[float]) -> list[AttackSpec]:
    return _each(PAPER, epsilons)


def _autoattack(epsilons: Sequence[float]) -> list[AttackSpec]:
    return _each(["autoattack"], epsilons)


def _smoke(epsilons: Sequence[float]) -> list[AttackSpec]:
    return [smoke(name, epsilons[0]) for name in methods()]


def _full(epsilons: Sequence[float]) -> list[AttackSpec]:
    budgeted = [name for name, method in methods().items() if needs_epsilon(method)]
    others = [name for name in methods() if name not in budgeted]
    specs = [*_each(budgeted, epsilons), *_each(others, epsilons[:1])]
    specs += [parse(text) for text in OTHER_NORMS if parse(text).method in methods()]
    return list({spec.title: spec for spec in specs}.values())


PRESETS: dict[str, Callable[[Sequence[float]], list[AttackSpec]]] = {
    "paper": _paper,
    "autoattack": _autoattack,
    "smoke": _smoke,
    "full": _full,
}
"""From epsilons in grey levels to the preset's attacks."""


def possible(specs: Sequence[AttackSpec], *, gradients: bool, aware: bool) -> list[AttackSpec]:
    """Those of a preset that can run: guard-aware ones only with a guard to be aware of, those
    that follow gradients only where there are some, transfer only from a surrogate that was named.
    """
    kept = []
    for spec in specs:
        if category(type(spec)) == "guard_aware" and not aware:
            continue
        if Need.GRADIENTS in spec.needs and not gradients:
            continue
        if Need.SURROGATE in spec.needs and not getattr(spec, "surrogate", ""):
            continue
        kept.append(spec)
    return kept
