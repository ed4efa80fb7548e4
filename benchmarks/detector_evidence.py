"""What every detector adds: alone, to the fusion, and to the graph.

    PYTHONPATH=. python benchmarks/detector_evidence.py --data $LAZARET_DATA \\
        --out docs/results/detectors.md

One model, one fit: the registered detectors are fitted on the reference split and judged on test
patients, each alone; then fusions of the default ones, with one more and with one fewer. Attacks
are kept in ``$LAZARET_CACHE``, so a second run only measures. A sample small enough for two busy
cores: intervals are wide, and only differences that they do not explain should decide anything.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from attacks.campaign import (
    FIT_SHIFTS,
    attack_as_delivered,
    attacked_once,
    shifted,
)
from attacks.corruptions import CORRUPTIONS
from attacks.generate import bench_of
from attacks.part_store import PartStore, default_folder
from attacks.work import Bench
from detectors.bundle import UNUSUAL
from detectors.detector import Detector
from detectors.feature_graph import feature_graph
from detectors.features import Features
from detectors.fit import tap_widths
from detectors.fusion import Fusion
from detectors.grain import Grain
from detectors.guard import DETECTORS, IN_FULL, split_taps
from detectors.guard_data import clean_samples, draw, guard_examples, split_samples
from detectors.guard_data import test_examples as judging_examples
from detectors.history_test import HistoryResult, history_test
from detectors.judgement import HEADLINE_FPR, threshold
from detectors.measured_split import MeasuredSplit, fit_arguments
from detectors.null_test import refitted_null_test
from detectors.quality import Quality
from detectors.residual import Residual
from detectors.samples import Measured, Samples, group_numbers, measure
from detectors.side_networks import SideNetworks, teach_gradient
from detectors.statistics import auc, bootstrap_over_groups
from detectors.witness import Witness
from models.datasets import load_images, read_dataset, unlabelled
from models.diagnostic import DiagnosticModel
from models.export import export_onnx
from models.load import load_model, model_digest, victim_of
from models.machine import describe
from models.onnx_engine import OnnxEngine

NOISE = (
    "faint_noise",
    "sign_noise",
    "gaussian_noise",
    "shot_noise",
    "speckle_noise",
    "impulse_noise",
)
CRISP = "sharpen"
OTHER = ("jpeg", "gaussian_blur", "brightness_up", "contrast_down", "contrast_up", "gamma_down")
FAMILIES = ("fgsm", "pgd", "cw_linf")
EPSILONS = (1.0, 2.0, 4.0)
SITE, PNG = "cxr_hannover_covid", "cxr_kermany_png"

PAPER = ("kd", "lid", "mahalanobis", "dfeat", "qfeat", "agreement")

JUDGED = {name: build for name, build in DETECTORS.items() if build not in (Witness, Residual)}
"""Those that need no network of their own beside the model's."""

Vector = npt.NDArray[np.float64]
Pair = tuple[Samples, Measured]


@dataclass(frozen=True, slots=True)
class Material:
    """Everything measured once."""

    reference: MeasuredSplit
    fusion: MeasuredSplit
    clean: Pair
    shifts: tuple[Pair, ...]
    attacks: tuple[Pair, ...]
    site: Pair
    png: Pair
    png_attacks: tuple[Pair, ...]


