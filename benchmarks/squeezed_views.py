"""How far agreement's squeezed view may move a pixel: views side by side, agreement alone.

    PYTHONPATH=. python benchmarks/squeezed_views.py --data $LAZARET_DATA \\
        --out docs/results/squeezed_views.md

A limit on the median's move trades what it undoes (attacks) against what it takes away whole
(letters, dead columns). Agreement is fitted with every view on the same few benign images of the
hardened chest model; alarms are at a realised 1 % of clean test images, by predicted class. Attacks
are the successful ones of the fusion split, which agreement does not see; they are kept in
``$LAZARET_CACHE``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attacks.campaign import FAMILIES, FIT_EPSILONS, attacked_once, shifted
from attacks.generate import bench_of
from attacks.part_store import PartStore, default_folder
from detectors.agreement import Agreement
from detectors.features import Features, concatenate
from detectors.guard_data import clean_samples, draw, guard_examples, split_samples
from detectors.guard_data import test_examples as judging_examples
from detectors.second_stage_fit import as_features
from detectors.side_networks import inputs_of
from detectors.squeeze import FAR, NEAR, median3, root_mean_square
from models.datasets import load_images, read_dataset, unlabelled
from models.diagnostic import DiagnosticModel
from models.head import class_logits
from models.load import load_model, model_digest, victim_of
from models.machine import describe
from models.preprocess import Preprocess

MODEL, DATA, SITE, PNG = "chest-xray-hard", "cxr_kermany", "cxr_hannover_covid", "cxr_kermany_png"
FIT = (
    ("faint_noise", 1), ("sign_noise", 1), ("jpeg", 1), ("gaussian_blur", 1), ("gaussian_noise", 1),
    ("speckle_noise", 1), ("impulse_noise", 1), ("gaussian_noise", 2), ("dead_columns", 1),
    ("dead_columns", 2), ("sharpen", 1), ("sharpen", 2), ("burned_in_text", 1),
    ("burned_in_text", 2),
)  # fmt: skip
SHOWN = (("burned_in_text", 1), ("burned_in_text", 2), ("dead_columns", 2), ("impulse_noise", 1))
ATTACKS = ("fgsm", "bim", "pgd")
FPR = 0.01
BATCH = 32

Move = Callable[[Tensor], Tensor]
"""From the median's move in grey levels to the view's."""


def clamped(reach: float) -> Move:
    """At most ``reach``."""
    return lambda move: move.clamp(-reach, reach)


def redescending(near: float, far: float) -> Move:
    """All of it up to ``near``, none from ``far``."""
    return lambda move: move * ((far - move.abs()) / (far - near)).clamp(0, 1)


VIEWS: dict[str, Move] = {
    "the median itself": lambda move: move,
    "clamped at 10": clamped(10),
    "clamped at 6": clamped(6),
    **{
        f"all up to {near:g}, none from {far:g}": redescending(near, far)
        for near, far in ((10, 20), (6, 12), (5, 8), (NEAR, FAR), (3, 6))
    },
}


def seen(model: DiagnosticModel, images: Sequence[np.ndarray]) -> dict[str, Features]:
    """What agreement reads of images, by view."""
    preprocess = Preprocess(model.spec.preprocessing)
    parts: dict[str, list[Features]] = {view: [] for view in VIEWS}
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            x = torch.cat([inputs_of(preprocess, [image]) for image in batch])
            move = (median3(x) - x) / preprocess.gain
            plain = class_logits(model.activations(x)[0], model.spec.head)
            for view, limit in VIEWS.items():
                moved = limit(move) * preprocess.gain
                squeezed = class_logits(model.activations(x + moved)[0], model.spec.head)
                parts[view].append(as_features(plain, squeezed, root_mean_square(moved)))
    return {view: concatenate(of) for view, of in parts.items()}


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="holds cxr_kermany and the others")
    parser.add_argument("--images", type=int, default=60, help="of every shift")
    parser.add_argument("--clean", type=int, default=250)
    parser.add_argument("--attack-images", type=int, default=400)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    model = load_model(MODEL)
    assert isinstance(model, DiagnosticModel)
    model.eval()
    dataset = read_dataset(chosen.data / DATA, model.spec.classes)
    splits = split_samples(clean_samples(load_images(guard_examples(dataset, model.spec, 0))), 0)
    reference = draw(splits["reference"], chosen.images, 0)
    known = [
        seen(model, s.images) for s in (reference, *(shifted(reference, *kind, 0) for kind in FIT))
    ]
    tests = clean_samples(load_images(judging_examples(dataset, 0)))
    shown = draw(tests, chosen.images, 0)
    copies = read_dataset(chosen.data / PNG, model.spec.classes)
    benign = {
        **{f"{kind} {level}": shifted(shown, kind, level, 0).images for kind, level in SHOWN},
        "PNG copies": draw(
            clean_samples(load_images(judging_examples(copies, 0))), chosen.images, 0
        ).images,
        "second site": clean_samples(load_images(unlabelled(chosen.data / SITE, 120))).images,
    }
    judged = {title: seen(model, images) for title, images in benign.items()}
    clean = seen(model, draw(tests, chosen.clean, 1).images)
    bench = bench_of(
        victim_of(model, "cpu"), digest=model_digest(model), seed=0, attempts=True, device="cpu"
    )
    hit = attacked_once(
        bench, draw(splits["fusion"], chosen.attack_images, 0), FAMILIES, FIT_EPSILONS,
        progress=lambda *_: None, store=PartStore(default_folder()),
    )  # fmt: skip
    successes = {}
    for samples in hit:
        if samples.origin in ATTACKS and samples.level > 1:
            attacked = seen(model, samples.images)
            wrong = attacked[next(iter(VIEWS))].predicted != torch.from_numpy(samples.labels)
            successes[f"{samples.title}, {int(wrong.sum())}"] = {
                view: of.rows(wrong) for view, of in attacked.items()
            }
    columns = {**judged, **successes}
    rows = []
    for view in VIEWS:
        features = concatenate([part[view] for part in known])
        agreement = Agreement().fit(features, features.predicted, features)
        with torch.no_grad():
            scores, classes = agreement(clean[view]), clean[view].predicted
            limits = torch.stack(
                [scores[classes == k].quantile(1 - FPR) for k in range(len(model.spec.classes))]
            )
            shares = [
                (agreement(of[view]) > limits[of[view].predicted]).float().mean().item()
                for of in columns.values()
            ]
        rows.append(f"| {view} | {' | '.join(f'{100 * share:.0f} %' for share in shares)} |")
    page = "\n".join(
        [
            "# How far the squeezed view moves a pixel", "",
            "`PYTHONPATH=. python benchmarks/squeezed_views.py --data $LAZARET_DATA --out "
            f"docs/results/squeezed_views.md`; {describe()}. `{MODEL}`, agreement alone, fitted on "
            f"{chosen.images} reference images and {len(FIT)} shifts of them; share above the "
            f"score that 1 % of {chosen.clean} clean test images exceed, by predicted class. "
            f"Shifts of {chosen.images} test images; successful attacks of the fusion split, their "
            "numbers in the heading. Moves in grey levels. The guard's view: all up to "
            f"{NEAR:g}, none from {FAR:g}.", "",
            f"| view | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|", *rows, "",
        ]
    )  # fmt: skip
    print(page)
    if chosen.out:
        chosen.out.write_text(page)


if __name__ == "__main__":
    main()
