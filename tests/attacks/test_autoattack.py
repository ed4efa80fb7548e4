"""Auto-PGD, Square and the ensemble of them: known answers, and no member is worth more alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attacks.access import Access
from attacks.ball import Norm, size
from attacks.objective import decisions, reached
from attacks.registry import named
from attacks.spec import Scene
from attacks.white_box.apgd import apgd, checkpoints
from attacks.white_box.autoattack import in_turn

IMAGES = 24
BUDGET = {Norm.LINF: 2.5, Norm.L2: 40.0}
APGD = ("apgd_ce", "apgd_dlr", "apgd_t")
BOTH_NORMS = pytest.mark.parametrize("norm", BUDGET, ids=str)


def attacked_by(model, pixels: Tensor, labels: Tensor, name: str, **parameters):
    """``bool[N]`` fooled, the pixels and the access that counted."""
    access = Access(model, len(pixels))
    spec = named(name, parameters=parameters)
    scene = Scene(access, pixels, labels, range(len(pixels)), lambda _: None)
    x = spec.attack(scene)
    return reached(model(x), labels, targeted=spec.targeted), x, access


def right(task) -> tuple[Tensor, Tensor]:
    """Images as the model answers them, so that every success is the attack's."""
    pixels = task.pixels[:IMAGES]
    return pixels, decisions(task.model(pixels), multilabel=task.labels.ndim == 2)


def linear(pixels: Tensor) -> Tensor:
    """Two classes, ``0.01 * sum(w x)`` with weights of ±1 in a chequer: the distance of the plane
    in L-inf is the margin over ``sum|w|``."""
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    weights = (rows + columns) % 2 * 2.0 - 1
    z = 0.01 * ((pixels[..., 0] - 100) * weights).sum(dim=(1, 2)) + 1
    return torch.stack([z, torch.zeros_like(z)], dim=1)


@pytest.mark.parametrize("name", [*APGD, "square", "autoattack"])
def test_a_linear_model_falls_just_beyond_its_distance(name):
    pixels, labels = torch.full((3, 8, 8, 1), 100.0), torch.zeros(3, dtype=torch.int64)
    distance = 1 / (0.01 * 64)
    short = {"queries": 60} if name in ("square", "autoattack") else {}
    inside, _, _ = attacked_by(linear, pixels, labels, name, epsilon=distance * 0.99, **short)
    assert not inside.any()
    if name == "square":
        return  # random squares meet the chequer only in part
    beyond, _, _ = attacked_by(linear, pixels, labels, name, epsilon=distance * 1.01, **short)
    assert beyond.all()
    wide = math.sqrt(64) * distance * 1.01
    across, _, _ = attacked_by(linear, pixels, labels, name, epsilon=wide, norm=Norm.L2, **short)
    assert across.all()


def test_checkpoints_are_the_papers():
    """Section 3.1 for 100 iterations."""
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sum(checkpoints(100).values()) == 99
    assert list(checkpoints(1)) == [1]


def test_the_step_halves_where_the_loss_swings():
    """On a ridge a fixed step of 2ε jumps from side to side; Auto-PGD ends near the top."""
    top = 103.3

    def ridge(pixels: Tensor) -> Tensor:
        z = 0.02 * ((pixels - top) ** 2).mean(dim=(1, 2, 3)) + 1
        return torch.stack([z, torch.zeros_like(z)], dim=1)

    pixels, labels = torch.full((1, 4, 4, 1), 100.0), torch.zeros(1, dtype=torch.int64)
    # at the very top the gradient is 0, which is no ailment here
    x = apgd(ridge, pixels, labels, epsilon=8.0, steps=60, seeds=[0], on_finding=lambda _: None)
    torch.testing.assert_close(x, torch.full_like(x, top), rtol=0, atol=0.1)