def gather(model: DiagnosticModel, bench: Bench, data: Path, sizes: argparse.Namespace) -> Material:
    """Draw, shift, attack and measure."""
    seed = 0
    store = PartStore(default_folder())
    dataset = read_dataset(data / "cxr_kermany", model.spec.classes)
    splits = split_samples(
        clean_samples(load_images(guard_examples(dataset, model.spec, seed))), seed
    )
    learnt = draw(splits["reference"], sizes.fit_images, seed)
    beside = SideNetworks(gradient=teach_gradient(model, learnt.images, seed))
    engine = OnnxEngine(
        feature_graph(model, True, beside, grain=True, aligned=True).SerializeToString(),
        threads=1,
    )

    def read(samples: Samples) -> Pair:
        return samples, measure(engine, samples)

    def fitting(name: str, attacked: int) -> MeasuredSplit:
        clean = draw(splits[name], sizes.fit_images, seed)
        part = draw(clean, sizes.fit_shifted, seed)
        hit = attacked_once(
            bench, draw(clean, attacked, seed), progress=lambda *_: None, store=store
        )
        benign = [clean, *(shifted(part, kind, level, seed) for kind, level in FIT_SHIFTS)]
        return MeasuredSplit.build([read(s) for s in benign], [read(s) for s in hit])

    def hit(clean: Samples, families: Sequence[str], epsilons: Sequence[float]) -> tuple[Pair, ...]:
        made = attack_as_delivered(
            bench, clean, families, epsilons, progress=lambda *_: None, store=store
        )
        return tuple(read(one.samples) for one in made)

    reference, fusion = (
        fitting("reference", sizes.attacked),
        fitting("fusion", sizes.fusion_attacked),
    )
    test = draw(clean_samples(load_images(judging_examples(dataset, seed))), sizes.clean, seed)
    shown, few = draw(test, sizes.shifted, seed), draw(test, sizes.others, seed)
    shifts = [
        shifted(shown, kind, level, seed)
        for kind in (*NOISE, CRISP)
        for level in CORRUPTIONS[kind].severities
        if level <= 2
    ]
    shifts += [shifted(few, kind, level, seed) for kind in OTHER for level in (1, 2)]
    png = draw(
        clean_samples(
            load_images(judging_examples(read_dataset(data / PNG, model.spec.classes), seed))
        ),
        sizes.png,
        seed,
    )
    site = clean_samples(load_images(unlabelled(data / SITE, 220)))
    return Material(
        reference,
        fusion,
        read(test),
        tuple(read(s) for s in shifts),
        hit(draw(test, sizes.test_attacked, seed), FAMILIES, EPSILONS),
        read(replace(site, origin=SITE)),
        read(png),
        hit(png, ("pgd",), (1.0, 2.0)),
    )


class Judge:
    """Scores of fitted detectors and fusions over the material."""

    def __init__(self, material: Material, widths: tuple[int, ...]) -> None:
        self.material, self.widths = material, widths
        arguments = fit_arguments(material.reference, widths)
        self.detectors: dict[str, Detector] = {}
        for name, build in JUDGED.items():
            torch.manual_seed(0)
            self.detectors[name] = build().fit(*arguments).eval()
        clean = np.arange(material.reference.clean)
        self.quality = Quality().fit(
            material.reference.benign.rows(clean).features(widths),
            arguments[1][: len(clean)],
            arguments[2],
            torch.cat([arguments[3][: len(clean)], arguments[3][len(arguments[1]) :]]),
        )
        self.fused = {"default": IN_FULL, "the paper's and agreement": PAPER} | {
            **{f"with {name}": (*IN_FULL, name) for name in JUDGED if name not in IN_FULL},
            **{f"without {name}": tuple(d for d in IN_FULL if d != name) for name in IN_FULL},
        }
        self.fusions = {
            title: Fusion().fit(
                self.columns(material.fusion.benign, names),
                self.columns(material.fusion.attacked, names),
            )
            for title, names in self.fused.items()
        }
        self._cache: dict[int, Tensor] = {}

    def columns(self, measured: Measured, names: Sequence[str]) -> Tensor:
        """``float32[N, D]``."""
        features = measured.features(self.widths)
        with torch.no_grad():
            return torch.stack([self.detectors[name](features) for name in names], dim=1)

    def score(self, name: str, measured: Measured) -> Vector:
        """Of a detector, of a fusion by its title, or ``quality``."""
        with torch.no_grad():
            if name == "quality":
                found = self.quality(measured.features(self.widths))
            elif name in self.fusions:
                found = self.fusions[name](self.columns(measured, self.fused[name]))
            else:
                found = self.columns(measured, [name])[:, 0]
        return found.numpy().astype(float)


