"""``lazaret fit``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EXAMPLE = "Example: lazaret fit --model chest-xray --data scans --out bundles/chest-xray"


def fit(
    model: Annotated[str, typer.Option(help="Zoo name, model folder, .onnx, .pt2 or factory.")],
    data: Annotated[Path, typer.Option(help="Folder of labelled images.")],
    out: Annotated[Path, typer.Option(help="Folder to write the bundle into; must not exist.")],
    weights: Annotated[Path | None, typer.Option(help="safetensors of a factory.")] = None,
    spec: Annotated[Path | None, typer.Option(help="model.json, if not beside the model.")] = None,
    detectors: Annotated[
        str, typer.Option(help="By comma; tle too. Agreement costs a second forward pass.")
    ] = "kd,lid,mahalanobis,dfeat,qfeat,agreement",
    flag: Annotated[float, typer.Option(help="False-positive rate of the flag verdict.")] = 0.01,
    reject: Annotated[float, typer.Option(help="False-positive rate of rejection.")] = 0.001,
    quality: Annotated[
        float, typer.Option(help="False-positive rate of the quality route.")
    ] = 0.01,
    fit_images: Annotated[
        int, typer.Option(help="Most images of each of the two fitting splits; the bundle grows.")
    ] = 500,
    attack_images: Annotated[
        int, typer.Option(help="Images attacked in each of the two fitting splits.")
    ] = 160,
    seed: Annotated[int, typer.Option(help="Fixes splits, draws and random starts.")] = 0,
    device: Annotated[str, typer.Option(help="Where attacks run: cpu or cuda.")] = "cpu",
) -> None:
    """Fit a guard for a model and write its bundle.

    Uses images that the model was not trained on and that are not in the `test` split: three
    parts by patient, to fit the detectors, to fuse them and to calibrate. Attacks FGSM, BIM, PGD
    and CW-Linf are made for the first two. Says in plain words what the calibration images cannot
    support.
    """
    from service.cli.offline import console, load, progress_bars, workshop

    with workshop():
        from attacks.campaign import (
            FAMILIES,
            FIT_EPSILONS,
            FIT_SHIFTS,
            attacked_once,
            shifted,
        )
        from attacks.generate import bench_of
        from attacks.part_store import PartStore, default_folder
        from detectors.bundle import Alphas
        from detectors.fit import FitProblem, FitSplit, shortfalls
        from detectors.fit import fit as fit_bundle
        from detectors.guard import DETECTORS
        from detectors.guard_data import clean_samples, draw, guard_examples, split_samples
        from models.datasets import group_digest, read_dataset
        from models.load import load_model, model_digest, victim_of

        if out.exists():
            raise FitProblem(f"{out}: exists already; choose another folder")
        names = detectors.split(",")
        if unknown := [name for name in names if name not in DETECTORS]:
            raise FitProblem(
                f"no detector is called {unknown[0]!r}; choose from {', '.join(DETECTORS)}"
            )
        loaded_model = load_model(model, weights=weights, spec=spec)
        bench = bench_of(
            victim_of(loaded_model, device),
            digest=model_digest(loaded_model),
            seed=seed,
            attempts=True,
            device=device,
        )
        dataset = read_dataset(data, loaded_model.spec.classes)
        examples = guard_examples(dataset, loaded_model.spec, seed)
        if not examples:
            raise FitProblem(
                f"{data}: every image is a training image of the model or a test image; add images "
                "of other patients"
            )
        with progress_bars() as progress:
            splits = split_samples(clean_samples(load(progress, examples)), seed)
            prepared = {}
            for split in ("reference", "fusion"):
                clean = splits[split] = draw(splits[split], fit_images, seed)
                if not len(clean):
                    raise FitProblem(f"{data}: too few patients for a {split} split")
                task = progress.add_task(f"attacking {split}", total=None)
                hit = attacked_once(
                    bench,
                    draw(clean, attack_images, seed),
                    store=PartStore(default_folder()),
                    progress=partial(_advance, progress, task),
                )
                prepared[split] = FitSplit(
                    (clean, *(shifted(clean, name, level, seed) for name, level in FIT_SHIFTS)), hit
                )
            total = sum(len(split) for split in prepared.values()) + len(splits["calibration"])
            task = progress.add_task("measuring", total=total)
            bundle = fit_bundle(
                loaded_model,
                prepared["reference"],
                prepared["fusion"],
                splits["calibration"],
                out,
                names=names,
                alphas=Alphas(flag=flag, reject=reject, quality=quality),
                provenance={
                    "model": model_digest(loaded_model),
                    "data": data.resolve().name,
                    "images": {name: len(split) for name, split in splits.items()},
                    "patients": {name: len(set(split.groups)) for name, split in splits.items()},
                    "attacks": f"{', '.join(FAMILIES)} at {FIT_EPSILONS} grey levels, 8-bit PNG",
                    "shifts": ", ".join(f"{name} {level}" for name, level in FIT_SHIFTS),
                    "seed": seed,
                    "groups": sorted(
                        {group_digest(group) for split in splits.values() for group in split.groups}
                    ),
                },
                progress=lambda images: progress.advance(task, images),
            )
        for sentence in shortfalls(bundle.manifest):
            console.print(sentence, style="yellow", markup=False)
        console.print(f"{out}: {bundle.digest}")


def _advance(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)
