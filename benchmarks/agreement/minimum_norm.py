"""Attacks that look for the smallest change, beside foolbox, torchattacks and the authors' FAB.

Equal steps. Where a library has another default, both sides take the library's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import foolbox
import numpy as np
import pyautoattack.fab_pt
import torch
import torchattacks
from art.attacks.evasion import SaliencyMapMethod
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from attacks.access import at
from attacks.ball import WHITE, Norm, size
from attacks.registry import named
from attacks.spec import Scene
from benchmarks.agreement.match import Match, Run, Setting, to_grey

_STEPS = 100
_FAB_L1_STEPS = 2 * _STEPS
_SEARCH = {"steps": _STEPS, "search_steps": 6, "initial_constant": 0.1}
_WHOLE_SEARCH = {**_SEARCH, "abort_early": False}
"""They end descents by different rules; without, passes are equal."""
_EVERYTHING = 1e6
"""A budget that nothing exceeds: foolbox and pyautoattack want one."""


def _ours(method: str, parameters: dict[str, Any], setting: Setting) -> Tensor:
    spec = named(method, parameters=parameters)
    scene = Scene(
        setting.model, setting.pixels, setting.labels, range(len(setting.pixels)), lambda _: None
    )
    return spec.attack(scene)


def _foolbox(attack: Any, setting: Setting) -> Tensor:
    model = foolbox.PyTorchModel(_Single(setting), bounds=(0, 1), device=setting.unit_pixels.device)
    _, clipped, turned = attack(model, setting.unit_pixels, setting.labels, epsilons=_EVERYTHING)
    kept = torch.where(turned[:, None, None, None], clipped, setting.unit_pixels)
    return to_grey(kept)


class _Single(torch.nn.Module):
    """float32 logits, which both FAB assume, and a parameter, from which torchattacks takes the
    device."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.model = setting.unit_model
        self.device_of = torch.nn.Parameter(torch.zeros(1, device=setting.pixels.device))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).float()


def _one_by_one(run: Run, setting: Setting) -> Tensor:
    """For libraries that pass single images to the model, whose passes are counted by image."""
    rows = torch.arange(len(setting.pixels), device=setting.pixels.device)
    return torch.cat(
        [
            run(Setting(at(setting.model, row), setting.pixels[row], setting.labels[row]))
            for row in rows.split(1)
        ]
    )


def _torchattacks(attack: Callable[..., Any], setting: Setting, **parameters: Any) -> Tensor:
    adversary = attack(_Single(setting), **parameters)
    return to_grey(adversary(setting.unit_pixels, setting.labels))


def _torchattacks_fab(norm: str, setting: Setting) -> Tensor:
    return _torchattacks(
        torchattacks.FAB,
        setting,
        norm=norm,
        steps=_STEPS,
        eps=_EVERYTHING,
        n_classes=setting.classes,
    )


def _our_jsma(setting: Setting) -> Tensor:
    spec = named("jsma", parameters={"targeted": True, "direction": "up"})
    return spec.attack(
        Scene(
            setting.model,
            setting.pixels,
            (setting.labels + 1) % setting.classes,
            range(len(setting.pixels)),
            lambda _: None,
        )
    )


def _their_jsma(setting: Setting) -> Tensor:
    adversary = torchattacks.JSMA(_Single(setting), theta=1.0, gamma=0.1)
    adversary.set_mode_targeted_by_function(lambda _, labels: (labels + 1) % setting.classes)
    return to_grey(adversary(setting.unit_pixels, setting.labels))