def joined_scores(judge: Judge, name: str, pairs: Sequence[Pair]) -> Vector:
    """Over several sets of samples."""
    return np.concatenate([judge.score(name, measured) for _, measured in pairs])


def successful(pairs: Sequence[Pair], clean: Pair) -> list[tuple[Pair, Vector]]:
    """Attacks with the rows that turned a right diagnosis into a wrong one."""
    right = dict(zip(clean[0].keys, clean[1].predicted == clean[0].labels, strict=True))
    return [
        (
            (samples, measured),
            np.flatnonzero(
                (measured.predicted != samples.labels) & np.array([right[k] for k in samples.keys])
            ),
        )
        for samples, measured in pairs
    ]


def performance(
    judge: Judge, name: str, epsilon: float, seed: int = 0
) -> tuple[float, float, float, float, int]:
    """AUC, its 95 % interval over patients, TPR at a realised 1 % FPR, and how many attacks."""
    material = judge.material
    negative = judge.score(name, material.clean[1])
    positive, groups = [], []
    for (samples, measured), rows in successful(material.attacks, material.clean):
        if samples.level == epsilon:
            positive.append(judge.score(name, measured)[rows])
            groups += [samples.groups[i] for i in rows]
    hit = np.concatenate(positive)
    scores = np.r_[negative, hit]
    attacked = np.r_[np.zeros(len(negative), bool), np.ones(len(hit), bool)]
    low, high = bootstrap_over_groups(
        lambda rows: auc(scores[rows][~attacked[rows]], scores[rows][attacked[rows]]),
        [*material.clean[0].groups, *groups],
        n=200,
        seed=seed,
    )
    limit = threshold(negative, HEADLINE_FPR)
    return auc(negative, hit), low, high, float(np.mean(hit > limit)), len(hit)


def false_alarms(
    judge: Judge, name: str, *, routed: bool = False
) -> tuple[dict[str, float], float]:
    """Share above the limit of a realised 1 % FPR on clean images: by shift, and on the site.

    Args:
        routed: without those that are unusual, which take the quality route.
    """
    material = judge.material
    limit = threshold(judge.score(name, material.clean[1]), HEADLINE_FPR)
    far = threshold(judge.score("quality", material.clean[1]), UNUSUAL)

    def share(measured: Measured) -> float:
        alarm = judge.score(name, measured) > limit
        if routed:
            alarm &= ~(judge.score("quality", measured) > far)
        return float(np.mean(alarm))

    shares = {samples.title: share(measured) for samples, measured in material.shifts}
    return shares, share(material.site[1])


