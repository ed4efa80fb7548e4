"""A model whose gradient is broken must not pass for a robust one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.generate import Sources, bench_of, generate
from attacks.gradient import Ailment, GradientFinding, GradientProblem
from attacks.registry import named
from attacks.white_box.bim import bim
from attacks.white_box.cw_linf import cw_linf
from attacks.white_box.fgsm import fgsm
from attacks.white_box.pgd import pgd

PIXELS = torch.full((3, 4, 4, 1), 100.0)
LABELS = torch.zeros(3, dtype=torch.int64)


def two(first: Tensor) -> Tensor:
    return torch.stack([first, torch.zeros_like(first)], dim=1)


def brightness(pixels: Tensor) -> Tensor:
    return two(pixels.mean(dim=(1, 2, 3)) - 90)


def rounded(pixels: Tensor) -> Tensor:
    return brightness(pixels.round())


def broken_on_the_second(pixels: Tensor) -> Tensor:
    scale = torch.ones(len(pixels))
    scale[1] = float("nan")
    return brightness(pixels * scale.view(-1, 1, 1, 1))


def test_a_gradient_hidden_by_rounding_is_refused_with_advice():
    with pytest.raises(GradientProblem, match=r"zero gradient on 3 image.*rounding") as caught:
        fgsm(rounded, PIXELS, LABELS, epsilon=1.0)
    assert caught.value.finding == GradientFinding(Ailment.ZERO, (0, 1, 2))


def test_a_confidence_that_saturates_the_loss_is_found_and_the_margin_attacks_on():
    def certain(pixels: Tensor) -> Tensor:
        return 100 * brightness(pixels)

    with pytest.raises(GradientProblem, match="zero gradient"):
        fgsm(certain, PIXELS, LABELS, epsilon=16.0)
    attacked = cw_linf(certain, PIXELS, LABELS, epsilon=16.0, step=4.0, steps=4)
    assert (certain(attacked).argmax(1) == 1).all()


def test_a_detached_model_is_refused():
    with pytest.raises(GradientProblem, match="torch operations"):
        bim(lambda pixels: brightness(pixels.detach()), PIXELS, LABELS, epsilon=1, step=1, steps=2)


def test_one_broken_image_is_named_stays_put_and_does_not_spoil_its_batch():
    found: list[GradientFinding] = []
    attacked = fgsm(broken_on_the_second, PIXELS, LABELS, epsilon=1.0, on_finding=found.append)
    assert found == [GradientFinding(Ailment.NOT_FINITE, (1,))]
    assert torch.equal(attacked[1], PIXELS[1])
    assert torch.equal(attacked[[0, 2]], PIXELS[[0, 2]] - 1)


def test_restarts_name_the_images_of_the_whole_batch():
    found: list[GradientFinding] = []
    pgd(
        broken_on_the_second, PIXELS, LABELS,
        epsilon=1, step=1, steps=1, seeds=range(3), restarts=2, on_finding=found.append,
    )  # fmt: skip
    assert found == [GradientFinding(Ailment.NOT_FINITE, (1,))] * 2


def test_a_won_margin_is_rest_not_illness():
    def barely(pixels: Tensor) -> Tensor:
        return brightness(pixels - 10.5)

    start = torch.full((1, 4, 4, 1), 101.0)
    attacked = cw_linf(barely, start, LABELS[:1], epsilon=4.0, step=1.0, steps=4, kappa=0.0)
    assert torch.equal(attacked, start - 1), "one step wins, the other three have nothing to do"


def test_generation_goes_on_and_lists_the_images_it_could_not_guide():
    def saturated_when_bright(pixels: Tensor) -> Tensor:
        level = pixels.mean(dim=(1, 2, 3))
        return two(torch.where(level > 150, level.detach(), level - 90))

    images = [np.full((16, 16, 1), level, dtype=np.uint8) for level in (100, 200)]
    sources = Sources(images, np.zeros(2, dtype=np.int64), ["a", "b"], ["dim", "bright"])
    (result,) = generate(bench_of(saturated_when_bright), [named("bim", 16.0)], sources)
    assert [(f.ailment, f.keys) for f in result.findings] == [(Ailment.ZERO, ("bright",))]
    assert result.success.tolist() == [True, False]
