"""``lazaret evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from detectors.evaluation import Knowledge

EXAMPLE = "Example: lazaret evaluate --bundle bundles/chest-xray --data scans --out evaluation"


def evaluate(
    bundle: Annotated[Path, typer.Option(help="The bundle folder.")],
    data: Annotated[Path, typer.Option(help="Folder of labelled images; its test split judges.")],
    out: Annotated[Path, typer.Option(help="Folder for evaluation.html, .json and .md.")],
    model: Annotated[
        str | None, typer.Option(help="The guarded model, to attack. Default: the zoo's.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors of a factory.")] = None,
    spec: Annotated[Path | None, typer.Option(help="model.json, if not beside the model.")] = None,
    attacks: Annotated[str, typer.Option(help="Presets, by comma.")] = "fgsm,bim,pgd,cw_linf",
    epsilon: Annotated[
        list[float] | None, typer.Option(help="Grey levels; default 0.5, 1, 2 and 4.")
    ] = None,
    images: Annotated[int, typer.Option(help="Test images attacked and shifted.")] = 240,
    other: Annotated[
        list[Path] | None, typer.Option(help="Folder of images that are not for this model.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes the draw and the random starts.")] = 0,
    device: Annotated[str, typer.Option(help="Where attacks run: cpu or cuda.")] = "cpu",
) -> None:
    """Judge a bundle on test patients: attacks, benign shifts and the null test.

    Attacks are made against the model, rounded to 8-bit files and read back through the service's
    own decoder and engine. Writes nothing unless the null test passes.
    """
    from service.cli.offline import console, guarded_model, load, progress_bars, workshop

    with workshop():
        import shlex
        import sys
        from dataclasses import replace
        from time import perf_counter

        from attacks.campaign import EPSILONS, attack_as_delivered, every_shift
        from attacks.generate import bench_of
        from attacks.part_store import PartStore, default_folder
        from detectors.bundle import Bundle
        from detectors.evaluate import evaluate as judge_bundle
        from detectors.evaluation import worst
        from detectors.guard_data import clean_samples, draw, test_examples
        from detectors.leave_out import fitted_families
        from detectors.report import write_report
        from detectors.trial import refuse_known
        from detectors.wording import percent, titled
        from models.datasets import read_dataset, unlabelled
        from models.load import model_digest, victim_of
        from models.machine import describe

        started = perf_counter()
        opened = Bundle.open(bundle)
        loaded_model = guarded_model(opened, model, weights=weights, spec=spec)
        dataset = read_dataset(data, opened.manifest.model.classes)
        examples = test_examples(dataset, seed)
        refuse_known(opened, examples)
        families, epsilons = attacks.split(","), tuple(epsilon or EPSILONS)
        with progress_bars() as progress:
            clean = clean_samples(load(progress, examples, loaded_model.spec))
            drawn = draw(clean, images, seed)
            others = []
            for folder in other or ():
                strangers = clean_samples(
                    load(progress, unlabelled(folder, images), loaded_model.spec)
                )
                others.append(replace(strangers, origin=folder.resolve().name))
            bench = bench_of(
                victim_of(loaded_model, device),
                digest=model_digest(loaded_model),
                seed=seed,
                attempts=True,
                device=device,
            )
            task = progress.add_task("attacking", total=None)

            def advance(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            hit = attack_as_delivered(
                bench,
                drawn,
                families,
                epsilons,
                progress=advance,
                store=PartStore(default_folder()),
            )
            fitted = fitted_families(opened)
            hit = tuple(replace(a, knowledge=knowledge_of(a.samples.origin, fitted)) for a in hit)
            shifts = every_shift(drawn, seed)
            total = len(clean) + sum(len(a.samples) for a in hit)
            total += sum(len(s) for s in (*shifts, *others))
            reading = progress.add_task("judging", total=total)
            findings = judge_bundle(
                opened,
                clean,
                hit,
                shifts,
                others,
                provenance={
                    "command": shlex.join(["lazaret", *sys.argv[1:]]),
                    "data": f"{data.resolve().name}, {len(clean)} test images of "
                    f"{len(set(clean.groups))} patients; {len(drawn)} of them attacked and shifted",
                    "seed": seed,
                    "machine": describe(),
                },
                seed=seed,
                progress=lambda done: progress.advance(reading, done),
            )
        seconds = round(perf_counter() - started)
        result = findings.evaluation
        result = replace(result, provenance={**result.provenance, "seconds": seconds})
        write_report(result, findings.worst, out)
        most = worst(result.attacks)
        console.print(
            f"{out / 'evaluation.html'}: "
            + (
                f"worst undetected harm {percent(most.undetected_harm)} "
                f"({titled(most.attack, most.epsilon)})"
                if most
                else "no attack"
            )
            + f", realised clean FPR {percent(result.clean.adversarial)}"
        )


def knowledge_of(attack: str, fitted: frozenset[str]) -> Knowledge:
    """What the attacker must know for the named attack, and whether its guard knows it."""
    from attacks.registry import category, named

    packages: dict[str, Knowledge] = {"guard_aware": "aware", "black_box": "black_box"}
    package = category(type(named(attack, 1.0)))
    return packages.get(package, "unaware" if attack in fitted else "unseen")
