"""Attacks that look for the smallest change, where the smallest change is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.access import Access
from attacks.ball import Norm, size
from attacks.gradient import Ailment, GradientProblem
from attacks.minimum import DUAL
from attacks.objective import gaps, reached
from attacks.registry import named
from attacks.spec import AttackSpec, Scene
from attacks.white_box.fab import to_plane

SHAPE = (8, 8, 1)
SPECS = [
    named("deepfool", parameters={"norm": "l2"}),
    named("deepfool", parameters={"norm": "linf"}),
    *(named("fab", parameters={"norm": norm, "steps": 20}) for norm in ("linf", "l2", "l1")),
    named("cw_l2", parameters={"steps": 100, "search_steps": 7, "learning_rate": 0.005}),
    named(
        "ead",
        parameters={"rule": "l1", "steps": 100, "search_steps": 7, "initial_constant": 0.01},
    ),
    named("jsma", parameters={"epsilon": 40, "at_once": 1}),
]
CLOSE = {"deepfool": 1.03, "fab": 1.01, "cw_l2": 1.15, "ead": 1.6}
"""How many times the smallest change is allowed. Carlini and Wagner's attack follows the class of
the smallest gap, which need not be the nearest; the elastic net has an L2 term as well."""


class Linear(nn.Module):
    """Logits ``[N, K]`` linear in the pixels."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        weights = torch.randn(classes, 64, generator=torch.Generator().manual_seed(seed)) / 50
        self.register_buffer("weights", weights)

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.flatten(1) - 128) @ self.weights.T


def grey(model: Linear, count: int = 6) -> Tensor:
    """Images whose nearest boundary is neither at hand nor, in any norm, out of the grey range:
    nothing but the hyperplane decides what the smallest change is."""
    rng = np.random.default_rng(3)
    pixels = torch.from_numpy(rng.integers(100, 157, (400, *SHAPE)).astype(np.float32))
    logits = model(pixels)
    nearest = gaps(logits, logits.argmax(1)).amin(dim=1)
    return pixels[((nearest > 2) & (nearest < 5)).nonzero()[:count, 0]]


def attack(spec: AttackSpec, model, pixels: Tensor, labels: Tensor, **changes) -> Tensor:
    spec = spec.model_copy(update=changes)
    access = Access(model, len(pixels))
    return spec.attack(Scene(access, pixels, labels, range(len(pixels))))


def smallest_change(
    model: Linear, pixels: Tensor, labels: Tensor, norm: Norm, targets: Tensor | None = None
) -> Tensor:
    """``[N]``: ``min_j gap_j / ||∇gap_j||_dual``, the distance to the nearest hyperplane."""
    logits, weights = model(pixels), model.weights
    lengths = []
    for row, label in enumerate(labels.tolist()):
        others = [k for k in range(len(weights)) if k != label]
        if targets is not None:
            others = [int(targets[row])]
        lengths.append(
            min(
                (logits[row, label] - logits[row, k]).item()
                / size((weights[label] - weights[k]).view(1, *SHAPE), DUAL[norm]).item()
                for k in others
            )
        )
    return torch.tensor(lengths)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("spec", SPECS[:-1], ids=lambda spec: spec.title)
def test_a_linear_model_is_crossed_at_its_nearest_boundary(spec, classes):
    model = Linear(classes)
    pixels = grey(model)
    labels = model(pixels).argmax(1)
    attacked = attack(spec, model, pixels, labels)
    assert reached(model(attacked), labels, targeted=False).all()
    smallest = smallest_change(model, pixels, labels, spec.norm)
    ratio = size(attacked - pixels, spec.norm) / smallest
    assert (ratio >= 1 - 1e-3).all()
    assert (ratio <= CLOSE[spec.method]).all(), ratio


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.title)
def test_a_target_of_two_is_reached_as_directly_as_the_other_class_is_left(spec):
    model = Linear(2)
    pixels = grey(model)
    labels = model(pixels).argmax(1)
    away = attack(spec, model, pixels, labels)
    towards = attack(spec, model, pixels, 1 - labels, targeted=True)
    torch.testing.assert_close(towards, away)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.title)
