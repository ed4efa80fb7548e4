"""Our attacks are the field's attacks: same parameters, same pixels as foolbox."""

from __future__ import annotations

from collections.abc import Callable

import eagerpy as ep
import foolbox
import pytest
import torch
from torch import Tensor

from attacks.objective import reached
from attacks.white_box.bim import bim
from attacks.white_box.cw_linf import cw_linf
from attacks.white_box.fgsm import fgsm
from attacks.white_box.pgd import pgd


class FoolboxMargin(foolbox.attacks.LinfProjectedGradientDescentAttack):
    """foolbox's loop with the margin instead of the cross-entropy."""

    def get_loss_fn(self, model, labels):
        def margin(inputs):
            logits = model(inputs)
            rows = range(len(logits))
            others = logits.raw.scatter(1, labels.raw[:, None], float("-inf")).amax(dim=1)
            return ep.astensor(others).sum() - logits[rows, labels].sum()

        return margin


def of_foolbox(attack: foolbox.Attack, task, epsilon: float) -> Tensor:
    peer = foolbox.PyTorchModel(task.model, bounds=(0, 255), device="cpu")
    criterion = foolbox.criteria.Misclassification(task.labels)
    _, clipped, _ = attack(peer, task.pixels, criterion, epsilons=epsilon)
    return clipped


def success(task, pixels: Tensor) -> float:
    right = task.model(task.pixels).argmax(1) == task.labels
    fooled = reached(task.model(pixels), task.labels, targeted=False)
    return float(fooled[right].float().mean())


def linf(task, pixels: Tensor) -> Tensor:
    return (pixels - task.pixels).abs().flatten(1).amax(1)


ITERATED = {"rel_stepsize": 0.1, "steps": 20, "random_start": False}
SAME: dict[str, tuple[foolbox.Attack, Callable[..., Tensor]]] = {
    "fgsm": (
        foolbox.attacks.LinfFastGradientAttack(random_start=False),
        lambda task, ε: fgsm(task.model, task.pixels, task.labels, epsilon=ε),
    ),
    "bim": (
        foolbox.attacks.LinfBasicIterativeAttack(**ITERATED),
        lambda task, ε: bim(task.model, task.pixels, task.labels, epsilon=ε, step=ε / 10, steps=20),
    ),
    "cw_linf": (
        FoolboxMargin(**ITERATED),
        lambda task, ε: cw_linf(
            task.model, task.pixels, task.labels, epsilon=ε, step=ε / 10, steps=20
        ),
    ),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("epsilon", [0.5, 4.0])
def test_seed_free_attacks_give_the_pixels_that_foolbox_gives(task, name, epsilon):
    attack, ours = SAME[name]
    theirs, mine = of_foolbox(attack, task, epsilon), ours(task, epsilon)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3)
    torch.testing.assert_close(linf(task, mine), linf(task, theirs), rtol=0, atol=1e-3)
    assert success(task, mine) == pytest.approx(success(task, theirs), abs=0.02)


def test_the_comparison_is_about_attacks_that_sometimes_succeed(task):
    # if all or none succeeded, equal success would say nothing
    assert 0.1 < success(task, SAME["bim"][1](task, 4.0)) < 0.95


def test_pgd_succeeds_as_often_as_foolbox_from_other_random_starts(task):
    theirs = of_foolbox(
        foolbox.attacks.LinfProjectedGradientDescentAttack(rel_stepsize=0.1, steps=20), task, 4.0
    )
    mine = pgd(
        task.model,
        task.pixels,
        task.labels,
        epsilon=4.0,
        step=0.4,
        steps=20,
        seeds=range(len(task.pixels)),
    )
    assert success(task, mine) == pytest.approx(success(task, theirs), abs=0.02)
    torch.testing.assert_close(linf(task, mine), linf(task, theirs), rtol=0, atol=1e-3)
