"""Attacks on the phantom's model and guard together, by someone who holds the bundle."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models.zoo
from attacks.access import Access
from attacks.guard_aware.joint_pgd import neighbour
from attacks.guard_aware.search import Best, goals
from attacks.guarded import GuardedModel, load_guarded, lowest_flagged
from attacks.objective import decisions, reached
from attacks.registry import named
from attacks.spec import Attacker, AttackSpec, Need, Scene, carry_out
from detectors.calibrate import conformal_p
from detectors.fit import FitSplit, fit
from detectors.samples import Samples
from models.diagnostic import DiagnosticModel
from models.onnx_engine import OnnxEngine
from models.phantom import radiograph
from models.resnet import resnet
from models.spec import Head, ModelSpec, Preprocessing
from service.decide import Policy, decide

BUNDLE = Path(models.zoo.__file__).parent / "phantom" / "bundle"
IN_FEATURES_ALONE = ("hfc", "feature_matching")
AWARE = (*IN_FEATURES_ALONE, "orthogonal_pgd", "selective_pgd", "joint_pgd")


@pytest.fixture(scope="module")
def guard() -> GuardedModel:
    return load_guarded(BUNDLE)


@pytest.fixture(scope="module")
def engine(guard) -> OnnxEngine:
    return OnnxEngine(guard.bundle.graph, threads=1)


def phantoms(first: int, count: int) -> Tensor:
    """Patients that no bundle was fitted on, CLEAR and OPACITY in turn."""
    patients = range(first, first + count)
    images = [radiograph(patient, 0, opacities=bool(patient % 2)) for patient in patients]
    return torch.from_numpy(np.stack(images)).float()


PIXELS = phantoms(9_000_000, 4)
LABELS = torch.arange(4) % 2


@pytest.fixture(scope="module")
def prepared(guard) -> dict[str, object]:
    own = phantoms(8_000_000, 24)
    attacker = Attacker(guard, tuple(own), torch.arange(24) % 2, seed=5, guard=guard)
    return {name: named(name, 1.0).prepare(attacker) for name in AWARE}


def scene(guard: GuardedModel, prepared: object, rows: slice = slice(0, 4)) -> Scene:
    pixels = PIXELS[rows].clone()
    return Scene(
        Access(guard, len(pixels), judge=guard.judge),
        pixels,
        LABELS[rows],
        range(4)[rows],
        guard=guard,
        prepared=prepared,
    )


def held(guard: GuardedModel, engine: OnnxEngine, images: Tensor) -> np.ndarray:
    """``bool[N]``: what the service decides, from its own engine's answers."""
    grid = images.numpy().astype(np.uint8)
    assert np.array_equal(grid, images.numpy()), "not whole grey levels"
    manifest = guard.bundle.manifest
    return np.array(
        [
            decide(p, manifest.levels[p.predicted], Policy(manifest.alphas)).held
            for p in guard.bundle.calibration.p_values(engine.run(grid))
        ]
    )


def test_the_attackers_guard_is_the_served_one(guard, engine):
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(scale=12, size=PIXELS.shape).astype(np.float32))
    images = torch.cat([PIXELS, (PIXELS + noise).clamp(0, 255).round(), 255 - PIXELS])
    served = engine.run(images.numpy().astype(np.uint8))
    with torch.no_grad():
        reading = guard.readings(images)
        torch.testing.assert_close(guard(images), reading.logits, rtol=1e-4, atol=1e-4)
    for name in ("scores", "fused", "quality", "probabilities"):
        torch.testing.assert_close(
            getattr(reading, name), torch.from_numpy(getattr(served, name)), rtol=1e-3, atol=1e-3
        )
    accepted = guard.accepted(reading)
    assert np.array_equal(accepted.numpy(), ~held(guard, engine, images))
    assert accepted.any()
    assert not accepted.all()
    assert torch.equal(accepted, guard.excess(reading) < 0)


def test_the_threshold_is_the_smallest_flagged_score():
    rng = np.random.default_rng(1)
    for n in (0, 1, 7, 99):
        # rounded: ties are where an off-by-one hides
        scores = np.sort(rng.normal(size=n).astype(np.float32).round(1))
        for level in (None, 0.004, 0.01, 0.02, 0.1, 0.125, 0.5, 1.0):
            threshold = lowest_flagged(scores, level)
            near = (scores, np.nextafter(scores, np.float32(9)), np.nextafter(scores, -9))
            for score in np.concatenate([*near, [-5, 5]]).astype(np.float32):
                flagged = level is not None and conformal_p(scores, float(score)) <= level
                assert flagged == (score >= threshold), (n, level, score)


@pytest.mark.parametrize("name", ["dfeat", "qfeat"])
def test_steps_without_a_gradient_can_be_followed(tmp_path, name):
    """The forest and the quantised features: their scores fall along the slopes put in."""
    guard, images = small_guard(tmp_path / "bundle", Head.SIGMOID, (name,))
    with torch.no_grad():
        suspicious = guard.readings(images).scores[:, 0].argsort(descending=True)[:4]
    x = images[suspicious].clone()
    with torch.no_grad():
        before = guard.readings(x).scores[:, 0]
    for _ in range(12):
        x = x.requires_grad_()
        (gradient,) = torch.autograd.grad(guard.readings(x).scores[:, 0].sum(), x)
        x = (x.detach() - 0.5 * gradient.sign()).clamp(0, 255)
    with torch.no_grad():
        after = guard.readings(x).scores[:, 0]
    assert (after < before).all()