def test_a_target_that_is_not_the_nearest_class_is_reached(spec):
    model = Linear(3)
    pixels = grey(model)
    farthest = model(pixels).argmin(1)
    attacked = attack(spec, model, pixels, farthest, targeted=True)
    assert (model(attacked).argmax(1) == farthest).all()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.title)
def test_the_nearest_finding_is_turned_and_all_can_be_chosen(spec):
    model = Linear(3)
    pixels = grey(model)
    labels = model(pixels) > 0
    attacked = attack(spec, model, pixels, labels)
    assert ((model(attacked) > 0) != labels).any(dim=1).all()
    wanted = labels.clone()
    wanted[:, 1] ^= True
    attacked = attack(spec, model, pixels, wanted, targeted=True)
    assert torch.equal(model(attacked) > 0, wanted)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.title)
def test_out_of_reach_is_a_failure_and_a_failure_is_the_source(spec):
    model = Linear(3)
    pixels = grey(model)
    labels = model(pixels).argmax(1)
    free = size(attack(spec, model, pixels, labels) - pixels, spec.norm)
    limit = 0.99 * free.max().item()
    attacked = attack(spec, model, pixels, labels, epsilon=limit)
    lengths = size(attacked - pixels, spec.norm)
    assert (lengths <= limit).all()
    turned = reached(model(attacked), labels, targeted=False)
    assert turned[free <= limit].all()
    assert not turned.all()
    assert torch.equal(attacked[~turned], pixels[~turned])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.title)
def test_an_image_that_is_wrong_already_is_left_alone_for_one_pass(spec):
    model = Linear(3)
    pixels = grey(model)
    wrong = (model(pixels).argmax(1) + 1) % 3
    access = Access(model, len(pixels))
    attacked = spec.attack(Scene(access, pixels, wrong, range(len(pixels))))
    assert torch.equal(attacked, pixels)
    assert (access.forwards == 1).all()


class Ailing(nn.Module):
    """Class 0 always; no gradient leads anywhere."""

    def __init__(self, ailment: Ailment) -> None:
        super().__init__()
        self.ailment = ailment

    def forward(self, pixels: Tensor) -> Tensor:
        total = pixels.flatten(1).sum(dim=1)
        if self.ailment is Ailment.ZERO:
            total = total * 0
        elif self.ailment is Ailment.NOT_FINITE:
            total = (total - total.detach()).abs().sqrt()  # 0, with a derivative of 1 / 0
        else:
            total = total.detach() * 0
        return torch.stack([1 + total, -1 - total], dim=1)


@pytest.mark.parametrize("ailment", list(Ailment))
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.title)
def test_a_gradient_that_cannot_guide_is_reported_and_the_source_comes_back(spec, ailment):
    pixels, labels, found = grey(Linear(2), 2), torch.zeros(2, dtype=torch.int64), []
    attacked = spec.attack(Scene(Ailing(ailment), pixels, labels, range(2), found.append))
    assert torch.equal(attacked, pixels)
    assert {(finding.ailment, finding.rows) for finding in found} == {(ailment, (0, 1))}
    with pytest.raises(GradientProblem):
        attack(spec, Ailing(ailment), pixels, labels)


@pytest.mark.parametrize("method", ["cw_l2", "ead"])
def test_confidence_is_won_in_logits(method):
    model = Linear(3)
    pixels = grey(model)
    labels = model(pixels).argmax(1)
    spec = next(spec for spec in SPECS if spec.method == method)
    attacked = attack(spec, model, pixels, labels, confidence=0.5)
    margin = -gaps(model(attacked), labels).amin(dim=1)
    assert (margin >= 0.5).all()
    assert (margin < 1).all()


@pytest.mark.parametrize("method", ["deepfool", "fab", "cw_l2", "ead"])
def test_more_steps_do_not_end_farther(three_classes, method):
    pixels, labels = three_classes.pixels[:8], three_classes.labels[:8]
    lengths = []
    for steps in (10, 60):
        spec = named(method, parameters={"steps": steps})
        attacked = attack(spec, three_classes.model, pixels, labels)
        turned = reached(three_classes.model(attacked), labels, targeted=False)
        length = size(attacked - pixels, spec.norm)
        lengths.append(torch.where(turned, length, torch.inf))
    few, many = lengths
    assert many.isfinite().all()
    assert many.mean() <= few.mean() * (1 + 1e-3)


