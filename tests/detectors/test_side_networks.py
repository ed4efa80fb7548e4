"""What the networks beside the model learn, and what they must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny_bundle import write_bundle
from torch import Tensor

from detectors.bundle import Bundle
from detectors.residual_network import CROP
from detectors.samples import Measured, Samples
from detectors.shortfalls import WITNESS, shortfalls
from detectors.side_networks import SideNetworks, followed, inputs_of, teach
from detectors.statistics import auc
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


def test_inputs_are_those_of_the_graph_resized_or_not() -> None:
    preprocess = Preprocess(SPEC.preprocessing)
    rng = np.random.default_rng(0)
    for shape in ((SIDE, SIDE, 1), (SIDE, SIDE, 3), (60, 50, 1)):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        torch.testing.assert_close(
            inputs_of(preprocess, [image]), preprocess(torch.from_numpy(image)[None])
        )
