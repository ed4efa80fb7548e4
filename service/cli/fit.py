"""``lazaret fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: lazaret fit --model chest-xray --data scans --out bundles/chest-xray"


def fit(
    model: Annotated[str, typer.Option(help="Zoo name, model folder, .onnx, .pt2 or factory.")],
    data: Annotated[Path, typer.Option(help="Folder of labelled images.")],
    out: Annotated[Path, typer.Option(help="Folder to write the bundle into; must not exist.")],
    weights: Annotated[Path | None, typer.Option(help="safetensors of a factory.")] = None,
    spec: Annotated[Path | None, typer.Option(help="model.json, if not beside the model.")] = None,
    detectors: Annotated[
        str,
        typer.Option(
            help="By comma, of detectors/guard.py. Agreement costs a second forward pass, "
            "alignment one backwards, witness, residual and synthetic_alignment a few per cent of "
            "one. By default "
            "kd,mahalanobis,agreement,grain,alignment; before a second stage "
            "kd,relative_mahalanobis,grain,margin,synthetic_alignment."
        ),
    ] = "",
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
    training_images: Annotated[
        int,
        typer.Option(
            min=0,
            help="Most of the model's own training images in the data that the networks of witness "
            "and synthetic_alignment learn from too.",
        ),
    ] = 600,
    second_stage: Annotated[
        int,
        typer.Option(
            min=0,
            max=32,
            help="0 looks at every image in full, in three to four times the model's own time. "
            "Else so many random views of the most suspicious images alone, each a forward pass, "
            "beside one backwards; 3, say, which finds less on some models.",
        ),
    ] = 0,
    share: Annotated[
        float,
        typer.Option(min=0.001, max=1, help="Of clean images that the second stage looks at."),
    ] = 0.1,
    canaries: Annotated[
        int, typer.Option(min=0, max=16, help="Clean and attacked images each that it keeps.")
    ] = 2,
    source: Annotated[
        str,
        typer.Option(help="Who sent images without a `source` in labels.csv: a client or a peer."),
    ] = "",
    seed: Annotated[int, typer.Option(help="Fixes splits, draws and random starts.")] = 0,
    device: Annotated[str, typer.Option(help="Where attacks run: cpu or cuda.")] = "cpu",
) -> None:
    """Fit a guard for a model and write its bundle.

    Uses images that the model was not trained on and that are not in the `test` split: three
    parts by patient, to fit the detectors, to fuse them and to calibrate. Attacks FGSM, BIM, PGD
    and CW-Linf are made for the first two. Says in plain words what the calibration images cannot
    support.

    The bundle keeps a few images as canaries, which `lazaret serve` sends through itself to prove
    that the guard still detects: pixels of your data, without names. `--canaries 0` leaves them
    out.
    """
    from service.cli.offline import console, counted, load, progress_bars, workshop

    with workshop():
        from attacks.fit_material import clean_splits, fit_material
        from attacks.generate import bench_of
        from attacks.opponent import Opponent
        from attacks.part_store import PartStore, default_folder
        from detectors.alignment import Alignment, SyntheticAlignment
        from detectors.bundle import Alphas
        from detectors.feature_graph import gradient_problem
        from detectors.fit import FitProblem
        from detectors.fit import fit as fit_bundle
        from detectors.guard import DETECTORS, IN_FULL, TRIAGE
        from detectors.guard_data import clean_samples, guard_examples, training_examples
        from detectors.shortfalls import shortfalls
        from detectors.witness import Witness
        from models.datasets import read_dataset
        from models.load import load_model, model_digest, victim_of, without_gradients

        if out.exists():
            raise FitProblem(f"{out}: exists already; choose another folder")
        default = TRIAGE if second_stage else IN_FULL
        names: tuple[str, ...] = tuple(detectors.split(",")) if detectors else default
        if unknown := [name for name in names if name not in DETECTORS]:
            raise FitProblem(
                f"no detector is called {unknown[0]!r}; choose from {', '.join(DETECTORS)}"
            )
        loaded_model = load_model(model, weights=weights, spec=spec)
        for name, reason in (
            (Alignment.name, gradient_problem(loaded_model)),
            (SyntheticAlignment.name, without_gradients(loaded_model)),
        ):
            if name not in names or not reason:
                continue
            if detectors:
                raise FitProblem(f"{name} needs the model's gradient, but {reason}")
            names = tuple(other for other in names if other != name)
            console.print(
                f"{name} is left out, since {reason}; what it would hold may pass",
                style="yellow",
                markup=False,
            )
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
            splits = clean_splits(
                clean_samples(load(progress, examples, loaded_model.spec), source),
                fit_images,
                seed,
            )
            material = fit_material(
                splits,
                [Opponent(bench)],
                images=attack_images,
                seed=seed,
                progress=counted(progress),
                store=PartStore(default_folder()),
            )
            trained = (
                training_examples(dataset, loaded_model.spec, training_images, seed)
                if {Witness.name, SyntheticAlignment.name}.intersection(names)
                else ()
            )
            unlabelled = (
                [clean_samples(load(progress, trained, loaded_model.spec))] if trained else []
            )
            task = progress.add_task("measuring", total=len(material) + len(trained))
            bundle = fit_bundle(
                loaded_model,
                material.reference,
                material.fusion,
                material.calibration,
                out,
                names=names,
                alphas=Alphas(flag=flag, reject=reject, quality=quality),
                provenance={
                    "model": model_digest(loaded_model),
                    "data": data.resolve().name,
                    **material.provenance,
                },
                canaries=canaries,
                unlabelled=unlabelled,
                seed=seed,
                views=second_stage,
                share=share,
                progress=lambda images: progress.advance(task, images),
                taught=counted(progress),
            )
        for sentence in shortfalls(bundle.manifest):
            console.print(sentence, style="yellow", markup=False)
        console.print(f"{out}: {bundle.digest}")
