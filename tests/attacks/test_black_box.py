"""Attacks that ask questions: what they find, what they spend, and what they were told."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.access import Access
from attacks.ball import Norm, size
from attacks.black_box.boundary import boundary
from attacks.black_box.gallery import Gallery
from attacks.black_box.geoda import geoda
from attacks.black_box.hopskipjump import hopskipjump
from attacks.black_box.nes import nes
from attacks.black_box.simba import Basis, simba
from attacks.black_box.surfree import surfree
from attacks.black_box.transfer import transfer
from attacks.objective import reached
from attacks.registry import named
from attacks.spec import Attacker

DECISIONS = {
    "hopskipjump-l2": (partial(hopskipjump, samples=40), Norm.L2),
    "hopskipjump-linf": (partial(hopskipjump, samples=40, norm=Norm.LINF), Norm.LINF),
    "boundary": (boundary, Norm.L2),
    "surfree": (surfree, Norm.L2),
    "geoda-l2": (partial(geoda, samples=20), Norm.L2),
    "geoda-linf": (partial(geoda, samples=20, norm=Norm.LINF), Norm.LINF),
}
ASKERS = {
    **{name: attack for name, (attack, _) in DECISIONS.items()},
    "simba-pixel": partial(simba, step=20),
    "simba-dct": partial(simba, basis=Basis.DCT, step=2, frequencies=0.5),
    "nes": partial(nes, epsilon=4, step=0.8, samples=20),
}


def on_the_grid(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255)


class Linear(torch.nn.Module):
    """Two classes either side of ``w . (x - 128) = gap``."""

    def __init__(self, weights: Tensor, gap: float) -> None:
        super().__init__()
        self.weights, self.gap = weights.double(), gap

    def forward(self, pixels: Tensor) -> Tensor:
        margin = (pixels.double().flatten(1) - 128) @ self.weights - self.gap
        return torch.stack([-margin, margin], dim=1)


@pytest.mark.parametrize(("name", "factor"), [("hopskipjump-l2", 1.15), ("hopskipjump-linf", 1.3)])
def test_hopskipjump_comes_near_the_distance_to_a_hyperplane(name: str, factor: float) -> None:
    attack, norm = DECISIONS[name]
    weights = torch.linspace(-1, 1, 64)
    gap = 30 * float(weights.norm())
    dual = float(weights.norm() if norm is Norm.L2 else weights.abs().sum())
    pixels, labels = torch.full((3, 8, 8, 1), 128.0), torch.zeros(3, dtype=torch.int64)
    found = {}
    for queries in (150, 3000):
        attacked = attack(Linear(weights, gap), pixels, labels, queries=queries, seeds=range(3))
        found[queries] = size(attacked - pixels, norm)
    assert (found[3000] >= gap / dual * 0.999).all(), "closer than the boundary"
    assert (found[3000] <= gap / dual * factor).all()
    assert (found[3000] <= found[150]).all()


@pytest.mark.parametrize(
    ("name", "factor"), [("surfree", 1.5), ("geoda-l2", 1.3), ("geoda-linf", 1.6)]
)
def test_the_newer_ones_come_near_it_too(name: str, factor: float) -> None:
    attack, norm = DECISIONS[name]
    weights = torch.linspace(-1, 1, 64)
    gap = 30 * float(weights.norm())
    dual = float(weights.norm() if norm is Norm.L2 else weights.abs().sum())
    pixels, labels = torch.full((3, 8, 8, 1), 128.0), torch.zeros(3, dtype=torch.int64)
    attacked = attack(
        Linear(weights, gap), pixels, labels, queries=1500, seeds=range(3), frequencies=1.0
    )
    reach = size(attacked - pixels, norm)
    assert (reach >= gap / dual * 0.999).all(), "closer than the boundary"
    assert (reach <= gap / dual * factor).all(), reach / (gap / dual)


@pytest.mark.parametrize("name", DECISIONS)
def test_more_questions_never_find_a_farther_image(three_classes, name: str) -> None:
    attack, norm = DECISIONS[name]
    pixels, labels = three_classes.pixels[:6], three_classes.labels[:6]
    medians = []
    for queries in (60, 400):
        attacked = attack(three_classes.model, pixels, labels, queries=queries, seeds=range(6))
        won = reached(three_classes.model(attacked), labels, targeted=False)
        assert won.all(), "noise gives every image of this task a start"
        medians.append(size(attacked - pixels, norm).median())
    assert medians[1] < medians[0]


@pytest.mark.parametrize("name", ASKERS)
def test_a_budget_is_never_exceeded_and_the_trace_replays(three_classes, name: str) -> None:
    pixels, labels = three_classes.pixels[:4], three_classes.labels[:4]
    for queries in (1, 37, 90):
        access = Access(three_classes.model, 4, round_queries=on_the_grid, keep_queries=True)
        attacked = on_the_grid(
            ASKERS[name](access, pixels, labels, queries=queries, seeds=range(4))
        )
        assert (access.forwards <= queries).all()
        assert [len(trace) for trace in access.queries] == access.forwards.tolist()
        for i in range(4):
            sent = torch.from_numpy(np.stack(access.queries[i])).float()
            changed = not torch.equal(attacked[i], pixels[i])
            if changed:
                asked = (sent == attacked[i]).flatten(1).all(dim=1)
                assert asked.any(), "what is delivered was asked about, to the grey level"
                if name != "nes":  # which keeps its best when nothing won
                    answers = three_classes.model(sent[asked])
                    assert reached(answers, labels[i].expand(len(answers)), targeted=False).all()


@pytest.mark.parametrize("name", ASKERS)
def test_the_same_seeds_ask_the_same_questions(three_classes, name: str) -> None:
    pixels, labels = three_classes.pixels[:3], three_classes.labels[:3]
    traces = []
    for _ in range(2):
        access = Access(three_classes.model, 3, round_queries=on_the_grid, keep_queries=True)
        ASKERS[name](access, pixels, labels, queries=60, seeds=[5, 6, 7])
        torch.rand(1)  # torch's own state is no part of it
        traces.append(access.queries)
    for first, second in zip(*traces, strict=True):
        np.testing.assert_array_equal(np.stack(first), np.stack(second))


@pytest.mark.parametrize("name", [name for name in ASKERS if name != "nes"])
def test_what_the_guard_holds_is_no_success(three_classes, name: str) -> None:
    """A guard that holds whatever is brighter than its source on average."""
    pixels, labels = three_classes.pixels[:6], three_classes.labels[:6]
    brightest = pixels.mean()

    def judge(shown: Tensor, wanted: Tensor, targeted: bool) -> Tensor:
        accepted = shown.mean(dim=(1, 2, 3)) <= brightest
        return accepted & reached(three_classes.model(shown), wanted, targeted=targeted)

    access = Access(three_classes.model, 6, judge=judge)
    attacked = ASKERS[name](access, pixels, labels, queries=300, seeds=range(6))
    returned = (attacked != pixels).flatten(1).any(dim=1)
    assert returned.any()
    assert judge(attacked, labels, False)[returned].all()


@pytest.mark.parametrize("name", ["simba-pixel", "simba-dct", "nes"])
def test_more_scores_fool_more_images(three_classes, name: str) -> None:
    pixels, labels = three_classes.pixels[:20], three_classes.labels[:20]
    clean = reached(three_classes.model(pixels), labels, targeted=False)
    rates = [
        reached(
            three_classes.model(
                ASKERS[name](three_classes.model, pixels, labels, queries=q, seeds=range(20))
            ),
            labels,
            targeted=False,
        )
        for q in (60, 600)
    ]
    assert rates[1].sum() > clean.sum()
    assert (rates[1] | ~rates[0]).all(), "the same questions come first"


@pytest.mark.parametrize("name", ASKERS)
def test_targets_are_reached(three_classes, name: str) -> None:
    pixels = three_classes.pixels[:6]
    targets = (three_classes.model(pixels).argmax(1) + 1) % 3
    attack = ASKERS[name] if name != "nes" else partial(nes, epsilon=16, step=2, samples=20)
    attacked = attack(
        three_classes.model, pixels, targets, queries=800, seeds=range(6), targeted=True
    )
    assert reached(three_classes.model(attacked), targets, targeted=True).float().mean() >= 0.5


def test_simba_stays_within_its_radius_and_asks_nothing_twice_in_vain(three_classes) -> None:
    pixels, labels = three_classes.pixels[:6], three_classes.labels[:6]
    access = Access(three_classes.model, 6, keep_queries=True)
    attacked = simba(access, pixels, labels, queries=5000, seeds=range(6), step=10, epsilon=25)
    assert (size(attacked - pixels, Norm.L2) <= 25.001).all()
    # 256 pixels, both signs: far below the budget once the radius is full or a round is idle
    assert access.forwards.max() < 4 * 512


def test_hopskipjump_drops_what_is_farther_than_epsilon(three_classes) -> None:
    pixels, labels = three_classes.pixels[:8], three_classes.labels[:8]
    run = partial(
        hopskipjump, three_classes.model, pixels, labels, queries=200, seeds=range(8), samples=20
    )
    distance = size(run() - pixels, Norm.L2)
    limit = float(distance.median())
    kept = size(run(epsilon=limit) - pixels, Norm.L2)
    torch.testing.assert_close(kept, torch.where(distance <= limit, distance, 0))


def test_transfer_sends_one_image_a_restart_and_follows_the_surrogate(three_classes) -> None:
    pixels, labels = three_classes.pixels[:30], three_classes.labels[:30]
    run = partial(
        transfer, pixels=pixels, labels=labels, surrogate=three_classes.surrogate,
        epsilon=4, step=0.4, steps=20, seeds=range(30),
    )  # fmt: skip
    fooled = []
    for restarts in (1, 3):
        access = Access(three_classes.model, 30)
        won = reached(three_classes.model(run(access, restarts=restarts)), labels, targeted=False)
        assert (access.forwards[won] <= restarts).all()
        assert (access.forwards[~won] == restarts).all()
        assert not access.backwards.any()
        fooled.append(won)
    assert (fooled[1] | ~fooled[0]).all()
    noise = (
        pixels + 4 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0)).sign()
    )
    by_noise = reached(three_classes.model(noise.clamp(0, 255)), labels, targeted=False)
    assert fooled[0].sum() > by_noise.sum()


def test_transfer_says_what_it_needs(three_classes) -> None:
    attacker = Attacker(three_classes.model, (), torch.zeros(0, dtype=torch.int64), seed=0)
    with pytest.raises(ValueError, match="surrogate=FOLDER"):
        named("transfer", 1.0).prepare(attacker)
    with pytest.raises(ValueError, match="no surrogate can be loaded"):
        named("transfer", 1.0, {"surrogate": "phantom"}).prepare(attacker)


@pytest.mark.parametrize("name", DECISIONS)
def test_where_all_noise_is_of_one_class_the_attackers_own_image_starts_it(name: str) -> None:
    attack, norm = DECISIONS[name]
    half = torch.ones(8, 8, 1)
    half[:, 4:] = -1
    # noise never has one half so much brighter than the other; the attacker's picture has
    model = Linear(half.flatten(), gap=4000)
    source = torch.full((2, 8, 8, 1), 128.0)
    labels, options = torch.zeros(2, dtype=torch.int64), {"queries": 400, "seeds": (1, 2)}
    assert torch.equal(attack(model, source, labels, **options), source)
    bright = torch.full((16, 16, 1), 20.0)
    bright[:, :8] = 250
    gallery = Gallery((bright, source[0]), torch.tensor([1, 0]))
    found = attack(model, source, labels, **options, gallery=gallery)
    assert reached(model(found), labels, targeted=False).all()
    assert (size(found - source, norm) < size(bright[::2, ::2] - source, norm)).all()
