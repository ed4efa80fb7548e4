"""What every attack promises, and what linear models let us compute by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from attacks.gradient import refuse
from attacks.objective import CrossEntropy, Margin, reached
from attacks.registry import UnknownAttack, from_document, named
from attacks.spec import Scene, carry_out
from attacks.white_box.bim import bim
from attacks.white_box.cw_linf import cw_linf
from attacks.white_box.fgsm import fgsm
from attacks.white_box.pgd import pgd

SIGNED = ("fgsm", "bim", "pgd", "cw_linf", "cw_linf_released")
GREY = hnp.arrays("uint8", st.tuples(st.integers(1, 3), st.just(4), st.just(5), st.just(1)))


def carried_out(spec, model, pixels, labels, seeds, on_finding=refuse) -> Tensor:
    return carry_out(spec, Scene(model, pixels, labels, seeds, on_finding))


class Linear:
    """Logits ``W x + b``, whose margins move by known amounts."""

    def __init__(self, weights: Tensor, bias: Tensor) -> None:
        self.weights, self.bias = weights, bias

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1).double() @ self.weights.T + self.bias


def linear(classes: int = 2, features: int = 20) -> Linear:
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(classes, features, generator=generator, dtype=torch.float64)
    return Linear(weights / 50, torch.zeros(classes, dtype=torch.float64))


def margin(logits: Tensor) -> Tensor:
    return logits[:, 0] - logits[:, 1]


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 8.0])
def test_on_a_linear_model_the_margin_moves_by_epsilon_times_the_l1_norm(epsilon):
    model = linear()
    pixels = torch.full((3, 4, 5, 1), 128.0)
    labels = torch.zeros(3, dtype=torch.int64)
    expected = epsilon * (model.weights[0] - model.weights[1]).abs().sum()
    for attacked in (
        fgsm(model, pixels, labels, epsilon=epsilon),
        bim(model, pixels, labels, epsilon=epsilon, step=epsilon / 10, steps=20),
        cw_linf(model, pixels, labels, epsilon=epsilon, step=epsilon / 10, steps=20),
        pgd(model, pixels, labels, epsilon=epsilon, step=epsilon / 5, steps=20, seeds=range(3)),
    ):
        moved = margin(model(pixels)) - margin(model(attacked))
        torch.testing.assert_close(moved, expected.expand(3), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SIGNED)
def test_a_targeted_attack_reaches_its_target_where_the_budget_allows(name):
    model = linear(classes=3)
    pixels = torch.full((4, 4, 5, 1), 128.0)
    predicted = model(pixels).argmax(1)
    targets = (predicted + 1) % 3
    spec = named(name, 100.0).model_copy(update={"targeted": True})
    attacked = carried_out(spec, model, pixels, targets, range(4))
    assert reached(model(attacked), targets, targeted=True).all()


def test_the_true_class_is_left_whatever_is_predicted_and_predicted_labels_on_request():
    model = linear()
    pixels = torch.full((1, 4, 5, 1), 128.0)
    wrong = 1 - model(pixels).argmax(1)
    of_true = carried_out(named("cw_linf", 2.0), model, pixels, wrong, [0])
    of_predicted = carried_out(named("bim", 2.0), model, pixels, wrong, [0])
    sign = 1 if wrong == 0 else -1
    assert (sign * margin(model(of_true))).item() < (sign * margin(model(pixels))).item()
    assert (sign * margin(model(of_predicted))).item() > (sign * margin(model(pixels))).item()


@settings(max_examples=25, deadline=None)
@given(GREY, st.floats(0, 255, width=32), st.sampled_from(SIGNED), st.booleans())
def test_every_attack_stays_in_the_ball_and_in_the_grey_range(grey, epsilon, name, targeted):
    pixels = torch.from_numpy(grey).float()
    before = pixels.clone()
    spec = named(name, epsilon).model_copy(update={"targeted": targeted})
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    attacked = carried_out(spec, linear(), pixels, labels, range(len(pixels)))
    assert attacked.dtype == torch.float32
    assert not attacked.requires_grad
    assert (attacked - pixels).abs().max() <= epsilon + 1e-4
    assert attacked.min() >= 0
    assert attacked.max() <= 255
    assert torch.equal(pixels, before), "the attack wrote into its input"
    if epsilon == 0:
        assert torch.equal(attacked, pixels)


@pytest.mark.parametrize("name", SIGNED)
def test_an_image_is_attacked_the_same_whatever_shares_its_batch(task, name):
    spec = named(name, 4.0)
    if name == "pgd":
        spec = spec.model_copy(update={"restarts": 3})
    pixels, labels = task.pixels[:14], task.labels[:14]
    unguided: dict[int, set[int]] = {1: set(), 7: set()}

    def attack(start: int, size: int) -> Tensor:
        rows = range(start, start + size)
        return carried_out(
            spec,
            task.model,
            pixels[start : start + size],
            labels[start : start + size],
            rows,
            on_finding=lambda finding: unguided[size].update(rows[i] for i in finding.rows),
        )

    alone = torch.cat([attack(start, 1) for start in range(0, 14, 1)])
    together = torch.cat([attack(start, 7) for start in range(0, 14, 7)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-4)
    assert unguided[1] == unguided[7]


def loss(task, pixels: Tensor) -> float:
    return float(CrossEntropy()(task.model(pixels), task.labels).mean())


def fooled(task, pixels: Tensor) -> Tensor:
    return reached(task.model(pixels), task.labels, targeted=False)


def test_more_steps_and_more_restarts_are_never_weaker(task):
    arguments = {"epsilon": 4.0, "step": 0.4}
    losses = [
        loss(task, bim(task.model, task.pixels, task.labels, steps=n, **arguments))
        for n in (1, 5, 20)
    ]
    assert losses == sorted(losses)
    once, thrice = (
        pgd(
            task.model,
            task.pixels,
            task.labels,
            steps=3,
            restarts=restarts,
            seeds=range(len(task.pixels)),
            **arguments,
        )
        for restarts in (1, 3)
    )
    assert (fooled(task, thrice) | ~fooled(task, once)).all()
    assert fooled(task, thrice).sum() >= fooled(task, once).sum()


def test_the_margin_attack_is_as_strong_as_the_cross_entropy_one(three_classes):
    task = three_classes
    arguments = {"epsilon": 4.0, "step": 0.4, "steps": 20}
    by_margin = cw_linf(task.model, task.pixels, task.labels, **arguments)
    by_loss = bim(task.model, task.pixels, task.labels, **arguments)
    assert fooled(task, by_margin).sum() >= fooled(task, by_loss).sum() - 2


def test_margins_by_hand():
    logits = torch.tensor([[-1.0, -4.0, -2.0]])
    first = torch.tensor([0])
    assert Margin()(logits, first).item() == -1.0
    assert Margin(kappa=100)(logits, first).item() == -101.0
    assert Margin(targeted=True)(logits, torch.tensor([1])).item() == -3.0
    assert Margin()(logits, torch.tensor([1])).item() == 0.0, "won: the attack rests"
    # the released code's zero in place of the true logit beats every negative other
    assert Margin(kappa=100, masked=False)(logits, first).item() == -99.0


def test_specs_survive_json_and_refuse_what_they_do_not_know():
    for name in SIGNED:
        spec = named(name, 0.5)
        assert from_document(spec.model_dump(mode="json")) == spec
    with pytest.raises(UnknownAttack, match="choose from"):
        named("deepfoul", 1.0)
    with pytest.raises(UnknownAttack, match="epsilon"):
        named("pgd", -1.0)
