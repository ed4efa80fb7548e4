"""Momentum, input diversity, translation invariance, low-pass and sparse perturbations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attacks.access import Access
from attacks.ball import Norm, size
from attacks.beyond_noise.low_pass import low_frequencies, low_pass
from attacks.beyond_noise.sparse import sparse
from attacks.gradient import Ailment, GradientFinding
from attacks.objective import gaps, reached
from attacks.registry import UnknownAttack, named
from attacks.spec import Scene, carry_out
from attacks.white_box.bim import bim
from attacks.white_box.dim import dim, diversity, placed
from attacks.white_box.mim import mim
from attacks.white_box.tim import blur, gaussian, tim

METHODS = ("mim", "dim", "tim", "low_pass", "sparse")


class Linear:
    """Two classes whose margin is a weighted sum of the pixels."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, pixels: Tensor) -> Tensor:
        margin = pixels.flatten(1).double() @ self.weights.flatten().double()
        return torch.stack([margin, -margin], dim=1)


def weights(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4)) / 50


def gap(task, pixels: Tensor, labels: Tensor | None = None) -> Tensor:
    return gaps(task.model(pixels), task.labels if labels is None else labels).amin(dim=1)


def test_momentum_adds_gradients_over_their_l1_norm_as_in_equation_6():
    slopes = torch.tensor([[3.0, -1.0], [-0.1, 0.5], [-1.0, 4.0]])
    seen: list[int] = []

    def model(pixels: Tensor) -> Tensor:
        slope = slopes[len(seen)]
        seen.append(1)
        margin = (pixels.flatten(1) * slope).sum(dim=1)
        return torch.stack([-margin, margin], dim=1)

    source = torch.full((1, 1, 2, 1), 100.0)
    attacked = mim(
        model, source, torch.tensor([0]),
        epsilon=8, step=1, steps=3, decay=0.5, on_finding=lambda _: None,
    )  # fmt: skip
    velocity, expected = torch.zeros(2), torch.zeros(2)
    for slope in slopes:
        velocity = 0.5 * velocity + slope / slope.abs().sum()
        expected += velocity.sign()
    assert (attacked - source).flatten().tolist() == expected.tolist()


def test_without_memory_momentum_is_the_basic_iterative_method(task):
    arguments = {"epsilon": 4.0, "step": 0.4, "steps": 10}
    forgetful = mim(task.model, task.pixels, task.labels, decay=0.0, **arguments)
    torch.testing.assert_close(forgetful, bim(task.model, task.pixels, task.labels, **arguments))


def test_the_resize_is_torchs_bilinear_one_and_the_rest_is_black():
    image = torch.rand(3, 16, 9, 2) + 1
    boxes = torch.tensor([[16, 9, 0, 0], [14, 7, 1, 2], [5, 4, 11, 0]])
    for i, (height, width, top, left) in enumerate(boxes.tolist()):
        planes = image[i : i + 1].permute(0, 3, 1, 2)
        resized = functional.interpolate(planes, size=(height, width), mode="bilinear")
        margins = (left, 9 - width - left, top, 16 - height - top)
        expected = functional.pad(resized, margins).permute(0, 2, 3, 1)
        torch.testing.assert_close(placed(image, boxes)[i : i + 1], expected)


def test_diversity_is_the_images_and_the_steps_own_and_as_frequent_as_asked():
    seeds = range(400)
    pixels = torch.full((400, 10, 20, 1), 200.0)
    seen = diversity(seeds, probability=0.5, rate=0.5)(pixels, 3)
    assert seen.shape == pixels.shape
    untouched = (seen == pixels).flatten(1).all(dim=1).double().mean().item()
    # one in six of the transformed has the full size
    assert untouched == pytest.approx(0.5 + 0.5 / 6, abs=0.08)

    alone = diversity([7], probability=0.5, rate=0.5)(pixels[:1], 3)
    assert torch.equal(alone[0], seen[7])
    assert not torch.equal(diversity(seeds, 0.5, 0.5)(pixels, 4), seen)
    assert torch.equal(diversity(seeds, 0.0, 0.5)(pixels, 3), pixels)

    shown = (diversity(seeds, 1.0, 0.5)(pixels, 3) > 0)[..., 0]
    heights, widths = shown.any(2).sum(1), shown.any(1).sum(1)
    assert set(heights.tolist()) == {5, 6, 7, 8, 9, 10}
    assert torch.equal(widths, 2 * heights), "the aspect is kept"
    tops = shown.any(2).int().argmax(1)
    assert {int(top) for top in tops[heights == 5]} == {0, 1, 2, 3, 4, 5}


