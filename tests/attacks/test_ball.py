"""Projection and steepest steps, against their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attacks.ball import Ball, Norm, size, steepest

SHAPE = (2, 3, 4, 2)
GREY = hnp.arrays("uint8", SHAPE)
ANYWHERE = hnp.arrays("float32", SHAPE, elements=st.floats(-400, 700, width=32))
RADII = st.floats(0, 2000, width=32)
NORMS = st.sampled_from([Norm.L0, Norm.L1, Norm.L2])


@settings(max_examples=200, deadline=None)
@given(GREY, ANYWHERE, RADII, NORMS, st.integers(0, 10_000))
def test_a_projection_is_in_the_ball_and_nearer_than_any_other_point(
    grey, anywhere, epsilon, norm, seed
):
    source, point = torch.from_numpy(grey).float(), torch.from_numpy(anywhere)
    ball = Ball.around(source, epsilon, norm)
    projected = ball.project(point)

    # a pixel in grey levels is held to 2^-17, and an L1 norm adds that up
    rounding = 2**-17 * source[0].numel()
    assert (size(projected - source, norm) <= epsilon * (1 + 1e-5) + rounding).all()
    assert projected.min() >= 0
    assert projected.max() <= 255
    torch.testing.assert_close(ball.project(projected), projected, rtol=0, atol=1e-2)

    others = ball.random([seed, seed + 1], stream=0)
    distance = size((projected - point).double(), Norm.L2)
    assert (distance <= size((others - point).double(), Norm.L2) + 1e-2).all()
    if norm is not Norm.L0:
        # of a convex set: the angle at the projection is never acute
        inner = ((point - projected) * (others - projected)).double().flatten(1).sum(dim=1)
        assert (inner <= 1e-5 * (1 + distance) * 2000).all()


@pytest.mark.parametrize("norm", [Norm.L1, Norm.L2])
def test_what_the_grey_range_refuses_goes_to_the_other_pixels(norm):
    source = torch.tensor([250.0, 100.0]).view(1, 1, 2, 1)
    ball = Ball.around(source, 50.0, norm)
    reached = ball.project(source + torch.tensor([500.0, 400.0]).view(1, 1, 2, 1))
    rest = 45.0 if norm is Norm.L1 else (50.0**2 - 5.0**2) ** 0.5
    expected = source + torch.tensor([5.0, rest]).view(1, 1, 2, 1)
    torch.testing.assert_close(reached, expected)


def test_a_pixel_counts_once_and_is_worth_what_it_can_move():
    source = torch.tensor([[255.0, 255.0], [100.0, 100.0], [100.0, 100.0]]).view(1, 1, 3, 2)
    change = torch.tensor([[300.0, 300.0], [20.0, 20.0], [25.0, 0.0]]).view(1, 1, 3, 2)
    reached = Ball.around(source, 1, Norm.L0).project(source + change)
    assert (reached - source).view(3, 2).tolist() == [[0, 0], [20, 20], [0, 0]]


@given(ANYWHERE, st.sampled_from([Norm.LINF, Norm.L2, Norm.L1]))
def test_a_steepest_step_has_unit_norm_and_climbs(gradient, norm):
    slope = torch.from_numpy(gradient)
    slope[0] = 0
    slope[1].view(-1)[0] = 1.0
    direction = steepest(slope, norm)
    assert (direction[0] == 0).all(), "no slope, no step"
    assert size(direction, norm)[1].item() == pytest.approx(1, abs=1e-5)
    assert (direction[1] * slope[1]).sum() > 0


@pytest.mark.parametrize("norm", list(Norm))
def test_a_random_start_is_the_images_own(norm):
    source = torch.full((3, 8, 8, 1), 90.0)
    epsilon = 6.0
    ball = Ball.around(source, epsilon, norm)
    together = ball.random([4, 5, 6], stream=1)
    alone = Ball.around(source[1:2], epsilon, norm).random([5], stream=1)
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])
    assert (size(together - source, norm) <= epsilon + 1e-3).all()
    assert (size(together - source, norm) > 0).all()


def test_no_step_is_spent_on_pixels_that_cannot_move():
    source = torch.tensor([0.0, 255.0, 0.0, 100.0]).view(1, 1, 4, 1)
    slope = torch.tensor([-1.0, 1.0, 1.0, -1.0]).view(1, 1, 4, 1)
    free = Ball.around(source, 10.0, Norm.L1).feasible(source, slope)
    assert free.flatten().tolist() == [0, 0, 1, -1]
