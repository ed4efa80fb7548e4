"""Gradient-step attacks beside foolbox, torchattacks and adv-lib.

Steps and step sizes are equal on both sides. Budgets in L2 and L1 grow with the image, so that one
table serves models of every input size: ``ε_2 = r sqrt(D)`` and ``ε_1 = r D`` for a root mean
square, respectively mean, of r grey levels over D components.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import eagerpy
import foolbox
import torch
import torchattacks
from torch import Tensor, nn

from attacks.ball import Norm
from attacks.beyond_noise.sparse import sparse
from attacks.white_box.bim import bim
from attacks.white_box.cw_linf import cw_linf
from attacks.white_box.dim import dim
from attacks.white_box.fgsm import fgsm
from attacks.white_box.mim import mim
from attacks.white_box.pgd import pgd
from attacks.white_box.tim import tim
from benchmarks.agreement.match import Match, Run, Setting, to_grey

BUDGETS = (1.0, 4.0)
"""Grey levels, L-inf."""
STEPS = 20
STEP_FRACTION = 0.1
FOOLBOX = f"foolbox {version('foolbox')}"
TORCHATTACKS = f"torchattacks {version('torchattacks')}"
SPARSE_STEPS = 50
DRAWS = 5
MEAN = f"mean of {DRAWS} draws"


class FoolboxMargin(foolbox.attacks.LinfProjectedGradientDescentAttack):
    """foolbox's loop with the margin in place of the cross-entropy: it ships no CW-Linf."""

    def get_loss_fn(
        self, model: foolbox.Model, labels: eagerpy.Tensor
    ) -> Callable[[eagerpy.Tensor], eagerpy.Tensor]:
        def margin(inputs: eagerpy.Tensor) -> eagerpy.Tensor:
            logits = model(inputs)
            others = logits.raw.scatter(1, labels.raw[:, None], float("-inf")).amax(dim=1)
            return eagerpy.astensor(others).sum() - logits[range(len(logits)), labels].sum()

        return margin


