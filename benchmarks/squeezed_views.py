"""Agreement's squeezed view: what moves a pixel and how far, side by side, agreement alone.

    PYTHONPATH=. python benchmarks/squeezed_views.py --data $LAZARET_DATA \\
        --out docs/results/squeezed_views.md \\
        [chest-xray-hard=cxr_kermany runs/modalities/models/dermoscopy-hard=derm_isic2017]

A limit on a view's move trades what it undoes (attacks) against what it takes away whole (letters,
dead columns). Agreement is fitted with every view on the same few benign images; alarms are at a
realised 1 % of clean ones, by predicted class. All images but a second site's are of the guard's
own patients: fitted on reference, judged on fusion, so that a choice does not see the test images.
Attacks are the successful ones, kept in ``$LAZARET_CACHE``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import median_filter
from torch import Tensor
from torch.nn import functional

from attacks.campaign import FAMILIES, FIT_EPSILONS, attacked_once, shifted
from attacks.generate import bench_of
from attacks.part_store import PartStore, default_folder
from detectors.agreement import Agreement
from detectors.features import Features, concatenate
from detectors.guard_data import clean_samples, draw, guard_examples, split_samples
from detectors.second_stage_fit import view_features
from detectors.side_networks import inputs_of
from detectors.squeeze import BINOMIAL, FAR, NEAR, root_mean_square
from models.datasets import load_images, read_dataset, unlabelled
from models.diagnostic import DiagnosticModel
from models.head import class_logits
from models.load import load_model, model_digest, victim_of
from models.machine import describe
from models.preprocess import Preprocess

SITES = {"cxr_kermany": "cxr_hannover_covid"}
"""Another hospital's images, where there are any."""
FIT = (
    ("faint_noise", 1), ("sign_noise", 1), ("jpeg", 1), ("gaussian_blur", 1), ("gaussian_noise", 1),
    ("speckle_noise", 1), ("impulse_noise", 1), ("gaussian_noise", 2), ("dead_columns", 1),
    ("dead_columns", 2), ("sharpen", 1), ("sharpen", 2), ("burned_in_text", 1),
    ("burned_in_text", 2),
)  # fmt: skip
SHOWN = (
    ("burned_in_text", 1), ("burned_in_text", 2), ("dead_columns", 2), ("impulse_noise", 1),
    ("gaussian_noise", 2), ("gaussian_blur", 2), ("contrast_down", 2),
)  # fmt: skip
ATTACKS = ("fgsm", "bim", "pgd")
FPR = 0.01
BATCH = 32

Limit = Callable[[Tensor], Tensor]
"""From a move in grey levels to the view's."""


def anything(move: Tensor) -> Tensor:
    """No limit."""
    return move


def clamped(reach: float) -> Limit:
    """At most ``reach``."""
    return lambda move: move.clamp(-reach, reach)


def redescending(near: float, far: float) -> Limit:
    """All of it up to ``near``, none from ``far``."""
    return lambda move: move * ((far - move.abs()) / (far - near)).clamp(0, 1)


def blur(*weights: float) -> Callable[[Tensor], Tensor]:
    """Along both axes, with these weights."""
    axis, reach = torch.tensor(weights), len(weights) // 2

    def of(x: Tensor) -> Tensor:
        window = torch.outer(axis, axis).expand(x.shape[1], 1, -1, -1)
        padded = functional.pad(x, (reach,) * 4, mode="replicate")
        return functional.conv2d(padded, window, groups=x.shape[1])

    return of


def median(x: Tensor) -> Tensor:
    """Of every 3 x 3 neighbourhood."""
    return torch.from_numpy(median_filter(x.numpy(), size=(1, 1, 3, 3), mode="nearest"))


