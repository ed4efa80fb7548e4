"""Attacks beyond noise beside foolbox and ART: a grid of transforms, one perturbation for all.

No library has the bias field, the header or the searches over gamma and contrast. ART's
AdversarialPatchPyTorch needs torchvision, which this project does without.
"""

from __future__ import annotations

from importlib.metadata import version

import foolbox
import numpy as np
import torch
from torch import Tensor, nn

from attacks.access import at
from attacks.ball import Norm
from attacks.beyond_noise.learned import Schedule
from attacks.beyond_noise.spatial import spatial
from attacks.beyond_noise.universal import learn_universal, universal
from attacks.spec import Attacker
from benchmarks.agreement.match import Match, Setting, to_grey

EPSILON = 8.0
PASSES = 30
"""Over the images that the universal perturbation is learned on."""

DEGREES, PIXELS = 20.0, 3.0


def _spatial(setting: Setting) -> Tensor:
    return spatial(
        setting.model,
        setting.pixels,
        setting.labels,
        degrees=DEGREES,
        degree_spacing=DEGREES / 2,
        shift=PIXELS,
        shift_spacing=PIXELS / 2,
        halvings=0,
        padding="black",
    )


def _foolbox_spatial(setting: Setting) -> Tensor:
    model = foolbox.PyTorchModel(setting.unit_model.eval(), bounds=(0, 1))
    attack = foolbox.attacks.SpatialAttack(
        max_translation=PIXELS, max_rotation=DEGREES, num_translations=5, num_rotations=5
    )
    found: Tensor = attack.run(
        model, setting.unit_pixels, foolbox.criteria.Misclassification(setting.labels)
    )
    return to_grey(found.clamp(0, 1))


def _learned_on(setting: Setting) -> tuple[Tensor, Tensor]:
    """The first half: both sides learn on it and attack only the other."""
    half = (len(setting.pixels) + 1) // 2
    return setting.pixels[:half], setting.labels[:half]


def _universal(setting: Setting) -> Tensor:
    images, labels = _learned_on(setting)
    learned = learn_universal(
        Attacker(
            at(setting.model, torch.arange(len(images))), tuple(images), labels, seed=setting.draw
        ),
        epsilon=EPSILON,
        schedule=Schedule(EPSILON / 4, PASSES, 16),
    )
    attacked = universal(setting.pixels, learned.of(setting.labels))
    return torch.cat([images, attacked[len(images) :]])


def _art_universal(setting: Setting) -> Tensor:
    from art.attacks.evasion import UniversalPerturbation
    from art.estimators.classification import PyTorchClassifier

    images, labels = _learned_on(setting)
    unit = images.permute(0, 3, 1, 2).contiguous().cpu() / 255
    # it sends single images, which are all counted on the first
    first = torch.arange(1)
    alone = Setting(at(setting.model, first), setting.pixels[first], setting.labels[first])
    classifier = PyTorchClassifier(
        alone.unit_model.eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(unit.shape[1:]),
        nb_classes=setting.classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = UniversalPerturbation(
        classifier,
        attacker="pgd",
        attacker_params={
            "eps": EPSILON / 255,
            "eps_step": EPSILON / 255 / 4,
            "max_iter": 5,
            "verbose": False,
        },
        delta=0.0,
        max_iter=PASSES // 5,
        eps=EPSILON / 255,
        norm=np.inf,
        verbose=False,
    )
    attack.generate(unit.numpy(), y=labels.cpu().numpy())
    noise = torch.from_numpy(np.asarray(attack.noise, dtype=np.float32)).to(setting.pixels.device)
    attacked = to_grey((setting.unit_pixels + noise).clamp(0, 1))
    return torch.cat([images, attacked[len(images) :]])


_FOOLBOX = f"foolbox {version('foolbox')}"
_ART = f"adversarial-robustness-toolbox {version('adversarial-robustness-toolbox')}"

MATCHES: tuple[Match, ...] = (
    Match(
        "spatial",
        _FOOLBOX,
        Norm.LINF,
        _spatial,
        _foolbox_spatial,
        note="the same grid of 125 transforms, black beyond the border; no norm bounds either. "
        "foolbox keeps the first of its grid that fools, an extreme one, and ours the smallest; it "
        "shifts by (W - 1) / W of the pixels asked for",
    ),
    Match(
        "universal",
        _ART,
        Norm.LINF,
        _universal,
        _art_universal,
        note="both learned on the first half of the batch with 30 passes an image and attack the "
        "other half; ART's passes are PGD's of 5 steps on each image in turn and its own queries "
        "come on top",
        draws=5,
    ),
)
