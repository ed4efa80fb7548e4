"""What the networks beside the model learn, and what they must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny_bundle import write_bundle
from torch import Tensor, nn

from detectors.acceptance import aligned_of
from detectors.aligned import Seed
from detectors.bundle import Bundle
from detectors.residual_network import CROP
from detectors.samples import Measured, Samples
from detectors.shortfalls import SYNTHETIC, WITNESS, shortfalls
from detectors.side_networks import (
    SideNetworks,
    followed,
    foresight,
    gradient_of,
    inputs_of,
    teach,
    teach_gradient,
)
from detectors.statistics import auc
from models.diagnostic import DiagnosticModel
from models.preprocess import Preprocess
from models.spec import ModelSpec, Preprocessing

SIDE = 48
SPEC = ModelSpec(name="small", classes=("a", "b"), preprocessing=Preprocessing(resize=(SIDE, SIDE)))
assert SIDE < CROP


def scenes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``uint8[N, SIDE, SIDE, 1]``: soft blobs with grain, and where their light lies, left to
    right."""
    rng = np.random.default_rng(seed)
    across, down = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2)
    place = rng.uniform(-0.8, 0.8, count)
    blobs = np.exp(-4 * ((across - place[:, None, None]) ** 2 + down**2))
    grain = rng.normal(scale=1.5, size=blobs.shape)
    return np.rint(60 + 120 * blobs + grain).clip(0, 255).astype(np.uint8)[..., None], place


def attacked(images: np.ndarray, seed: int) -> np.ndarray:
    """Moved by two grey levels up or down in blocks of two, as a strided model's gradients do."""
    rng = np.random.default_rng(seed)
    signs = rng.choice((-2, 2), (len(images), SIDE // 2, SIDE // 2, 1))
    return (images + signs.repeat(2, 1).repeat(2, 2)).clip(0, 255).astype(np.uint8)


def noisy(images: np.ndarray, seed: int) -> np.ndarray:
    """As far, but every pixel on its own."""
    signs = np.random.default_rng(seed).choice((-2, 2), images.shape)
    return (images + signs).clip(0, 255).astype(np.uint8)


def samples(images: np.ndarray, origin: str, level: float = 0.0) -> Samples:
    names = tuple(str(i) for i in range(len(images)))
    labels = np.zeros(len(images), np.int64)
    return Samples(tuple(images), labels, names, names, origin, level, level > 0)


def answers(place: np.ndarray) -> Measured:
    """A model whose logits are linear in the place."""
    logits = np.stack([40 * place, -40 * place], axis=1).astype(np.float32)
    nothing = np.zeros((len(place), 0), np.float32)
    rows = np.zeros((len(place), 1), np.float32)
    return Measured(logits, rows, logits, nothing, rows[:, 0], *[nothing] * 5)


def read(networks: SideNetworks, images: np.ndarray) -> tuple[Tensor, np.ndarray]:
    witness, residual = networks.read(Preprocess(SPEC.preprocessing), tuple(images))
    return torch.from_numpy(witness), residual[:, 0] if residual.shape[1] else residual


def test_the_student_answers_as_the_model_does_on_images_it_never_saw() -> None:
    images, place = scenes(500, 0)
    networks = teach(("witness",), SPEC, [(samples(images, "clean"), answers(place))], (), 0)
    fresh, there = scenes(100, 1)
    said, residual = read(networks, fresh)
    assert residual.shape == (100, 0)
    margin = (said[:, 0] - said[:, 1]).numpy()
    assert np.corrcoef(margin, there)[0, 1] > 0.97
    assert np.std(margin) > 0.5 * np.std(80 * there)


def test_a_witness_that_has_not_learnt_enough_is_told(tmp_path: Path) -> None:
    measured = answers(scenes(60, 0)[1])
    perfect = replace(measured, witness_logits=measured.class_logits + 3)
    assert followed(perfect) == 1
    assert followed(replace(measured, witness_logits=0 * measured.class_logits)) == 0
    manifest = Bundle.open(write_bundle(tmp_path / "tiny")).manifest
    for value, told in ((0.47, True), (0.99, False)):
        known = manifest.model_copy(update={"provenance": {WITNESS: value}})
        assert any("witness" in sentence for sentence in shortfalls(known)) == told


def test_attacks_are_told_from_noise_of_their_size_whatever_the_file_was() -> None:
    """The residual network must not live on size, nor on a JPEG file's missing grid."""
    images, place = scenes(120, 0)
    material = [(samples(images, "clean"), answers(place))]
    hit = samples(attacked(images, 2), "pgd", 2.0)
    networks = teach(("residual",), SPEC, material, [hit], 0)
    fresh, _ = scenes(80, 1)
    _, by_noise = read(networks, noisy(fresh, 3))
    _, by_attack = read(networks, attacked(fresh, 4))
    _, by_nothing = read(networks, fresh)
    assert auc(by_noise, by_attack) > 0.95
    assert auc(by_nothing, by_attack) > 0.9


def smooth_model() -> DiagnosticModel:
    """A network as smooth as hardening makes them."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 5, 2, padding=2), nn.Softplus(), nn.Conv2d(8, 8, 3, 2, padding=1),
        nn.Softplus(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 2),
    )  # fmt: skip
    return DiagnosticModel(SPEC, network)


def test_a_step_along_the_gradient_shows_in_what_is_foretold_of_it() -> None:
    """On images that the network has not seen, and noise of the same size must not show."""
    model = smooth_model()
    images, _ = scenes(160, 0)
    network = teach_gradient(model, tuple(images), 0)
    fresh, _ = scenes(60, 1)
    assert foresight(network, model, tuple(fresh)) > 0.3

    x = inputs_of(model.preprocess, list(fresh))
    raw, gradient = gradient_of(model, x, Seed(SPEC.head))
    assert raw.shape == (60, 2)
    step = 2 * model.preprocess.gain
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign()
    plain, noisy_, hit = (
        aligned_of(model, seen, exact=False, foretold=network)[:, 0].numpy()
        for seen in (x, x + step * noise, x + step * gradient.sign())
    )
    assert auc(plain, hit) > 0.95
    assert auc(noisy_, hit) > 0.95
    assert aligned_of(model, x, exact=True, foretold=network).shape == (60, 3)
    assert aligned_of(model, x, exact=False, foretold=None).shape == (60, 0)


def test_teaching_is_the_same_again() -> None:
    images, _ = scenes(40, 0)
    a, b = (teach_gradient(smooth_model(), tuple(images), 3).state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_images_of_one_tone_teach_nothing_and_break_nothing() -> None:
    blank = np.full((40, SIDE, SIDE, 1), 7, np.uint8)
    network = teach_gradient(smooth_model(), tuple(blank), 0)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_a_gradient_that_is_not_foretold_is_told(tmp_path: Path) -> None:
    manifest = Bundle.open(write_bundle(tmp_path / "tiny")).manifest
    for value, told in ((0.04, True), (0.2, False)):
        known = manifest.model_copy(update={"provenance": {SYNTHETIC: value}})
        assert any("synthetic gradient" in text for text in shortfalls(known)) == told


def test_inputs_are_those_of_the_graph_resized_or_not() -> None:
    preprocess = Preprocess(SPEC.preprocessing)
    rng = np.random.default_rng(0)
    for shape in ((SIDE, SIDE, 1), (SIDE, SIDE, 3), (60, 50, 1)):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        torch.testing.assert_close(
            inputs_of(preprocess, [image]), preprocess(torch.from_numpy(image)[None])
        )