SQUEEZES = {
    "median": median,
    "blur": blur(*BINOMIAL),
    "wide blur": blur(1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16),
}
VIEWS: dict[str, tuple[str, Limit]] = {
    "median, no limit": ("median", anything),
    "median, clamped at 10": ("median", clamped(10)),
    "blur, no limit": ("blur", anything),
    **{
        f"{squeeze}, {near:g} to {far:g}": (squeeze, redescending(near, far))
        for squeeze, near, far in (
            ("median", 3, 6),
            ("median", NEAR, FAR),
            ("median", 6, 12),
            ("blur", NEAR, FAR),
            ("blur", 5, 10),
            ("blur", 6, 12),
            ("blur", 8, 16),
            ("wide blur", NEAR, FAR),
        )
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
            moves = {name: (to(x) - x) / preprocess.gain for name, to in SQUEEZES.items()}
            plain = class_logits(model.activations(x)[0], model.spec.head)
            for view, (squeeze, limit) in VIEWS.items():
                moved = limit(moves[squeeze]) * preprocess.gain
                squeezed = class_logits(model.activations(x + moved)[0], model.spec.head)
                parts[view].append(view_features(plain, squeezed, root_mean_square(moved)))
    return {view: concatenate(of) for view, of in parts.items()}


def compared(name: str, data: Path, images: int, clean_images: int, attacked: int) -> list[str]:
    """A model's table, as lines of the page."""
    model = load_model(name)
    assert isinstance(model, DiagnosticModel)
    model.eval()
    dataset = read_dataset(data, model.spec.classes)
    splits = split_samples(clean_samples(load_images(guard_examples(dataset, model.spec, 0))), 0)
    reference, judged = (draw(splits[split], images, 0) for split in ("reference", "fusion"))
    known = [
        seen(model, s.images) for s in (reference, *(shifted(reference, *kind, 0) for kind in FIT))
    ]
    columns = {
        f"{kind} {level}": seen(model, shifted(judged, kind, level, 0).images)
        for kind, level in SHOWN
    }
    if data.name in SITES:
        site = load_images(unlabelled(data.parent / SITES[data.name], 120))
        columns["second site"] = seen(model, clean_samples(site).images)
    clean = seen(model, draw(splits["fusion"], clean_images, 1).images)
    bench = bench_of(
        victim_of(model, "cpu"), digest=model_digest(model), seed=0, attempts=True, device="cpu"
    )
    hit = attacked_once(
        bench, draw(splits["fusion"], attacked, 0), FAMILIES, FIT_EPSILONS,
        progress=lambda *_: None, store=PartStore(default_folder()),
    )  # fmt: skip
    for samples in hit:
        if samples.origin in ATTACKS and samples.level > 1:
            of = seen(model, samples.images)
            wrong = of[next(iter(VIEWS))].predicted != torch.from_numpy(samples.labels)
            if wrong.any():
                columns[f"{samples.title}, {int(wrong.sum())}"] = {
                    view: features.rows(wrong) for view, features in of.items()
                }
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
    return [
        f"## {Path(name).name}", "",
        f"{len(reference.images)} reference images and {len(FIT)} shifts of them to fit; "
        f"{len(clean['blur, no limit'].predicted)} clean, {len(judged.images)} shifted ones.", "",
        f"| view | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|", *rows, "",
    ]  # fmt: skip


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", default=["chest-xray-hard=cxr_kermany"],
                        metavar="MODEL=DATASET")  # fmt: skip
    parser.add_argument("--data", required=True, type=Path, help="holds the data sets")
    parser.add_argument("--images", type=int, default=60, help="of every shift")
    parser.add_argument("--clean", type=int, default=250)
    parser.add_argument("--attack-images", type=int, default=160)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    sections: list[str] = []
    for case in chosen.cases:
        name, _, dataset = case.partition("=")
        sections += compared(
            name, chosen.data / dataset, chosen.images, chosen.clean, chosen.attack_images
        )
    page = "\n".join(
        [
            "# What the squeezed view does to a pixel", "",
            "`PYTHONPATH=. python benchmarks/squeezed_views.py --data $LAZARET_DATA --out "
            f"docs/results/squeezed_views.md {' '.join(chosen.cases)}`; {describe()}. Agreement "
            "alone: share above the score that 1 % of clean images exceed, by predicted class. All "
            "but the second site are the guard's own patients, fitted on reference and judged on "
            "fusion; attacks are those that succeed, their numbers in the heading. Limits in grey "
            "levels: of *4 to 8* all of a move up to 4, none from 8. The guard's view is the "
            f"blur, {NEAR:g} to {FAR:g}.", "",
            *sections,
        ]
    )  # fmt: skip
    print(page)
    if chosen.out:
        chosen.out.write_text(page)


if __name__ == "__main__":
    main()
