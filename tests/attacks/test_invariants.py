"""What every attack of the registry promises, whatever it does inside."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks.access import Access
from attacks.ball import Norm, size
from attacks.objective import reached
from attacks.registry import category, methods, named, norms
from attacks.spec import Attacker, AttackSpec, Kind, Need, Scene, carry_out

EPSILON = {Norm.LINF: 4.0, Norm.L2: 40.0, Norm.L1: 300.0, Norm.L0: 12.0}
CASES = [
    (name, norm)
    for name, method in methods().items()
    if category(method) != "guard_aware"
    for norm in norms(method)
]


def spec_of(name: str, norm: Norm) -> AttackSpec:
    quick = dict(methods()[name].smoke)
    if Need.SURROGATE in methods()[name].needs:
        quick["surrogate"] = "the task's"
    return named(name, EPSILON[norm], {"norm": norm, **quick})


def attacker_of(task) -> Attacker:
    """The attacker's images are the last of the task's, and none of those attacked here."""
    return Attacker(
        Access(task.model, 20),
        tuple(task.pixels[-20:]),
        task.labels[-20:],
        seed=5,
        load=lambda _: task.surrogate,
    )


def scene_of(task, spec: AttackSpec, pixels: Tensor, labels: Tensor, seeds) -> Scene:
    scene = Scene(Access(task.model, len(pixels)), pixels, labels, seeds, lambda _: None)
    if spec.needs & {Need.IMAGES, Need.SURROGATE}:
        scene = replace(scene, prepared=spec.prepare(attacker_of(task)))
    return scene


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_promises(task, name, norm):
    spec = spec_of(name, norm)
    pixels, labels = task.pixels[:6].clone(), task.labels[:6]
    scene = scene_of(task, spec, pixels, labels, range(6))
    attacked = carry_out(spec, scene)

    assert attacked.shape == pixels.shape
    assert attacked.dtype == torch.float32
    assert not attacked.requires_grad
    assert attacked.isfinite().all()
    assert attacked.min() >= 0
    assert attacked.max() <= 255
    assert torch.equal(pixels, task.pixels[:6]), "the attack wrote into its input"
    if spec.epsilon is not None:
        assert (size(attacked - pixels, norm) <= spec.epsilon * (1 + 1e-4) + 1e-4).all()
    if spec.kind is Kind.MINIMUM:
        failed = ~reached(task.model(attacked), labels, targeted=False)
        assert torch.equal(attacked[failed], pixels[failed]), "a failure comes back as it was"

    access = scene.model
    # what was learned on images of the attacker's own is laid over these without a query
    learned = Need.IMAGES in spec.needs
    assert learned or (access.forwards > 0).all()
    if Need.GRADIENTS in spec.needs:
        assert learned or (access.backwards > 0).any()
    else:
        assert not access.backwards.any()
    assert all(p.grad is None for p in task.model.parameters()), "weight gradients were computed"


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_an_image_is_attacked_the_same_whatever_shares_its_batch(task, name, norm):
    spec = spec_of(name, norm)
    pixels, labels = task.pixels[:4], task.labels[:4]
    together = carry_out(spec, scene_of(task, spec, pixels, labels, range(4)))
    for i in range(4):
        rows = slice(i, i + 1)
        alone = carry_out(spec, scene_of(task, spec, pixels[rows], labels[rows], [i]))
        torch.testing.assert_close(alone, together[rows], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_findings_of_a_multi_label_model_can_be_attacked(findings, name, norm):
    spec = spec_of(name, norm)
    pixels, labels = findings.pixels[:4], findings.labels[:4]
    attacked = carry_out(spec, scene_of(findings, spec, pixels, labels, range(4)))
    assert attacked.isfinite().all()
    if spec.epsilon is not None:
        assert (size(attacked - pixels, norm) <= spec.epsilon * (1 + 1e-4) + 1e-4).all()


class _Weighted(nn.Module):
    """Two classes whose margin is a weighted sum of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(256, generator=torch.Generator().manual_seed(1))
        self.register_buffer("weights", (weights - weights.mean()) / 20)

    def forward(self, pixels: Tensor) -> Tensor:
        margin = (pixels.flatten(1) - 128) @ self.weights
        return torch.stack([margin, -margin], dim=1)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_pixels_at_black_and_white_can_move(name, norm):
    """Clipped and padded backgrounds are half of a medical image."""
    spec = spec_of(name, norm)
    if Need.GRADIENTS not in spec.needs:
        pytest.skip("follows no gradient: what moves is its own choice")
    if category(type(spec)) == "beyond_noise":
        pytest.skip("does not move single pixels")
    model = _Weighted()
    pixels = torch.zeros(2, 16, 16, 1)
    pixels[1] = 255.0
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    scene = Scene(Access(model, 2), pixels, labels, range(2), lambda _: None)
    attacked = carry_out(spec, scene)
    assert ((attacked != pixels).flatten(1).any(dim=1)).all()
