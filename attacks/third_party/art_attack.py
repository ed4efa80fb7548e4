"""Any evasion attack of the Adversarial Robustness Toolbox."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from attacks.ball import WHITE, Norm
from attacks.problem import AttackProblem
from attacks.spec import GreyLevels, Kind, Scene
from attacks.third_party.borrowed import BorrowedSpec, chosen, made, missing, one_by_one

_CITATION = "Nicolae et al. 2018, arXiv 1807.01069; the attack's own in its class"
_NORMS = {Norm.LINF: np.inf, Norm.L2: 2, Norm.L1: 1}


def art_attack(scene: Scene, spec: BorrowedSpec) -> Tensor:
    """``spec.attack_class`` of ``art.attacks.evasion`` on every image.

    Returns ``float32[N, H, W, C]`` in grey levels. Raises ``AttackProblem``.
    """
    try:
        from art.attacks import EvasionAttack, evasion
        from art.estimators.classification import PyTorchClassifier
    except ImportError:
        raise missing("adversarial-robustness-toolbox") from None
    kind = chosen(evasion, spec.attack_class, EvasionAttack)
    with torch.no_grad():
        classes = scene.model(scene.pixels[:0]).shape[1]
    arguments = _arguments(kind, spec)

    def one(network: nn.Module, image: Tensor, label: int) -> Tensor:
        classifier = PyTorchClassifier(
            network,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(image.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="cpu" if image.device.type == "cpu" else "gpu",
        )
        attacked = "estimator" if _takes(kind, "estimator") else "classifier"
        attack = made(kind, {attacked: classifier, **arguments})
        one_hot = np.eye(classes, dtype=np.float32)[[label]]
        found = attack.generate(image.cpu().numpy(), y=one_hot)
        return torch.from_numpy(np.asarray(found, dtype=np.float32))

    return one_by_one(scene, spec, one)


def _takes(kind: type, parameter: str) -> bool:
    return parameter in inspect.signature(kind).parameters


def _arguments(kind: type, spec: BorrowedSpec) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(spec.options)
    if spec.epsilon is not None:
        if not _takes(kind, "eps"):
            raise AttackProblem(f"ART's {kind.__name__} has no budget: use art_minimum")
        arguments["eps"] = spec.epsilon / WHITE
        if _takes(kind, "eps_step"):
            arguments.setdefault("eps_step", arguments["eps"] / 10)
        if _takes(kind, "norm") and spec.norm in _NORMS:
            arguments.setdefault("norm", _NORMS[spec.norm])
    if _takes(kind, "verbose"):
        arguments.setdefault("verbose", False)
    if _takes(kind, "targeted"):
        arguments["targeted"] = spec.targeted
    elif spec.targeted:
        raise AttackProblem(f"ART's {kind.__name__} cannot be targeted")
    return arguments


class ArtAttack(BorrowedSpec):
    """An attack of ART within a budget, its ``eps``."""

    citation: ClassVar = _CITATION

    method: Literal["art"] = "art"
    epsilon: GreyLevels

    def attack(self, scene: Scene) -> Tensor:
        return art_attack(scene, self)


class ArtMinimum(BorrowedSpec):
    """An attack of ART that seeks the smallest change."""

    citation: ClassVar = _CITATION
    kind: ClassVar = Kind.MINIMUM

    method: Literal["art_minimum"] = "art_minimum"

    def attack(self, scene: Scene) -> Tensor:
        return art_attack(scene, self)