def test_without_diversity_or_blur_nothing_but_momentum_is_left(task):
    arguments = {"epsilon": 4.0, "step": 0.4, "steps": 5}
    plain = mim(task.model, task.pixels, task.labels, **arguments)
    undiverse = dim(
        task.model, task.pixels, task.labels,
        seeds=range(len(task.pixels)), probability=0.0, **arguments,
    )  # fmt: skip
    torch.testing.assert_close(undiverse, plain)
    # 30 deviations to the edge: a single tap
    unblurred = tim(task.model, task.pixels, task.labels, kernel=3, sigmas=30.0, **arguments)
    torch.testing.assert_close(unblurred, plain)


def test_the_kernel_is_the_released_ones_and_the_blur_a_convolution():
    line = gaussian(15, 3.0)
    place = np.arange(-7, 8) / (7 / 3)
    expected = np.exp(-(place**2) / 2)
    np.testing.assert_allclose(line.numpy(), expected / expected.sum())

    gradient = torch.randn(2, 11, 20, 3)
    planes = gradient.permute(0, 3, 1, 2).double()
    kernel = torch.outer(line, line).expand(3, 1, 15, 15)
    convolved = functional.conv2d(planes, kernel, padding=7, groups=3).permute(0, 2, 3, 1)
    torch.testing.assert_close(blur(gradient, 15, 3.0)(gradient).double(), convolved)


def test_a_kernel_without_a_middle_is_refused():
    with pytest.raises(UnknownAttack, match="odd"):
        named("tim", 1.0, {"kernel": 4})


def test_the_low_frequencies_are_the_first_cosines():
    def kept(side: int) -> Tensor:
        wave = torch.arange(max(1, round(0.3 * side)), dtype=torch.float64)[:, None]
        place = torch.arange(side, dtype=torch.float64) + 0.5
        basis = torch.cos(torch.pi / side * wave * place)
        return torch.linalg.pinv(basis) @ basis

    image = torch.rand(2, 13, 20, 3)
    expected = torch.einsum("ij,kl,njlc->nikc", kept(13), kept(20), image.double())
    torch.testing.assert_close(low_frequencies(image, 0.3).double(), expected)
    torch.testing.assert_close(low_frequencies(image, 1.0), image)


def spectrum(change: Tensor) -> Tensor:
    """``[N, H, W]``: the power of each cosine frequency, by an FFT of the mirrored image."""
    plane = change[..., 0].double()
    for axis in (1, 2):
        plane = torch.cat([plane, plane.flip(axis)], dim=axis)
    power = torch.fft.fft2(plane).abs().square()
    return power[:, : change.shape[1], : change.shape[2]]


@pytest.mark.parametrize("cutoff", [0.125, 0.25, 0.5])
def test_a_low_pass_change_is_low_pass_and_uses_its_budget(three_classes, cutoff):
    pixels = three_classes.pixels.clamp(10, 245)
    attacked = low_pass(
        three_classes.model, pixels, three_classes.labels,
        epsilon=4.0, step=0.4, steps=20, cutoff=cutoff,
    )  # fmt: skip
    change = attacked - pixels
    power = spectrum(change)
    kept = round(16 * cutoff)
    low = power[:, :kept, :kept].sum(dim=(1, 2))
    assert (low / power.sum(dim=(1, 2)) > 1 - 1e-8).all()
    largest = size(change, Norm.LINF)
    assert (largest <= 4 + 1e-4).all()
    assert largest.median() > 3.9


def test_only_where_black_and_white_cut_it_off_is_a_low_pass_change_not_its_own(task):
    attacked = low_pass(task.model, task.pixels, task.labels, epsilon=4.0, step=0.4, steps=10)
    assert attacked.min() == 0
    assert attacked.max() == 255
    change = attacked - task.pixels
    free = (task.pixels > 4) & (task.pixels < 251)
    # inside, the change is what some low-pass image is there
    corner = ~free[0, ..., 0]
    basis = (
        low_frequencies(torch.eye(256).view(256, 16, 16, 1), 0.25)[:, ~corner].squeeze(-1).double()
    )
    inside = change[0][~corner].squeeze(-1).double()
    solution = torch.linalg.lstsq(basis.T, inside[:, None], driver="gelsd").solution
    torch.testing.assert_close(basis.T @ solution, inside[:, None], rtol=0, atol=1e-3)


def test_more_frequencies_are_never_weaker_and_all_of_them_are_no_filter(task):
    def margin(cutoff: float) -> float:
        attacked = low_pass(
            task.model, task.pixels, task.labels, epsilon=4.0, step=0.4, steps=20, cutoff=cutoff
        )
        return gap(task, attacked).mean().item()

    margins = [margin(cutoff) for cutoff in (0.125, 0.25, 0.5, 1.0)]
    assert margins == sorted(margins, reverse=True)
    unfiltered = bim(task.model, task.pixels, task.labels, epsilon=4.0, step=0.4, steps=20)
    assert margins[-1] == pytest.approx(gap(task, unfiltered).mean().item(), abs=0.01)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pixels_changed", [1, 5])