@pytest.mark.parametrize("epsilon", [0.75, 1.5])
@pytest.mark.parametrize("name", AWARE)
def test_promises(guard, prepared, name, epsilon):
    spec = named(name, epsilon, {"steps": 3})
    at_hand = scene(guard, prepared[name])
    attacked = carry_out(spec, at_hand)
    assert attacked.dtype == torch.float32
    assert not attacked.requires_grad
    assert attacked.isfinite().all()
    assert attacked.min() >= 0
    assert attacked.max() <= 255
    assert torch.equal(at_hand.pixels, PIXELS), "the attack wrote into its input"
    change = (attacked - PIXELS).abs()
    assert change.max() <= epsilon * (1 + 1e-5)
    assert change.flatten(1).amax(dim=1).min() > 0
    if epsilon >= 1:
        assert torch.equal(attacked, attacked.round())
    clean = int(Need.IMAGES in spec.needs)
    assert (at_hand.model.forwards == clean + 3 + 1).all()
    gradients = 2 if name == "orthogonal_pgd" else 1
    assert (at_hand.model.backwards == 3 * gradients).all()
    assert all(weight.grad is None for weight in guard.parameters())


@pytest.mark.parametrize("name", AWARE)
def test_an_image_is_attacked_the_same_whatever_shares_its_batch(guard, prepared, name):
    spec = named(name, 2.0, {"steps": 2})
    together = carry_out(spec, scene(guard, prepared[name]))
    for i in range(4):
        alone = carry_out(spec, scene(guard, prepared[name], slice(i, i + 1)))
        # float32 convolutions of another batch size may turn a gradient that is nearly zero
        assert (alone != together[i : i + 1]).float().mean() < 0.01