@BOTH_NORMS
@pytest.mark.parametrize("name", APGD)
def test_passes_are_as_promised_and_more_steps_never_weaker(task, name, norm):
    pixels, labels = right(task)
    budget = {"epsilon": BUDGET[norm], "norm": norm}
    few, _, _ = attacked_by(task.model, pixels, labels, name, steps=2, **budget)
    many, _, access = attacked_by(task.model, pixels, labels, name, steps=20, **budget)
    assert many.sum() >= few.sum()
    assert many.any()
    targets = 2 if name == "apgd_t" and task.model(pixels[:1]).shape[1] == 3 else 1
    ranking = name == "apgd_t"
    assert (access.forwards <= targets * 21 + ranking).all()
    assert (access.backwards <= targets * 20).all()
    assert (access.forwards >= 21).all()


def test_until_fooled_saves_passes_and_loses_no_success(task):
    pixels, labels = right(task)
    budget = {"epsilon": BUDGET[Norm.LINF], "steps": 20}
    whole, far, _ = attacked_by(task.model, pixels, labels, "apgd_ce", **budget)
    early, near, access = attacked_by(
        task.model, pixels, labels, "apgd_ce", until_fooled=True, **budget
    )
    assert torch.equal(whole, early)
    assert (access.forwards[early] < 21).any()
    assert (access.forwards[~early] == 21).all()

    def loss(x: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(task.model(x), labels, reduction="none")

    assert (loss(far) >= loss(near) - 1e-6).all(), "the whole run keeps the strongest image"


def test_restarts_run_only_on_what_withstood(task):
    pixels, labels = right(task)
    budget = {"epsilon": BUDGET[Norm.LINF], "steps": 10}
    once, _, _ = attacked_by(task.model, pixels, labels, "apgd_ce", **budget)
    thrice, _, access = attacked_by(task.model, pixels, labels, "apgd_ce", restarts=3, **budget)
    assert (thrice | ~once).all()
    assert (access.forwards[once] == 11).all()
    assert (access.forwards[~thrice] == 33).all()


@BOTH_NORMS
@pytest.mark.parametrize("name", [*APGD, "square", "autoattack"])
def test_a_target_is_reached(three_classes, name, norm):
    pixels, labels = right(three_classes)
    wanted = (labels + 1) % 3
    fooled, x, _ = attacked_by(
        three_classes.model,
        pixels,
        wanted,
        name,
        epsilon=4 * BUDGET[norm],
        norm=norm,
        targeted=True,
        **({"queries": 300} if name == "square" else {"steps": 20}),
    )
    assert fooled.float().mean() > (0.5 if name == "square" else 0.9)
    assert (three_classes.model(x).argmax(1)[fooled] == wanted[fooled]).all()


@BOTH_NORMS
@pytest.mark.parametrize("name", [*APGD, "square", "autoattack"])
def test_findings_are_flipped(findings, name, norm):
    pixels, labels = right(findings)
    fooled, x, _ = attacked_by(
        findings.model,
        pixels,
        labels,
        name,
        epsilon=4 * BUDGET[norm],
        norm=norm,
        **({"queries": 300} if name == "square" else {"steps": 20}),
    )
    assert fooled.float().mean() > (0.4 if name == "square" else 0.9)
    assert ((findings.model(x) > 0) != labels)[fooled].any(dim=1).all()


@BOTH_NORMS
def test_white_box_is_at_least_as_strong_as_square(task, norm):
    pixels, labels = right(task)
    budget = {"epsilon": BUDGET[norm], "norm": norm}
    asked, _, access = attacked_by(task.model, pixels, labels, "square", queries=300, **budget)
    climbed, _, _ = attacked_by(task.model, pixels, labels, "apgd_ce", steps=20, **budget)
    assert climbed.sum() >= asked.sum()
    assert (access.forwards <= 300).all()
    assert (access.forwards[~asked] == 300).all()
    assert (access.forwards[asked] < 300).any(), "an image that is fooled asks no more"


@BOTH_NORMS
def test_square_gains_by_queries_and_uses_its_budget(task, norm):
    pixels, labels = right(task)
    budget = {"epsilon": 2 * BUDGET[norm], "norm": norm}
    few, _, _ = attacked_by(task.model, pixels, labels, "square", queries=10, **budget)
    many, x, _ = attacked_by(task.model, pixels, labels, "square", queries=400, **budget)
    assert many.sum() > few.sum()
    change = size(x - pixels, norm)
    assert (change > 0.8 * budget["epsilon"]).all()


@pytest.mark.parametrize("shape", [(7, 31, 3), (3, 3, 1), (40, 5, 2)])
@BOTH_NORMS
def test_square_fits_images_of_any_shape(shape, norm):
    def bright(pixels: Tensor) -> Tensor:
        z = 200 - pixels.mean(dim=(1, 2, 3))
        return torch.stack([z, torch.zeros_like(z)], dim=1)

    pixels, labels = torch.full((2, *shape), 100.0), torch.zeros(2, dtype=torch.int64)
    _, x, _ = attacked_by(
        bright, pixels, labels, "square", queries=30, epsilon=BUDGET[norm], norm=norm
    )
    assert (size(x - pixels, norm) <= BUDGET[norm] * (1 + 1e-4)).all()
    assert (bright(x)[:, 0] < bright(pixels)[:, 0]).all()


@BOTH_NORMS
def test_the_ensemble_is_at_least_as_strong_as_each_member(task, norm):
    pixels, labels = right(task)
    parameters = {"epsilon": BUDGET[norm], "norm": norm, "steps": 10, "queries": 100}
    together, _, access = attacked_by(task.model, pixels, labels, "autoattack", **parameters)
    spec = named("autoattack", parameters=parameters)
    spent = torch.zeros(IMAGES, dtype=torch.int64)
    for member in spec.members:
        alone = Access(task.model, IMAGES)
        x = member.attack(Scene(alone, pixels, labels, range(IMAGES), lambda _: None))
        inside = size(x - pixels, norm) <= BUDGET[norm] * (1 + 1e-4)
        assert (together | ~(reached(task.model(x), labels, targeted=False) & inside)).all()
        spent += alone.forwards
    first = named("apgd_ce", parameters={"epsilon": BUDGET[norm], "norm": norm, "steps": 10})
    fooled_first = reached(
        task.model(first.attack(Scene(task.model, pixels, labels, range(IMAGES)))),
        labels,
        targeted=False,
    )
    # the clean image, eleven of the first member and its verdict: later members never saw it
    assert (access.forwards[fooled_first] == 13).all()
    assert access.forwards.sum() < spent.sum()


@BOTH_NORMS
def test_all_grey_levels_reach_every_image(task, norm):
    pixels, labels = right(task)
    everything = 255.0 if norm is Norm.LINF else 255.0 * 16
    fooled, _, _ = attacked_by(
        task.model,
        pixels,
        labels,
        "autoattack",
        epsilon=everything,
        norm=norm,
        steps=20,
        queries=50,
    )
    assert fooled.all()


def test_an_image_that_is_wrong_when_clean_is_left_alone(task):
    pixels, labels = right(task)
    labels = torch.where(torch.arange(IMAGES) < 3, 1 - labels.clamp(max=1), labels)
    _, x, access = attacked_by(
        task.model, pixels, labels, "autoattack", epsilon=1.0, steps=3, queries=5
    )
    assert torch.equal(x[:3], pixels[:3])
    assert (access.forwards[:3] == 1).all()


def test_where_the_gradient_is_hidden_square_still_wins(three_classes):
    """What the ensemble has a black-box member for."""
    pixels, labels = right(three_classes)

    def hidden(x: Tensor) -> Tensor:
        return three_classes.model((x / 4).round() * 4)

    labels = hidden(pixels).argmax(1)
    parameters = {"epsilon": 10.0, "steps": 5, "queries": 200}
    members = named("autoattack", parameters=parameters).members
    scene = Scene(hidden, pixels, labels, range(IMAGES), lambda _: None)
    guided = in_turn(members[:3], scene, epsilon=10.0, norm=Norm.LINF)
    everyone = in_turn(members, scene, epsilon=10.0, norm=Norm.LINF)

    def count(x: Tensor) -> int:
        return int(reached(hidden(x), labels, targeted=False).sum())

    assert count(everyone) > count(guided)
