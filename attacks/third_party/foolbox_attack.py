"""Any attack of foolbox."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from attacks.ball import WHITE
from attacks.spec import GreyLevels, Kind, Scene
from attacks.third_party.borrowed import BorrowedSpec, chosen, made, missing, one_by_one

_CITATION = "Rauber et al. 2020, doi 10.21105/joss.02607; the attack's own in its class"


def foolbox_attack(scene: Scene, spec: BorrowedSpec) -> Tensor:
    """``spec.attack_class`` of ``foolbox.attacks`` on every image.

    Returns ``float32[N, H, W, C]`` in grey levels. Raises ``AttackProblem``.
    """
    try:
        import foolbox
        from foolbox.models.pytorch import PyTorchModel
    except ImportError:
        raise missing("foolbox") from None
    kind = chosen(foolbox.attacks, spec.attack_class, foolbox.attacks.base.Attack)
    attack = made(kind, dict(spec.options))
    budget = {} if spec.epsilon is None else {"epsilon": spec.epsilon / WHITE}

    def one(network: nn.Module, image: Tensor, label: int) -> Tensor:
        model = PyTorchModel(network, bounds=(0, 1), device=image.device)
        aim = torch.tensor([label], device=image.device)
        criterion = (
            foolbox.criteria.TargetedMisclassification(aim)
            if spec.targeted
            else foolbox.criteria.Misclassification(aim)
        )
        found: Tensor = attack.run(model, image, criterion, **budget)
        return found

    return one_by_one(scene, spec, one)


class FoolboxAttack(BorrowedSpec):
    """An attack of foolbox within a budget."""

    citation: ClassVar = _CITATION

    method: Literal["foolbox"] = "foolbox"
    epsilon: GreyLevels

    def attack(self, scene: Scene) -> Tensor:
        return foolbox_attack(scene, self)


class FoolboxMinimum(BorrowedSpec):
    """An attack of foolbox that seeks the smallest change."""

    citation: ClassVar = _CITATION
    kind: ClassVar = Kind.MINIMUM

    method: Literal["foolbox_minimum"] = "foolbox_minimum"

    def attack(self, scene: Scene) -> Tensor:
        return foolbox_attack(scene, self)