def _art_jsma(setting: Setting) -> Tensor:
    classifier = PyTorchClassifier(
        setting.unit_model,
        torch.nn.CrossEntropyLoss(),
        tuple(setting.unit_pixels.shape[1:]),
        setting.classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    targets = ((setting.labels + 1) % setting.classes).cpu().numpy()
    attack = SaliencyMapMethod(classifier, theta=1.0, gamma=0.1, verbose=False)
    unit = attack.generate(
        setting.unit_pixels.cpu().numpy(), np.eye(setting.classes, dtype=np.float32)[targets]
    )
    return to_grey(torch.from_numpy(unit).to(setting.pixels))


def _pyautoattack(norm: str, setting: Setting) -> Tensor:
    attack = pyautoattack.fab_pt.FABAttack_PT(
        _Single(setting),
        norm=norm,
        n_iter=_STEPS,
        eps=_EVERYTHING,
        device=setting.pixels.device,
    )
    return to_grey(attack.perturb(setting.unit_pixels.clone(), setting.labels))


def _match(
    method: str,
    norm: Norm,
    parameters: dict[str, Any],
    peer: str,
    theirs: Callable[[Setting], Tensor],
    note: str = "",
    distance: Callable[[Tensor], Tensor] | None = None,
) -> Match:
    values = {"norm": norm, **parameters}
    return Match(
        attack=named(method, parameters=values).title,
        peer=peer,
        norm=norm,
        ours=partial(_ours, method, values),
        theirs=theirs,
        minimum=True,
        note=note,
        distance=distance,
    )


def _elastic(beta: float) -> Callable[[Tensor], Tensor]:
    """The distance that the rule EN chooses by, of pixels in 0 to 1."""

    def distance(change: Tensor) -> Tensor:
        return beta * size(change, Norm.L1) / WHITE + (size(change, Norm.L2) / WHITE) ** 2

    return distance


_ELASTIC = "its distance, not a norm, is compared"
_TWICE = "the peer takes two forward passes a step"
_FISTA = f"{_TWICE}, and so does ours here (FISTA)"
_FOOLBOX = f"foolbox {foolbox.__version__}"
_TORCHATTACKS = f"torchattacks {torchattacks.__version__}"
_PYAUTOATTACK = f"pyautoattack {version('pyautoattack')}"

MATCHES: tuple[Match, ...] = (
    _match(
        "cw_l2",
        Norm.L2,
        _SEARCH,
        _FOOLBOX,
        partial(
            _foolbox,
            foolbox.attacks.L2CarliniWagnerAttack(
                steps=_STEPS, binary_search_steps=6, initial_const=0.1
            ),
        ),
        "foolbox ends a batch's descent by the batch's loss, and returns a black image on failure",
    ),
    _match(
        "cw_l2",
        Norm.L2,
        {"steps": _STEPS, "search_steps": 1, "initial_constant": 0.5, "abort_early": False},
        _TORCHATTACKS,
        partial(_torchattacks, torchattacks.CW, c=1, kappa=0, steps=_STEPS, lr=0.01),
        "torchattacks has one constant, 1, and no search; it multiplies the true logit by 0, not "
        "leaving it out, which with two opposite logits halves the constant, so ours is 0.5; a "
        "pixel at 0 or 1 becomes infinite in tanh space and never moves",
    ),
    _match(
        "deepfool",
        Norm.L2,
        {"steps": 50},
        _FOOLBOX,
        partial(_foolbox, foolbox.attacks.L2DeepFoolAttack(steps=50)),
    ),
    _match(
        "deepfool",
        Norm.LINF,
        {"steps": 50},
        _FOOLBOX,
        partial(_foolbox, foolbox.attacks.LinfDeepFoolAttack(steps=50)),
    ),
    _match(
        "deepfool",
        Norm.L2,
        {"steps": 50},
        _TORCHATTACKS,
        partial(
            _one_by_one, partial(_torchattacks, torchattacks.DeepFool, steps=50, overshoot=0.02)
        ),
        "torchattacks attacks one image at a time and multiplies the whole change by 1.02 in "
        "every step",
    ),
    *(
        _match(
            "ead",
            Norm.L1,
            {**_WHOLE_SEARCH, "rule": rule, "beta": 1e-2, "accelerated": rule == "l1"},
            _FOOLBOX,
            partial(
                _foolbox,
                foolbox.attacks.EADAttack(
                    steps=_STEPS,
                    binary_search_steps=6,
                    initial_const=0.1,
                    decision_rule=theirs,
                    abort_early=False,
                ),
            ),
            f"rule {theirs}; {_FISTA if rule == 'l1' else f'{_ELASTIC}; {_TWICE}'}; foolbox "
            "returns a black image on failure",
            _elastic(1e-2) if rule == "en" else None,
        )
        for rule, theirs in (("en", "EN"), ("l1", "L1"))
    ),
    *(
        _match(
            "ead",
            Norm.L1,
            {**_WHOLE_SEARCH, "rule": rule, "beta": 1e-3, "accelerated": rule == "l1"},
            _TORCHATTACKS,
            partial(
                _torchattacks,
                attack,
                max_iterations=_STEPS,
                binary_search_steps=6,
                initial_const=0.1,
                beta=1e-3,
                abort_early=False,
            ),
            f"rule {rule.upper()}; {_FISTA if rule == 'l1' else f'{_ELASTIC}; {_TWICE}'}",
            _elastic(1e-3) if rule == "en" else None,
        )
        for rule, attack in (("l1", torchattacks.EADL1), ("en", torchattacks.EADEN))
    ),
    Match(
        attack=named("jsma", parameters={"targeted": True}).title,
        peer=f"ART {version('adversarial-robustness-toolbox')}",
        norm=Norm.L0,
        ours=_our_jsma,
        theirs=_art_jsma,
        minimum=True,
        towards_next=True,
        note="towards the next class, brightening only; ART ranks by the target's derivative alone",
    ),
    Match(
        attack=named("jsma", parameters={"targeted": True}).title,
        peer=_TORCHATTACKS,
        norm=Norm.L0,
        ours=_our_jsma,
        theirs=partial(_one_by_one, _their_jsma),
        minimum=True,
        towards_next=True,
        largest_side=32,
        note="towards the next class, brightening only; torchattacks weighs every pair of pixels, "
        "in memory that grows with the fourth power of the side, and ranks by derivative alone; "
        "small images only",
    ),
    *(
        _match(
            "fab",
            norm,
            {"steps": steps},
            _PYAUTOATTACK,
            partial(_pyautoattack, name),
            f"{_TWICE}, of {_STEPS}; ours one, of {steps}",
        )
        for norm, name, steps in (
            (Norm.LINF, "Linf", _STEPS),
            (Norm.L2, "L2", _STEPS),
            (Norm.L1, "L1", _FAB_L1_STEPS),
        )
    ),
    *(
        _match(
            "fab",
            norm,
            {"steps": _STEPS},
            _TORCHATTACKS,
            partial(_torchattacks_fab, name),
            _TWICE,
        )
        for norm, name in ((Norm.LINF, "Linf"), (Norm.L2, "L2"))
    ),
)