class _ThreeChannels(nn.Module):
    """A model of one channel as one of three that takes their mean. Three equal channels have
    equal gradients and stay equal: the attack is the same."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.mean(dim=1, keepdim=True))


def _ours(attack: Callable[..., Tensor], seeded: bool = False, **parameters: Any) -> Run:
    def run(setting: Setting) -> Tensor:
        seeds = {"seeds": setting.seeds} if seeded else {}
        return attack(
            setting.model,
            setting.pixels,
            setting.labels,
            on_finding=lambda _: None,
            **parameters,
            **seeds,
        )

    return run


def _ours_stepping(attack: Callable[..., Tensor], epsilon: float, **parameters: Any) -> Run:
    return _ours(attack, epsilon=epsilon, step=STEP_FRACTION * epsilon, steps=STEPS, **parameters)


def _foolbox(attack: foolbox.Attack, setting: Setting, epsilon: float | None) -> Tensor:
    """``epsilon`` in grey levels; None for attacks of smallest change."""
    peer = foolbox.PyTorchModel(
        setting.unit_model.eval(), bounds=(0, 1), device=setting.pixels.device
    )
    criterion = foolbox.criteria.Misclassification(setting.labels)
    budget = {} if epsilon is None else {"epsilon": epsilon / 255}
    return to_grey(attack.run(peer, setting.unit_pixels, criterion, **budget))


def _torchattacks(
    kind: type[torchattacks.attack.Attack],
    epsilon: float,
    three_channels: bool = False,
    **parameters: Any,
) -> Run:
    def run(setting: Setting) -> Tensor:
        model, images = setting.unit_model.eval(), setting.unit_pixels
        repeated = three_channels and images.shape[1] == 1
        if repeated:
            model, images = _ThreeChannels(model), images.expand(-1, 3, -1, -1).contiguous()
        alpha = STEP_FRACTION * epsilon / 255
        attack = kind(model, eps=epsilon / 255, alpha=alpha, steps=STEPS, **parameters)
        torch.manual_seed(setting.draw)
        attacked = attack(images, setting.labels)
        return to_grey(attacked[:, :1] if repeated else attacked)

    return run


def _linf(epsilon: float) -> tuple[Match, ...]:
    iterated = {"rel_stepsize": STEP_FRACTION, "steps": STEPS, "random_start": False}

    def match(
        name: str, ours: Run, attack: foolbox.Attack, note: str = "", draws: int = 1
    ) -> Match:
        return Match(
            f"{name}-{epsilon:g}",
            FOOLBOX,
            Norm.LINF,
            ours,
            lambda setting: _foolbox(attack, setting, epsilon),
            note=note,
            draws=draws,
        )

    def match_torchattacks(
        name: str, ours: Run, theirs: Run, note: str = "", draws: int = 1
    ) -> Match:
        return Match(
            f"{name}-{epsilon:g}", TORCHATTACKS, Norm.LINF, ours, theirs, note=note, draws=draws
        )

    return (
        match(
            "fgsm",
            _ours(fgsm, epsilon=epsilon),
            foolbox.attacks.LinfFastGradientAttack(random_start=False),
        ),
        match(
            "bim",
            _ours_stepping(bim, epsilon),
            foolbox.attacks.LinfBasicIterativeAttack(**iterated),
        ),
        match(
            "pgd",
            _ours_stepping(pgd, epsilon, seeded=True),
            foolbox.attacks.LinfProjectedGradientDescentAttack(
                rel_stepsize=STEP_FRACTION, steps=STEPS
            ),
            f"random starts differ; {MEAN}",
            DRAWS,
        ),
        match(
            "cw_linf",
            _ours_stepping(cw_linf, epsilon),
            FoolboxMargin(**iterated),
            "foolbox has no CW-Linf; this is its PGD loop on the margin",
        ),
        match_torchattacks(
            "mim",
            _ours_stepping(mim, epsilon),
            _torchattacks(torchattacks.MIFGSM, epsilon, decay=1.0),
            "foolbox's MI-FGSM adds up signs, not gradients over their L1 norm (equation 6)",
        ),
        match_torchattacks(
            "dim",
            _ours_stepping(dim, epsilon, seeded=True),
            _torchattacks(torchattacks.DIFGSM, epsilon, decay=1.0),
            "torchattacks draws once for the whole batch, never the full size and never a place at "
            f"the far edge; {MEAN}",
            DRAWS,
        ),
        match_torchattacks(
            "tim",
            _ours_stepping(tim, epsilon),
            _torchattacks(
                torchattacks.TIFGSM, epsilon, three_channels=True, decay=1.0, diversity_prob=0.0
            ),
            "torchattacks takes three channels only; a grey image is given three times",
        ),
    )


def _of_size(norm: Norm, level: float, attack: foolbox.Attack, note: str) -> Match:
    def epsilon_of(setting: Setting) -> float:
        components = setting.pixels[0].numel()
        return float(level * (components**0.5 if norm is Norm.L2 else components))

    def ours(setting: Setting) -> Tensor:
        epsilon = epsilon_of(setting)
        return _ours_stepping(pgd, epsilon, seeded=True, norm=norm)(setting)

    def theirs(setting: Setting) -> Tensor:
        return _foolbox(attack, setting, epsilon_of(setting))

    note = f"{note}; {MEAN}"
    return Match(f"pgd-{norm}-r{level:g}", FOOLBOX, norm, ours, theirs, note=note, draws=DRAWS)


def _few_pixels(pixels: int) -> Match:
    def ours(setting: Setting) -> Tensor:
        return _ours(sparse, seeded=True, epsilon=float(pixels), steps=SPARSE_STEPS)(setting)

    def theirs(setting: Setting) -> Tensor:
        attack = foolbox.attacks.L0FMNAttack(steps=SPARSE_STEPS)
        found = _foolbox(attack, setting, None)
        # 1 / 255 has no exact float: what moved by less than this has not moved
        moved = ((found - setting.pixels).abs() > 1e-3).any(dim=3)
        affordable = (moved.flatten(1).sum(dim=1) <= pixels).view(-1, 1, 1)
        return torch.where((moved & affordable)[..., None], found, setting.pixels)

    return Match(
        f"sparse-{pixels}",
        FOOLBOX,
        Norm.L0,
        ours,
        theirs,
        note="foolbox has no attack at an L0 budget: its smallest changes (FMN, of components, not "
        "pixels) count where they are small enough",
    )


MATCHES: tuple[Match, ...] = (
    *(match for epsilon in BUDGETS for match in _linf(epsilon)),
    *(
        _of_size(
            Norm.L2,
            level,
            foolbox.attacks.L2ProjectedGradientDescentAttack(
                rel_stepsize=STEP_FRACTION, steps=STEPS
            ),
            "random starts differ",
        )
        for level in (0.5, 2.0)
    ),
    *(
        _of_size(
            Norm.L1,
            level,
            foolbox.attacks.SparseL1DescentAttack(
                rel_stepsize=STEP_FRACTION, steps=STEPS, quantile=0.95, random_start=True
            ),
            "same share of components a step; foolbox's L1PGD follows the gradient itself and is "
            "far weaker",
        )
        for level in (0.25, 1.0)
    ),
    *(_few_pixels(pixels) for pixels in (2, 8)),
)