def test_on_a_linear_model_the_sparse_attack_finds_the_best_pixels(channels, pixels_changed):
    slope = weights(6, 7, channels)
    grey = torch.randint(
        0, 256, (4, 6, 7, channels), generator=torch.Generator().manual_seed(2)
    ).float()
    model = Linear(slope)
    labels = model(grey).argmax(dim=1)
    attacked = sparse(
        model, grey, labels, epsilon=pixels_changed, steps=10, seeds=range(4), first_step=1e6
    )
    downhill = torch.where(labels == 0, -1.0, 1.0).view(-1, 1, 1, 1) * slope
    room = torch.where(downhill > 0, 255 - grey, grey)
    gain = (downhill.abs() * room).sum(dim=3).flatten(1)
    best = 2 * gain.topk(pixels_changed, dim=1).values.sum(dim=1).double()
    moved = gaps(model(grey), labels)[:, 0] - gaps(model(attacked), labels)[:, 0]
    torch.testing.assert_close(moved, best, rtol=1e-4, atol=1e-3)
    assert (size(attacked - grey, Norm.L0) <= pixels_changed).all()


def test_more_pixels_steps_and_restarts_are_never_weaker(task):
    def margins(pixels: int, **arguments) -> Tensor:
        arguments = {"steps": 20, **arguments}
        attacked = sparse(
            task.model, task.pixels, task.labels,
            epsilon=pixels, seeds=range(len(task.pixels)), **arguments,
        )  # fmt: skip
        return gap(task, attacked)

    by_pixels = [margins(pixels).mean().item() for pixels in (0, 1, 2, 4, 8)]
    assert by_pixels == sorted(by_pixels, reverse=True)
    assert by_pixels[0] == pytest.approx(gap(task, task.pixels).mean().item())
    by_steps = [margins(2, steps=steps).mean().item() for steps in (1, 3, 20)]
    assert by_steps == sorted(by_steps, reverse=True)
    once, thrice = margins(2, steps=5), margins(2, steps=5, restarts=3)
    assert ((thrice < 0) | (once >= 0)).all()
    assert (thrice[thrice >= 0] <= once[thrice >= 0]).all()


def test_the_sparse_attack_spends_the_passes_that_it_says(task):
    access = Access(task.model, 4)
    sparse(access, task.pixels[:4], task.labels[:4], epsilon=2, steps=7, seeds=range(4))
    assert access.forwards.tolist() == [8] * 4
    assert access.backwards.tolist() == [7] * 4


def test_the_sparse_attack_tells_of_gradients_that_do_not_guide_it():
    found: list[GradientFinding] = []
    source = torch.full((2, 4, 4, 1), 100.0)

    def rounded(pixels: Tensor) -> Tensor:
        return Linear(torch.ones(16))(pixels.round())

    attacked = sparse(
        rounded, source, torch.tensor([0, 0]),
        epsilon=3, steps=2, seeds=[0, 1], on_finding=found.append,
    )  # fmt: skip
    assert found == [GradientFinding(Ailment.ZERO, (0, 1))]
    assert torch.equal(attacked, source)

    found.clear()
    sparse(
        lambda pixels: Linear(torch.ones(16))(pixels.detach()), source, torch.tensor([0, 0]),
        epsilon=3, steps=2, seeds=[0, 1], on_finding=found.append,
    )  # fmt: skip
    assert found == [GradientFinding(Ailment.NONE, (0, 1))]


@pytest.mark.parametrize("name", METHODS)
def test_targets_are_reached_where_the_budget_allows(three_classes, name):
    task = three_classes
    targets = (task.model(task.pixels[:20]).argmax(dim=1) + 1) % 3
    spec = named(name, 20.0).model_copy(update={"targeted": True})
    scene = Scene(task.model, task.pixels[:20], targets, range(20), lambda _: None)
    attacked = carry_out(spec, scene)
    assert reached(task.model(attacked), targets, targeted=True).double().mean() >= 0.9


@pytest.mark.parametrize("name", METHODS)
def test_findings_are_turned(findings, name):
    spec = named(name, 10.0)
    labels = findings.model(findings.pixels[:20]) > 0
    scene = Scene(findings.model, findings.pixels[:20], labels, range(20), lambda _: None)
    attacked = carry_out(spec, scene)
    assert reached(findings.model(attacked), labels, targeted=False).double().mean() >= 0.9
