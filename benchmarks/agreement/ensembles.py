"""Auto-PGD, Square and AutoAttack beside the authors' code as packaged, torchattacks and ART."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from math import sqrt
from typing import Any

import numpy as np
import torch
import torchattacks
from art.attacks.evasion import AutoProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from pyautoattack.autoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from attacks.ball import WHITE, Norm
from attacks.registry import named
from attacks.spec import Scene
from benchmarks.agreement.match import Match, Run, Setting, to_grey

STEPS = 20
ART_PASSES = 31
"""Steps of one forward and one backward pass, for 20 of two forward passes and one backward."""
QUERIES = 500
LEVEL = 1.0
"""Grey levels of change: ε for L-inf, the root mean square for L2."""
SEED = 0

AUTOATTACK = f"pyautoattack {version('pyautoattack')}"
TORCHATTACKS = f"torchattacks {version('torchattacks')}"
ART = f"ART {version('adversarial-robustness-toolbox')}"
THEIR_NORM = {Norm.LINF: "Linf", Norm.L2: "L2"}


def epsilon(setting: Setting, norm: Norm) -> float:
    """The same change a pixel in both norms."""
    return LEVEL if norm is Norm.LINF else LEVEL * sqrt(setting.pixels[0].numel())


def unit_epsilon(setting: Setting, norm: Norm) -> float:
    """For pixels in 0 to 1."""
    return epsilon(setting, norm) / WHITE


def ours(method: str, norm: Norm, **parameters: Any) -> Run:
    def run(setting: Setting) -> Tensor:
        spec = named(
            method, parameters={"epsilon": epsilon(setting, norm), "norm": norm, **parameters}
        )
        seeds = setting.seeds
        return spec.attack(
            Scene(setting.model, setting.pixels, setting.labels, seeds, lambda _: None)
        )

    return run


def perturbed(attack: Callable[[Setting, Norm], Any], norm: Norm) -> Run:
    """An attack of the authors' code: images that it could not turn come back clean."""
    return lambda setting: to_grey(
        attack(setting, norm).perturb(setting.unit_pixels, setting.labels)
    )


def apgd_of(loss: str) -> Callable[[Setting, Norm], Any]:
    return lambda setting, norm: APGDAttack(
        setting.unit_model,
        n_iter=STEPS,
        norm=THEIR_NORM[norm],
        eps=unit_epsilon(setting, norm),
        seed=SEED,
        loss=loss,
        device="cpu",
    )


def targeted_apgd(setting: Setting, norm: Norm) -> Any:
    return APGDAttack_targeted(
        setting.unit_model,
        n_iter=STEPS,
        norm=THEIR_NORM[norm],
        eps=unit_epsilon(setting, norm),
        seed=SEED,
        n_target_classes=min(9, setting.classes - 1),
        device="cpu",
    )


def their_square(setting: Setting, norm: Norm) -> Any:
    return SquareAttack(
        setting.unit_model,
        norm=THEIR_NORM[norm],
        n_queries=QUERIES - 1,
        eps=unit_epsilon(setting, norm),
        seed=SEED,
        device="cpu",
    )


def torchattacks_apgd(norm: Norm) -> Run:
    def run(setting: Setting) -> Tensor:
        attack = torchattacks.APGD(
            setting.unit_model,
            norm=THEIR_NORM[norm],
            eps=unit_epsilon(setting, norm),
            steps=STEPS,
            seed=SEED,
        )
        return to_grey(attack(setting.unit_pixels, setting.labels))

    return run


