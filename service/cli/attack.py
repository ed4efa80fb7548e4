"""``lazaret attack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.sentence import refuse

EXAMPLE = (
    "Example: lazaret attack --bundle bundles/chest-xray --aware --data scans --out adversarial "
    "--attacks pgd:eps=1/255,joint_pgd:eps=1/255"
)


def _show(value: bool) -> None:
    if value:
        from service.cli.attack_report import print_attacks
        from service.cli.offline import workshop

        with workshop():
            print_attacks()
        raise typer.Exit


def attack(
    data: Annotated[Path, typer.Option(help="Folder of labelled images.")],
    out: Annotated[Path, typer.Option(help="Folder for the sets, one sub-folder an attack.")],
    model: Annotated[
        str | None, typer.Option(help="Zoo name, model folder, .onnx, .pt2 or factory.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Attack this guarded model; its guard judges the results.")
    ] = None,
    aware: Annotated[
        bool, typer.Option("--aware", help="The attacker holds the bundle: evade its guard too.")
    ] = False,
    attacks: Annotated[
        str | None,
        typer.Option(help="By comma, with parameters: pgd:eps=1/255,steps=40,fgsm. See --list."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="paper (the default), autoattack, smoke or full.")
    ] = None,
    epsilon: Annotated[
        list[float] | None, typer.Option(help="Grey levels (1 is 1/255); repeat for more.")
    ] = None,
    images: Annotated[int, typer.Option(help="At most so many images.")] = 200,
    fitting: Annotated[
        bool,
        typer.Option(
            "--fitting",
            help="Attack images that a guard is fitted on, for `lazaret retrain --adversarial`.",
        ),
    ] = False,
    attacker_images: Annotated[
        int, typer.Option(help="Images of the attacker's own, for attacks that learn from some.")
    ] = 64,
    target: Annotated[
        str | None, typer.Option(help="Class to reach; by default any wrong one will do.")
    ] = None,
    surrogate: Annotated[
        str | None, typer.Option(help="The attacker's own model, for transfer attacks.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors of a factory.")] = None,
    spec: Annotated[Path | None, typer.Option(help="model.json, if not beside the model.")] = None,
    container: Annotated[
        str, typer.Option(help="What is sent: png8, jpeg:90, dicom8, dicom12 or dicom16.")
    ] = "png8",
    float_pixels: Annotated[
        bool, typer.Option("--float", help="Keep float pixels, as the literature does.")
    ] = False,
    attempts: Annotated[
        bool, typer.Option("--attempts", help="Keep what failed attacks made, not the source.")
    ] = False,
    files: Annotated[bool, typer.Option("--files", help="Write the files to send, too.")] = False,
    traces: Annotated[
        bool, typer.Option("--traces", help="Keep every query of black-box attacks.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="First look for gradients that hide the model.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Fixes the draw and every random number.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: Annotated[
        int | None, typer.Option(help="Cores (or GPUs) to use; all by default.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Work on a Ray cluster: auto, local or ray://host:10001.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where finished parts are kept; safe to remove any time.")
    ] = None,
    listed: Annotated[
        bool,
        typer.Option(
            "--list", help="Every attack with its parameters.", callback=_show, is_eager=True
        ),
    ] = False,
) -> None:
    """Attack a model's test images and store them as an attacker would deliver them.

    Results are rounded on the container's grid and judged through the service's own decoder; with
    a bundle also by its guard. Every attack gets a folder of safetensors shards with a manifest
    that says which images were fooled, and a contact sheet. Stopped and started again, it goes on
    where it was.
    """
    del listed  # answered by its callback
    from service.cli.offline import progress_bars, workshop

    if model is None and bundle is None:
        refuse("say what to attack: --model MODEL, or --bundle BUNDLE for a guarded model")
    if aware and bundle is None:
        refuse("--aware needs the guard to be aware of: --bundle BUNDLE")
    if attacks is not None and preset is not None:
        refuse("give --attacks or --preset, not both")
    with workshop():
        from attacks.container import Container
        from attacks.crew import RayCluster, Threads
        from attacks.part_store import PartStore, default_folder
        from attacks.sets import Written, compared, write_sets
        from models.datasets import read_dataset
        from service.cli.attack_report import AttackProgress, print_findings, print_summary
        from service.cli.attack_setup import (
            chosen_attacks,
            look_for_masking,
            open_victim,
            prepared,
            to_attack,
        )

        victim = open_victim(model, bundle, weights=weights, spec=spec, device=device)
        bench = victim.bench(
            seed=seed,
            container=None if float_pixels else Container.parse(container),
            attempts=attempts,
            keep_queries=traces,
            aware=aware,
        )
        specs = chosen_attacks(
            attacks,
            preset,
            epsilon,
            surrogate=surrogate,
            targeted=target is not None,
            gradients=victim.without_gradients is None,
            aware=aware,
        )
        dataset = read_dataset(data, victim.spec.classes)
        written: list[Written] = []
        with progress_bars() as bars:
            sources = to_attack(bars, dataset, victim.spec, images, seed, target, fitting=fitting)
            bench = prepared(
                bars, bench, specs, dataset, victim.spec, attacker_images, sources.groups
            )
        checked = look_for_masking(bench, sources) if check else []
        crew = Threads(workers) if ray is None else RayCluster(ray, workers)
        try:
            with AttackProgress(specs, len(sources)) as progress:
                write_sets(
                    bench,
                    specs,
                    sources,
                    out,
                    classes=victim.spec.classes,
                    crew=crew,
                    store=PartStore(cache or default_folder()),
                    files=files,
                    progress=progress.advance,
                    known=progress.known,
                    finished=written,
                )
        finally:
            print_summary(written, out)
            print_findings([*checked, *compared(written)], out)
