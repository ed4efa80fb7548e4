"""Attacks that ask questions, beside foolbox, ART and a plain reference, at equal queries."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor, nn

from attacks.access import at
from attacks.ball import Norm
from attacks.black_box.boundary import boundary
from attacks.black_box.geoda import geoda
from attacks.black_box.hopskipjump import hopskipjump
from attacks.black_box.nes import nes
from attacks.black_box.simba import simba
from benchmarks.agreement.match import Match, Run, Setting, to_grey

_ART = f"ART {version('adversarial-robustness-toolbox')}"
_FOOLBOX = f"foolbox {version('foolbox')}"

QUERIES = 500
HOPSKIPJUMP_QUERIES = {Norm.L2: 520, Norm.LINF: 550}
HOPSKIPJUMP_STEPS = 3  # 100, 141 and 173 probes, beside some 53 for the start and its searches
BOUNDARY_STEPS = 409  # a tenth asks twice, 53 for the start and at least one noise image
SIMBA_STEP = 51.0
GEODA_SIGMA = 1.0
NES_EPSILON, NES_SAMPLES, NES_SIGMA = 4.0, 24, 1.0


def _hopskipjump(norm: Norm) -> Run:
    def run(setting: Setting) -> Tensor:
        return hopskipjump(
            setting.model,
            setting.pixels,
            setting.labels,
            queries=HOPSKIPJUMP_QUERIES[norm],
            seeds=setting.seeds,
            norm=norm,
        )

    return run


def _boundary(setting: Setting) -> Tensor:
    return boundary(
        setting.model,
        setting.pixels,
        setting.labels,
        queries=QUERIES,
        seeds=setting.seeds,
    )


def _simba(setting: Setting) -> Tensor:
    return simba(
        setting.model,
        setting.pixels,
        setting.labels,
        queries=QUERIES,
        seeds=setting.seeds,
        step=SIMBA_STEP,
    )


def _nes(setting: Setting) -> Tensor:
    return nes(
        setting.model,
        setting.pixels,
        setting.labels,
        epsilon=NES_EPSILON,
        step=NES_EPSILON / 5,
        queries=QUERIES,
        seeds=setting.seeds,
        samples=NES_SAMPLES,
        sigma=NES_SIGMA,
    )


def _foolbox(attack: str, **parameters: object) -> Run:
    def run(setting: Setting) -> Tensor:
        import foolbox

        torch.manual_seed(setting.draw)
        model = foolbox.PyTorchModel(
            setting.unit_model.eval(), bounds=(0, 1), device=setting.pixels.device
        )
        found = setting.unit_pixels
        # one by one: it raises for the whole batch if one image has no start
        for row in range(len(found)):
            rows = slice(row, row + 1)
            wanted = foolbox.criteria.Misclassification(setting.labels[rows])
            try:
                found[rows] = getattr(foolbox.attacks, attack)(**parameters).run(
                    model, found[rows], wanted
                )
            except ValueError as error:
                if "init_attack failed" not in str(error):
                    raise
        return to_grey(found)

    return run


def _art_simba(setting: Setting) -> Tensor:
    from art.attacks.evasion import SimBA
    from art.estimators.classification import PyTorchClassifier

    results = []
    np.random.seed(0)  # the state that ART draws from
    for row in range(len(setting.pixels)):
        rows = torch.arange(row, row + 1, device=setting.pixels.device)
        alone = Setting(at(setting.model, rows), setting.pixels[rows], setting.labels[rows])
        classifier = PyTorchClassifier(
            nn.Sequential(alone.unit_model, nn.Softmax(dim=1)).eval(),
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(alone.unit_pixels.shape[1:]),
            nb_classes=setting.classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        attack = SimBA(
            classifier,
            attack="px",
            max_iter=(QUERIES - 1) // 2,
            epsilon=SIMBA_STEP / 255,
            freq_dim=alone.unit_pixels.shape[2],
            verbose=False,
        )
        one_hot = np.eye(setting.classes, dtype=np.float32)[setting.labels[rows].cpu().numpy()]
        results.append(attack.generate(alone.unit_pixels.cpu().numpy(), one_hot))
    return to_grey(torch.from_numpy(np.concatenate(results)).to(setting.pixels))


def _geoda(setting: Setting) -> Tensor:
    return geoda(
        setting.model,
        setting.pixels,
        setting.labels,
        queries=QUERIES,
        seeds=range(len(setting.pixels)),
        probe=GEODA_SIGMA,
    )


def _art_geoda(setting: Setting) -> Tensor:
    from art.attacks.evasion import GeoDA
    from art.estimators.classification import PyTorchClassifier

    np.random.seed(0)  # the state that ART draws from
    np.mat = np.asmatrix  # type: ignore[attr-defined]  # which numpy 2 removed and ART still calls
    classifier = PyTorchClassifier(
        nn.Sequential(setting.unit_model, nn.Softmax(dim=1)).eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(setting.unit_pixels.shape[1:]),
        nb_classes=setting.classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = GeoDA(
        classifier,
        norm=2,
        sub_dim=setting.pixels.shape[1] // 3,
        max_iter=QUERIES,
        sigma=GEODA_SIGMA / 255,
        verbose=False,
    )
    one_hot = np.eye(setting.classes, dtype=np.float32)[setting.labels.cpu().numpy()]
    found = attack.generate(setting.unit_pixels.cpu().numpy(), one_hot)
    return to_grey(torch.from_numpy(found).to(setting.pixels))


def _plain_nes(setting: Setting) -> Tensor:
    """The paper's estimator with one noise for the whole batch, and its last iterate."""
    generator = torch.Generator().manual_seed(setting.draw)
    source, labels = setting.pixels, setting.labels
    x = source.clone()

    def probability(shown: Tensor) -> Tensor:
        return setting.model(shown).log_softmax(1).gather(1, labels[:, None])[:, 0]

    with torch.no_grad():
        for _ in range(QUERIES // NES_SAMPLES):
            estimate = torch.zeros_like(x)
            for _ in range(NES_SAMPLES // 2):
                u = torch.randn(x.shape[1:], generator=generator).to(x)
                rise = probability(x + NES_SIGMA * u) - probability(x - NES_SIGMA * u)
                estimate += rise.to(x.dtype)[:, None, None, None] * u
            x = x - NES_EPSILON / 5 * estimate.sign()
            x = (source + (x - source).clamp(-NES_EPSILON, NES_EPSILON)).clamp(0, 255)
    return x


_START = "foolbox spends 50 of its queries on a linear search for the start"

MATCHES: tuple[Match, ...] = (
    Match(
        "hopskipjump-l2",
        _FOOLBOX,
        Norm.L2,
        _hopskipjump(Norm.L2),
        _foolbox("HopSkipJumpAttack", steps=HOPSKIPJUMP_STEPS, constraint="l2"),
        minimum=True,
        note=f"{HOPSKIPJUMP_QUERIES[Norm.L2]} queries, foolbox a few more in {HOPSKIPJUMP_STEPS} "
        f"steps; {_START}",
    ),
    Match(
        "hopskipjump-linf",
        _FOOLBOX,
        Norm.LINF,
        _hopskipjump(Norm.LINF),
        _foolbox("HopSkipJumpAttack", steps=HOPSKIPJUMP_STEPS, constraint="linf"),
        minimum=True,
        note=f"{HOPSKIPJUMP_QUERIES[Norm.LINF]} queries, foolbox a few more in {HOPSKIPJUMP_STEPS} "
        f"steps; {_START}",
    ),
    Match(
        "boundary",
        _FOOLBOX,
        Norm.L2,
        _boundary,
        _foolbox("BoundaryAttack", steps=BOUNDARY_STEPS),
        minimum=True,
        note=f"{QUERIES} queries, foolbox as many or a few more; {_START} and adapts its step "
        "sizes only after 300 steps towards the source",
    ),
    Match(
        "simba",
        _ART,
        Norm.L2,
        _simba,
        _art_simba,
        note=f"{QUERIES} queries, 51 grey levels on one pixel; ART asks about both signs of every "
        "direction, ours about the second only if the first is refused",
    ),
    Match(
        "geoda",
        _ART,
        Norm.L2,
        _geoda,
        _art_geoda,
        minimum=True,
        note=f"{QUERIES} queries and probes of one grey level; ART spends its first ones on noise "
        "until one wins",
    ),
    Match(
        "nes-4",
        "plain reference",
        Norm.LINF,
        _nes,
        _plain_nes,
        note=f"{QUERIES} queries, {NES_SAMPLES} a step; no library here has it",
    ),
)