def outcome(guard: GuardedModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """``bool[N]``: misdiagnosed; ``float[N]``: excess over the guard's thresholds."""
    with torch.no_grad():
        reading = guard.readings(images)
    return reached(reading.logits, LABELS, targeted=False), guard.excess(reading)


@pytest.fixture(scope="module")
def unaware(guard) -> Tensor:
    attacked = carry_out(named("pgd", 4.0, {"steps": 20}), scene(guard, None))
    return attacked.round()


def test_pgd_that_knows_nothing_of_the_guard_is_held(guard, engine, unaware):
    wrong, _ = outcome(guard, unaware)
    assert wrong.sum() >= 3
    assert held(guard, engine, unaware)[wrong.numpy()].all()


@pytest.mark.parametrize("name", AWARE)
def test_who_knows_the_guard_gets_by_where_pgd_does_not(guard, engine, unaware, prepared, name):
    """But for those who hide in the features alone: alignment reads the picture and holds them."""
    spec = named(name, 4.0, {"steps": 25})
    attacked = carry_out(spec, scene(guard, prepared[name]))
    wrong, excess = outcome(guard, attacked)
    both = wrong & outcome(guard, unaware)[0]
    assert both.any()
    assert (excess < outcome(guard, unaware)[1])[both].all()
    judged = guard.judge(attacked, LABELS, False)
    assert judged.any() == (name not in IN_FEATURES_ALONE)
    served = engine.run(attacked.numpy().astype(np.uint8)).probabilities.argmax(axis=1)
    truly = (served != LABELS.numpy()) & ~held(guard, engine, attacked)
    assert np.array_equal(judged.numpy(), truly)


def rank_and_value(guard: GuardedModel, images: Tensor) -> list[tuple[int, float]]:
    wrong, excess = outcome(guard, images)
    accepted = wrong & (excess < 0)
    return [
        (int(w) + int(a), -float(e) if w else 0.0)
        for w, a, e in zip(wrong, accepted, excess, strict=True)
    ]


def test_more_steps_are_never_weaker(guard):
    results = [
        rank_and_value(
            guard, carry_out(named("selective_pgd", 4.0, {"steps": n}), scene(guard, None))
        )
        for n in (4, 12)
    ]
    for fewer, more in pairwise(results):
        assert all(a <= (b[0], b[1] + 1e-3) for a, b in zip(fewer, more, strict=True))


def test_one_detector_can_be_evaded_alone(guard):
    spec = named("selective_pgd", 4.0, {"steps": 15, "detector": "agreement"})
    attacked = carry_out(spec, scene(guard, None))
    with torch.no_grad():
        reading = guard.readings(attacked)
    wrong = reached(reading.logits, LABELS, targeted=False)
    assert (guard.excess(reading, "agreement") < 0)[wrong].any()
    with pytest.raises(ValueError, match="mahalanobis"):
        carry_out(spec.model_copy(update={"detector": "no such"}), scene(guard, None))


@pytest.mark.parametrize("name", ["orthogonal_pgd", "hfc"])
def test_a_target_of_two_classes_is_the_other_one(guard, prepared, name):
    spec: AttackSpec = named(name, 4.0, {"steps": 12, "targeted": True})
    aimed = replace(scene(guard, prepared[name]), labels=1 - LABELS)
    wrong, _ = outcome(guard, carry_out(spec, aimed))
    assert wrong.any()


def small_guard(out: Path, head: Head, names: tuple[str, ...]) -> tuple[GuardedModel, Tensor]:
    """A guard on a network with random weights, and 60 images of the noise that it diagnoses."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    classes = ("a", "b") if head is Head.SIGMOID else ("a", "b", "c")
    spec = ModelSpec(
        name="small", classes=classes, head=head, preprocessing=Preprocessing(resize=(32, 32))
    )
    model = DiagnosticModel(spec, resnet([4, 8], [1, 1], 1, spec.logits))

    def noise(count: int) -> Tensor:
        return (
            torch.from_numpy(
                rng.integers(0, 255, (count, 32, 32, 1)) * rng.random((count, 1, 1, 1))
            )
            .round()
            .float()
        )

    def samples(count: int, labels: np.ndarray | None = None) -> Samples:
        pixels = noise(count)
        return Samples(
            images=tuple(pixels.numpy().astype(np.uint8)),
            labels=model(pixels).argmax(dim=1).numpy() if labels is None else labels,
            groups=tuple(str(i) for i in range(count)),
            keys=tuple(str(i) for i in range(count)),
            origin="clean" if labels is None else "pgd",
            level=1.0,
            attacked=labels is not None,
        )

    with torch.no_grad():
        (*_, last) = (part for part in model.network.modules() if isinstance(part, nn.Linear))
        logits = model.network(model.preprocess(noise(99)))
        last.weight /= logits.std(dim=0)[:, None]
        last.bias.copy_((last.bias - logits.median(dim=0).values) / logits.std(dim=0))
        # other noise, of which half is diagnosed otherwise, stands for attacks
        splits = [
            FitSplit((clean,), (samples(60, clean.labels),)) for clean in (samples(60), samples(60))
        ]
        bundle = fit(model, *splits, samples(400), out, names=names)
    return GuardedModel(bundle), noise(60)


@pytest.mark.parametrize(
    ("head", "names"),
    [
        (Head.SIGMOID, ("kd", "dfeat", "qfeat", "witness", "residual")),
        (Head.MULTILABEL, ("lid", "agreement")),
    ],
)
def test_other_heads_and_a_guard_without_a_squeezed_view(tmp_path, head, names):
    guard, images = small_guard(tmp_path / "bundle", head, names)
    pixels, own = images[:4], images[4:]
    with torch.no_grad():
        torch.testing.assert_close(guard(pixels), guard.readings(pixels).logits)
        answers = decisions(guard(images), multilabel=head is Head.MULTILABEL)
    attacker = Attacker(guard, tuple(own), answers[4:], seed=5, guard=guard)
    for name in AWARE:
        spec = named(name, 4.0, {"steps": 4})
        at_hand = Scene(Access(guard, 4), pixels, answers[:4], range(4), lambda _: None, guard)
        attacked = carry_out(spec, replace(at_hand, prepared=spec.prepare(attacker)))
        assert (attacked - pixels).abs().max() <= 4
        assert reached(guard(attacked), answers[:4], targeted=False).any(), name


def test_expectation_over_random_neighbours_counts_every_draw(guard):
    spec = named("joint_pgd", 2.0, {"steps": 2, "eot": True, "samples": 3})
    at_hand = scene(guard, None)
    attacked = carry_out(spec, at_hand)
    assert (at_hand.model.forwards == 2 * 3 + 1).all()
    assert (at_hand.model.backwards == 2 * 3).all()
    assert (attacked - PIXELS).abs().max() <= 2
    once, again = (neighbour(PIXELS, range(4), 1) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.equal(once[2:], neighbour(PIXELS[2:], range(2, 4), 1))
    assert not torch.equal(once, neighbour(PIXELS, range(4), 2))


def test_accepted_beats_misdiagnosed_beats_near():
    best = Best.of(torch.zeros(1, 1, 1, 1))
    offers = [(0, 9.0), (1, -5.0), (0, 99.0), (1, -4.0), (2, 0.1), (1, 50.0), (2, 0.3), (2, 0.2)]
    kept = []
    for place, (rank, value) in enumerate(offers, 1):
        pixels = torch.full((1, 1, 1, 1), float(place))
        best.offer(pixels, torch.tensor([rank]), torch.tensor([value]))
        kept.append(int(best.pixels))
    assert kept == [1, 2, 2, 4, 5, 5, 7, 7]


def test_the_goal_of_an_untargeted_attack_is_the_nearest_other_answer():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0]])
    assert goals(logits, torch.tensor([0, 1]), targeted=False).tolist() == [2, 0]
    assert goals(logits, torch.tensor([1, 2]), targeted=True).tolist() == [1, 2]
    findings = torch.tensor([[True, False, True]])
    turned = goals(torch.tensor([[3.0, -0.5, 2.0]]), findings, targeted=False)
    assert turned.tolist() == [[True, True, True]]