class Alone(nn.Module):
    """One detector behind the feature graph's outputs."""

    def __init__(self, detector: Detector, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.detector, self.widths = detector, widths

    def forward(
        self,
        taps: Tensor,
        logits: Tensor,
        squeezed: Tensor,
        change: Tensor,
        grain: Tensor,
        aligned: Tensor,
    ) -> Tensor:
        none = logits[:, :0]
        each = split_taps(taps, self.widths)
        score: Tensor = self.detector(
            Features(each, logits, squeezed, change, none, none, none, grain, aligned)
        )
        return score


def nodes(detector: Detector, widths: tuple[int, ...], classes: int) -> int:
    """ONNX nodes of its exported graph, the split into taps among them."""
    examples = {
        "taps": torch.randn(3, sum(widths)),
        "logits": torch.randn(3, classes),
        "squeezed": torch.randn(3, classes),
        "change": torch.rand(3),
        "grain": torch.randn(3, detector.width if isinstance(detector, Grain) else 0),
        "aligned": torch.rand(3, 3),
    }
    graph = export_onnx(
        Alone(detector, widths), examples, ("score",), {name: (0,) for name in examples}
    )
    return len(onnx.load_from_string(graph).graph.node)


def kilobytes(detector: Detector) -> float:
    """What it keeps."""
    return sum(value.numel() * value.element_size() for value in detector.buffers()) / 1024


def past(judge: Judge, control: str, epsilon: float) -> dict[str, HistoryResult]:
    """The history test against one benign shift, by detector."""
    material = judge.material
    samples, matched = next(p for p in material.shifts if p[0].title == control)
    hits = [
        (pair, rows)
        for pair, rows in successful(material.attacks, material.clean)
        if pair[0].level == epsilon
    ]
    patients = [pair[0].groups[i] for pair, rows in hits for i in rows]
    results = history_test(
        {name: judge.score(name, material.clean[1]) for name in JUDGED},
        {name: judge.score(name, matched) for name in JUDGED},
        {
            name: np.concatenate([judge.score(name, pair[1])[rows] for pair, rows in hits])
            for name in JUDGED
        },
        (samples.groups, patients),
    )
    return {result.detector: result for result in results}


def page(judge: Judge, model: DiagnosticModel, command: str) -> str:
    """Markdown."""
    material, classes = judge.material, len(model.spec.classes)
    samples, measured = material.clean
    nulls = refitted_null_test(
        [build() for build in JUDGED.values()],
        measured.features(judge.widths),
        torch.from_numpy(samples.labels),
        group_numbers(samples.groups),
    )
    null = {result.detector: result for result in nulls}
    histories = past(judge, "sign_noise 1", 1.0), past(judge, f"{CRISP} 1", 4.0)
    counts = [f"{performance(judge, IN_FULL[0], e)[4]} at {e:g}" for e in EPSILONS]
    lines = [
        "# What every detector adds",
        "",
        f"`{command}`; {describe()}. Model `{model.spec.name}` on `cxr_kermany`: "
        f"{material.reference.clean} + {material.fusion.clean} images to fit and fuse, "
        f"{len(set(material.reference.attacked_groups))} + "
        f"{len(set(material.fusion.attacked_groups))} patients of them attacked with success; "
        f"{len(samples)} clean test images, "
        f"{len(material.attacks[0][0])} attacked, {len(material.shifts[0][0])} with noise and "
        f"{len(material.shifts[-1][0])} with other shifts, {len(material.site[0])} of `{SITE}`, "
        f"{len(material.png[0])} of `{PNG}`. Attacks {', '.join(FAMILIES)}, at "
        "1, 2 and 4 grey levels, as 8-bit files; only those that changed a right diagnosis count. "
        "TPR and false alarms at a realised 1 % FPR on the clean test images. Intervals are 95 %, "
        "over patients.",
        "",
        "## Alone",
        "",
        "| detector | AUC at 1 | AUC at 2 | AUC at 4 | TPR at 1 / 2 / 4 | worst shift, level 1-2 "
        "| second site | null test | same history, AUC at 1 | as crisp, AUC at 4 | nodes | kB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in JUDGED:
        found = [performance(judge, name, epsilon) for epsilon in EPSILONS]
        shares, site = false_alarms(judge, name)
        worst = max(shares, key=lambda title: shares[title])
        detector = judge.detectors[name]
        tprs = " / ".join(f"{100 * f[3]:.0f} %" for f in found)
        aucs = " | ".join(f"{f[0]:.3f} ({f[1]:.2f} to {f[2]:.2f})" for f in found)
        pasts = " | ".join(
            f"{history[name].matched:.3f} {'passed' if history[name].passed else 'FAILED'}"
            for history in histories
        )
        lines.append(
            f"| {name} | {aucs} | {tprs} | {100 * shares[worst]:.1f} % ({worst}) | "
            f"{100 * site:.1f} % | {null[name].auc:.3f} "
            f"{'passed' if null[name].passed else 'FAILED'} | {pasts} | "
            f"{nodes(detector, judge.widths, classes)} | {kilobytes(detector):.0f} |"
        )
    lines += [
        "",
        f"Successful attacks: {', '.join(counts)}. *Same history*: attacked images against the "
        "same images with random-sign noise of one grey level, which breaks a JPEG grid as an "
        "attack does (`detectors/history_test.py`). *As crisp*: against sharpened images, "
        "which one JPEG generation less or another site's edge enhancement look like.",
        "",
        "## In the fusion",
        "",
        "Weights are learnt anew each time, on the fusion split. *Routed*: without the images that "
        "are unusual, as 2 % of the clean ones are; they are held all the same.",
        "",
        "| fusion | AUC at 1 / 2 / 4 | TPR at 1 / 2 / 4 | worst noise, severity 1-2 | all noise, "
        "severity 1-2 | other shifts | second site | worst noise, routed | second site, routed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for title in judge.fusions:
        found = [performance(judge, title, epsilon) for epsilon in EPSILONS]
        shares, site = false_alarms(judge, title)
        kept, kept_site = false_alarms(judge, title, routed=True)
        noise = {t: s for t, s in shares.items() if t.split()[0] in NOISE}
        others = [s for t, s in shares.items() if t not in noise]
        worst = max(noise, key=lambda t: noise[t])
        lines.append(
            f"| {title} | {' / '.join(f'{f[0]:.3f}' for f in found)} | "
            f"{' / '.join(f'{100 * f[3]:.0f} %' for f in found)} | {100 * noise[worst]:.1f} % "
            f"({worst}) | {100 * np.mean(list(noise.values())):.1f} % | "
            f"{100 * np.mean(others):.1f} % | {100 * site:.1f} % | "
            f"{100 * max(kept[t] for t in noise):.1f} % | {100 * kept_site:.1f} % |"
        )
    shares, site = false_alarms(judge, "default")
    kept, kept_site = false_alarms(judge, "default", routed=True)
    lines += [
        "",
        "## False alarms of the default, shift by shift",
        "",
        "| shift | scored | routed |",
        "|---|---|---|",
        *(f"| {t} | {100 * s:.1f} % | {100 * kept[t]:.1f} % |" for t, s in shares.items()),
        f"| {SITE} | {100 * site:.1f} % | {100 * kept_site:.1f} % |",
    ]
    limit = threshold(judge.score("default", material.clean[1]), HEADLINE_FPR)
    lines += [
        "",
        "## Another file history",
        "",
        f"The same guard on `{PNG}`: the same patients as they came, one JPEG generation less, "
        "other sizes. The limit is that of `cxr_kermany`; AUC is against its own clean images.",
        "",
        "| images | false alarms, clean | "
        + " | ".join(
            f"{s.origin} {s.level:g}: successful, AUC, TPR" for s, _ in material.png_attacks
        )
        + " |",
        "|---|---|" + "---|" * len(material.png_attacks),
    ]
    negative = judge.score("default", material.png[1])
    cells = []
    for (_, hit), kept in successful(material.png_attacks, material.png):
        positive = judge.score("default", hit)[kept]
        tpr = f"{100 * np.mean(positive > limit):.0f} %" if len(positive) else "none"
        cells.append(f"{len(positive)}, {auc(negative, positive):.3f}, {tpr}")
    lines += [
        f"| {len(negative)} | {100 * np.mean(negative > limit):.1f} % | {' | '.join(cells)} |",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="holds cxr_kermany and the others")
    parser.add_argument("--model", default="chest-xray")
    for name, size in {
        "fit-images": 160, "fit-shifted": 40, "attacked": 160, "fusion-attacked": 48, "clean": 400,
        "shifted": 100, "others": 32, "test-attacked": 64, "png": 32,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(arguments.model)
    assert isinstance(model, DiagnosticModel)
    bench = bench_of(
        victim_of(model, "cpu"), digest=model_digest(model), seed=0, attempts=True, device="cpu"
    )
    material = gather(model, bench, arguments.data, arguments)
    judge = Judge(material, tap_widths(model))
    text = page(
        judge, model, shlex.join(["python", "benchmarks/detector_evidence.py", *sys.argv[1:]])
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
