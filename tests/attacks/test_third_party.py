"""Attacks of other libraries run as ours: counted, seeded, mended; mistakes are named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attacks.access import Access
from attacks.ball import size
from attacks.objective import reached
from attacks.problem import AttackProblem
from attacks.registry import UnknownAttack, from_document, parse
from attacks.spec import Kind, Scene, carry_out

BUDGETED = (
    "foolbox:attack=LinfProjectedGradientDescentAttack,eps=4/255,steps=5",
    "foolbox:attack=L2ProjectedGradientDescentAttack,norm=l2,eps=40,steps=5",
    "art:attack=ProjectedGradientDescentPyTorch,eps=4/255,max_iter=5,num_random_init=1",
)
SMALLEST = (
    "foolbox_minimum:attack=L2DeepFoolAttack,norm=l2,steps=20",
    "art_minimum:attack=DeepFool,norm=l2,max_iter=20",
)


def scene_of(task, images: int = 6) -> Scene:
    access = Access(task.model, images)
    return Scene(access, task.pixels[:images], task.labels[:images], range(images), lambda _: None)


@pytest.mark.parametrize("text", BUDGETED + SMALLEST)
def test_an_attack_of_a_library_keeps_our_promises(three_classes, text):
    spec = parse(text)
    scene = scene_of(three_classes)
    attacked = carry_out(spec, scene)
    assert attacked.shape == scene.pixels.shape
    assert attacked.isfinite().all()
    assert attacked.min() >= 0
    assert attacked.max() <= 255
    assert (scene.model.forwards > 0).all()
    if spec.epsilon is not None:
        assert (size(attacked - scene.pixels, spec.norm) <= spec.epsilon * (1 + 1e-4)).all()
    if spec.kind is Kind.MINIMUM:
        turned = reached(three_classes.model(attacked), scene.labels, targeted=False)
        assert turned.any()
        assert torch.equal(attacked[~turned], scene.pixels[~turned])
    alone = carry_out(
        spec,
        replace(
            scene,
            model=Access(three_classes.model, 1),
            pixels=scene.pixels[2:3],
            labels=scene.labels[2:3],
            seeds=[2],
        ),
    )
    torch.testing.assert_close(alone, attacked[2:3], rtol=0, atol=1e-3)


def test_a_library_draws_from_generators_that_are_given_back(three_classes):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    carry_out(parse(BUDGETED[0]), scene_of(three_classes, 1))
    assert torch.equal(torch.rand(1), expected)


def test_a_black_failure_comes_back_as_the_source(three_classes):
    """foolbox's CW answers zeros where it fails."""
    hopeless = parse(
        "foolbox_minimum:attack=L2CarliniWagnerAttack,norm=l2,steps=1,binary_search_steps=1,"
        "initial_const=1e-9"
    )
    scene = scene_of(three_classes)
    right = three_classes.model(scene.pixels).argmax(1) == scene.labels
    attacked = carry_out(hopeless, scene)
    assert torch.equal(attacked[right], scene.pixels[right])


def test_targets_are_reached_or_refused(three_classes):
    goal = (three_classes.labels + 1) % 3
    scene = replace(scene_of(three_classes), labels=goal[:6])
    spec = parse("foolbox_minimum:attack=L2CarliniWagnerAttack,norm=l2,steps=50,initial_const=10")
    attacked = carry_out(spec.model_copy(update={"targeted": True}), scene)
    moved = (attacked != scene.pixels).flatten(1).any(dim=1)
    assert moved.any()
    assert reached(three_classes.model(attacked), scene.labels, targeted=True)[moved].all()
    blunt = parse("art_minimum:attack=NewtonFool,max_iter=2").model_copy(update={"targeted": True})
    with pytest.raises(AttackProblem, match="NewtonFool cannot be targeted"):
        carry_out(blunt, scene)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("foolbox:attack=Nonsense,eps=1", "no attack Nonsense; it has .*LinfDeepFoolAttack"),
        ("foolbox:attack=Model,eps=1", "no attack Model"),
        ("foolbox:attack=LinfDeepFoolAttack,eps=1,stepps=3", "refuses its options"),
        ("art:attack=DeepFool,eps=1", "DeepFool has no budget: use art_minimum"),
    ],
)
def test_mistakes_are_named(three_classes, text, sentence):
    with pytest.raises(AttackProblem, match=sentence):
        carry_out(parse(text), scene_of(three_classes, 1))


def test_findings_are_refused(findings):
    with pytest.raises(AttackProblem, match="multi-label"):
        carry_out(parse(BUDGETED[0]), scene_of(findings, 1))


def test_which_attack_must_be_said_and_options_survive_json():
    with pytest.raises(UnknownAttack, match="attack"):
        parse("foolbox:eps=1")
    spec = parse(BUDGETED[2])
    assert from_document(spec.model_dump(mode="json")) == spec
    assert spec.title == "art-ProjectedGradientDescentPyTorch-4"