def art_apgd(norm: Norm) -> Run:
    def run(setting: Setting) -> Tensor:
        limit = unit_epsilon(setting, norm)
        classifier = PyTorchClassifier(
            setting.unit_model,
            nn.CrossEntropyLoss(),
            tuple(setting.unit_pixels.shape[1:]),
            setting.classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        attack = AutoProjectedGradientDescent(
            classifier,
            norm=np.inf if norm is Norm.LINF else 2,
            eps=limit,
            eps_step=2 * limit,
            max_iter=STEPS,
            nb_random_init=1,
            loss_type="cross_entropy",
            verbose=False,
        )
        np.random.seed(SEED)
        unit = attack.generate(setting.unit_pixels.numpy(), setting.labels.numpy())
        return to_grey(torch.from_numpy(unit))

    return run


def their_ensemble(norm: Norm) -> Run:
    def run(setting: Setting) -> Tensor:
        ensemble = AutoAttack(
            setting.unit_model, norm=THEIR_NORM[norm], eps=unit_epsilon(setting, norm), seed=SEED
        )
        targets = min(9, setting.classes - 1)
        for member in (ensemble.apgd, ensemble.apgd_targeted, ensemble.fab):
            member.n_iter, member.n_restarts = STEPS, 1
        ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = targets
        ensemble.square.n_queries, ensemble.square.rescale_schedule = QUERIES - 1, True
        unit, _ = ensemble.run_standard_evaluation(setting.unit_pixels, setting.labels)
        return to_grey(unit)

    return run


def in_both_norms(
    method: str,
    peer: str,
    theirs: Callable[[Norm], Run],
    *,
    classes: int,
    note: str,
    **parameters: Any,
) -> tuple[Match, ...]:
    """``method`` beside a peer that needs at least so many ``classes``."""
    return tuple(
        Match(
            attack=method,
            peer=peer,
            norm=norm,
            ours=ours(method, norm, **parameters),
            theirs=theirs(norm),
            note=note,
            classes=lambda count: count >= classes,
        )
        for norm in THEIR_NORM
    )


MATCHES: tuple[Match, ...] = (
    *in_both_norms(
        "apgd_ce",
        AUTOATTACK,
        lambda norm: perturbed(apgd_of("ce"), norm),
        classes=2,
        steps=STEPS + 1,
        note="the peer takes one more pass of each kind than its steps, and so does ours here; it "
        "returns the last iterate that fooled, ours the one of highest loss",
    ),
    *in_both_norms(
        "apgd_ce",
        TORCHATTACKS,
        torchattacks_apgd,
        classes=2,
        steps=STEPS + 1,
        note="the peer takes one more pass of each kind than its steps, and so does ours here; it "
        "returns the last iterate that fooled, ours the one of highest loss",
    ),
    *in_both_norms(
        "apgd_ce",
        ART,
        art_apgd,
        classes=2,
        steps=ART_PASSES,
        note="the peer spends a second forward pass a step on its loss, ours has steps for as many "
        "passes; the peer counts a step as a rise "
        "only if it beats the best loss so far, not the last; it takes no single-logit model",
    ),
    *in_both_norms(
        "apgd_dlr",
        AUTOATTACK,
        lambda norm: perturbed(apgd_of("dlr"), norm),
        classes=3,
        steps=STEPS,
        note="with two classes the peer indexes a third logit and stops",
    ),
    *in_both_norms(
        "apgd_t",
        AUTOATTACK,
        lambda norm: perturbed(targeted_apgd, norm),
        classes=4,
        steps=STEPS,
        note="below four classes the peer indexes a fourth logit and stops; ours asks once more, "
        "for the clean ranking, as the peer does for its accuracy",
    ),
    *in_both_norms(
        "square",
        AUTOATTACK,
        lambda norm: perturbed(their_square, norm),
        classes=2,
        queries=QUERIES,
        note="the peer draws one window for the whole batch and never reaches the last row and "
        "column; its first query is not in n_queries, which is set one lower",
    ),
    *in_both_norms(
        "autoattack",
        AUTOATTACK,
        their_ensemble,
        classes=4,
        steps=STEPS,
        queries=QUERIES,
        note="below four classes the peer's targeted member stops; its FAB runs once for each "
        "target class, ours once over all of them",
    ),
)