def test_restarts_never_end_farther(three_classes):
    pixels, labels = three_classes.pixels[:8], three_classes.labels[:8]
    lengths = [
        size(
            attack(
                named("fab", parameters={"steps": 10, "restarts": restarts}),
                three_classes.model,
                pixels,
                labels,
            )
            - pixels,
            Norm.LINF,
        )
        for restarts in (1, 3)
    ]
    assert (lengths[1] <= lengths[0] * (1 + 1e-4)).all()


def test_accelerated_and_plain_shrinkage_end_equally_close(three_classes):
    pixels, labels = three_classes.pixels[:8], three_classes.labels[:8]
    plain, accelerated = (
        size(
            attack(
                named("ead", parameters={"steps": 60, "accelerated": value}),
                three_classes.model,
                pixels,
                labels,
            )
            - pixels,
            Norm.L2,
        ).median()
        for value in (False, True)
    )
    assert plain.item() == pytest.approx(accelerated.item(), rel=0.05)


@pytest.mark.parametrize("at_once", [1, 2])
def test_saliency_moves_the_fewest_pixels_of_a_linear_margin(at_once):
    """Two classes: sorted by what a pixel's whole way is worth, the first that suffice."""
    model = Linear(2)
    pixels = grey(model)
    labels = model(pixels).argmax(1)
    spec = named("jsma", parameters={"at_once": at_once, "epsilon": 40})
    attacked = attack(spec, model, pixels, labels)
    margin = gaps(model(pixels), labels)[:, 0]
    slope = (model.weights[0] - model.weights[1]) * torch.where(labels == 0, 1, -1)[:, None]
    flat = pixels.flatten(1)
    worth = torch.where(slope > 0, slope * flat, -slope * (255 - flat))
    steepest_first = worth.gather(1, slope.abs().argsort(dim=1, descending=True))
    fewest = (steepest_first.cumsum(1) < margin[:, None]).sum(1) + 1
    assert torch.equal(size(attacked - pixels, Norm.L0).long(), fewest)


def test_saliency_can_only_brighten_and_stops_at_its_number_of_pixels():
    model = Linear(3)
    pixels = grey(model)
    labels = model(pixels).argmax(1)
    spec = named("jsma", parameters={"direction": "up", "epsilon": 7, "theta": 20.0})
    attacked = attack(spec, model, pixels, labels)
    change = attacked - pixels
    assert (change >= 0).all()
    assert (change <= 20).all()
    assert (size(change, Norm.L0) <= 7).all()


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2, Norm.L1])
def test_the_projection_is_the_nearest_point_of_the_plane_in_the_grey_range(norm):
    rng = np.random.default_rng(0)
    point = torch.from_numpy(rng.choice([0.0, 255.0, 30.0, 140.0], (20, *SHAPE)))
    normal = torch.from_numpy(rng.normal(size=(20, *SHAPE)))
    normal[:, 0] = 0
    uphill = torch.where(normal > 0, 255 - point, -point)
    gap = -(normal * uphill).flatten(1).sum(1) * torch.from_numpy(rng.uniform(0.05, 0.95, 20))
    d = to_plane(point, normal, gap, norm)
    torch.testing.assert_close((normal * d).flatten(1).sum(1), -gap)
    assert ((point + d >= -1e-9) & (point + d <= 255 + 1e-9)).all()
    # no other point of the plane in the range is nearer: move along the plane, and back inside
    for _ in range(200):
        i, j = rng.integers(8, 64, 2)
        if i == j:
            continue
        shift = torch.zeros_like(d).flatten(1)
        shift[:, i] = normal.flatten(1)[:, j]
        shift[:, j] = -normal.flatten(1)[:, i]
        for sign in (-0.5, 0.5):
            other = d + sign * shift.view_as(d)
            inside = ((point + other >= 0) & (point + other <= 255)).flatten(1).all(1)
            nearer = size(other, norm) < size(d, norm) - 1e-9
            assert not (inside & nearer).any()


def test_a_plane_out_of_the_grey_range_is_approached_as_far_as_it_goes():
    point, normal = torch.full((1, *SHAPE), 100.0), torch.ones(1, *SHAPE)
    for norm in DUAL:
        d = to_plane(point, normal, torch.tensor([1e6]), norm)
        torch.testing.assert_close(d, torch.full_like(d, -100.0))
