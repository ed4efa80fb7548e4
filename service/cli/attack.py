"""``lazaret attack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: lazaret attack --model phantom --data scans --out adversarial --epsilon 1"


def attack(
    model: Annotated[str, typer.Option(help="Zoo name, model folder, .onnx, .pt2 or factory.")],
    data: Annotated[Path, typer.Option(help="Folder of labelled images.")],
    out: Annotated[Path, typer.Option(help="Folder for the shards, one sub-folder an attack.")],
    attacks: Annotated[str, typer.Option(help="Presets, by comma.")] = "fgsm,bim,pgd,cw_linf",
    epsilon: Annotated[
        list[float] | None, typer.Option(help="Grey levels (1 is 1/255); repeat for more.")
    ] = None,
    images: Annotated[int, typer.Option(help="At most so many images.")] = 200,
    target: Annotated[
        str | None, typer.Option(help="Class to reach; by default any wrong one will do.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors of a factory.")] = None,
    spec: Annotated[Path | None, typer.Option(help="model.json, if not beside the model.")] = None,
    float_pixels: Annotated[
        bool, typer.Option("--float", help="Keep float pixels, as the literature does.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Fixes the draw and the random starts.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Attack a model's test images and store them as an attacker would deliver them.

    Images are rounded to 8 bits and judged through the service's own decoder. Every attack gets a
    folder of safetensors shards with a manifest that says which images were fooled.
    """
    from service.cli.offline import console, load, progress_bars, workshop

    with workshop():
        from rich.table import Table

        from attacks.campaign import attacked
        from attacks.deliver import Container
        from attacks.registry import names
        from attacks.shards import write
        from detectors.guard_data import clean_samples, draw, test_examples
        from models.datasets import DatasetProblem, read_dataset
        from models.load import load_model, model_digest, victim_of

        families = attacks.split(",")
        if unknown := [family for family in families if family not in names()]:
            raise DatasetProblem(
                f"no attack is called {unknown[0]!r}; choose from {', '.join(names())}"
            )
        loaded_model = load_model(model, weights=weights, spec=spec)
        classes = loaded_model.spec.classes
        if target is not None and target not in classes:
            raise DatasetProblem(f"no class is called {target!r}; choose from {', '.join(classes)}")
        dataset = read_dataset(data, classes)
        with progress_bars() as progress:
            loaded = load(progress, test_examples(dataset, seed) or dataset.examples)
            clean = draw(clean_samples(loaded), images, seed)
            task = progress.add_task("attacking", total=None)
            sets = attacked(
                victim_of(loaded_model, device),
                clean,
                families,
                epsilon or [1.0],
                seed=seed,
                device=device,
                container=None if float_pixels else Container.PNG8,
                target=None if target is None else classes.index(target),
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
        table = Table("attack", "success", "median L-inf", "folder")
        digest = model_digest(loaded_model)
        for adversarial in sets:
            folder = out / adversarial.spec.title
            write(folder, adversarial, digest)
            middle = sorted(adversarial.linf)[len(adversarial) // 2]
            table.add_row(
                adversarial.spec.title,
                f"{adversarial.success_rate:.1%}",
                f"{middle:g}",
                str(folder),
            )
        console.print(table)
