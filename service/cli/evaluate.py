"""``lazaret evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from detectors.evaluation import Knowledge

EXAMPLE = "Example: lazaret evaluate --bundle bundles/chest-xray --data scans --out evaluation"
AWARE_EPSILONS = (1.0, 2.0)
ONE_GREY_LEVEL = 1.0


def evaluate(
    bundle: Annotated[Path, typer.Option(help="The bundle folder.")],
    data: Annotated[Path, typer.Option(help="Folder of labelled images; its test split judges.")],
    out: Annotated[Path, typer.Option(help="Folder for evaluation.html, .json and .md.")],
    model: Annotated[
        str | None, typer.Option(help="The guarded model, to attack. Default: the zoo's.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors of a factory.")] = None,
    spec: Annotated[Path | None, typer.Option(help="model.json, if not beside the model.")] = None,
    attacks: Annotated[
        str, typer.Option(help="By comma, each at every epsilon.")
    ] = "fgsm,bim,pgd,cw_linf",
    epsilon: Annotated[
        list[float] | None, typer.Option(help="Grey levels; default 0.5, 1, 2 and 4.")
    ] = None,
    also: Annotated[
        str,
        typer.Option(
            help="More, once each: autoattack:eps=1/255,patch,transfer:surrogate=DIR,eps=2/255."
        ),
    ] = "",
    aware_attacks: Annotated[
        str, typer.Option(help="By comma, of attackers who know the guard; empty for none.")
    ] = "hfc:steps=50,joint_pgd:steps=50,orthogonal_pgd:steps=50",
    aware_epsilon: Annotated[
        list[float] | None, typer.Option(help="Their grey levels; default 1 and 2.")
    ] = None,
    images: Annotated[int, typer.Option(help="Test images attacked and shifted.")] = 240,
    aware_images: Annotated[
        int, typer.Option(help="Of them, how many are attacked by those who know the guard.")
    ] = 48,
    severity: Annotated[
        int, typer.Option(min=1, max=5, help="Of benign shifts, the most severe of 5.")
    ] = 5,
    other: Annotated[
        list[Path] | None, typer.Option(help="Folder of images that are not for this model.")
    ] = None,
    source: Annotated[
        str,
        typer.Option(help="Who sent images without a `source` in labels.csv: a client or a peer."),
    ] = "",
    seed: Annotated[int, typer.Option(help="Fixes the draw and the random starts.")] = 0,
    device: Annotated[str, typer.Option(help="Where attacks run: cpu or cuda.")] = "cpu",
) -> None:
    """Judge a bundle on test patients: attacks, benign shifts and the null test.

    Attacks are made against the model, or against model and guard by an attacker who holds the
    bundle, rounded to 8-bit files and read back through the service's own decoder and engine. What
    an attack must learn beforehand it learns from patients that the guard was fitted on, never from
    those who judge. Writes nothing unless the null test passes.
    """
    from service.cli.offline import (
        console,
        counted,
        guarded_model,
        load,
        progress_bars,
        workshop,
    )

    with workshop():
        import shlex
        import sys
        from dataclasses import replace
        from functools import partial
        from time import perf_counter

        from attacks.campaign import EPSILONS, every_shift
        from attacks.generate import bench_of
        from attacks.guarded import load_guarded
        from attacks.opponent import ATTACKER_IMAGES, Opponent
        from attacks.part_store import PartStore, default_folder
        from attacks.registry import split
        from attacks.surrogate import surrogate_loader
        from detectors.bundle import Bundle
        from detectors.evaluate import evaluate as judge_bundle
        from detectors.evaluation import worst
        from detectors.guard_data import clean_samples, draw, fitting_examples, test_examples
        from detectors.judgement import Attacked
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
        bench = bench_of(
            victim_of(loaded_model, device),
            digest=model_digest(loaded_model),
            seed=seed,
            attempts=True,
            device=device,
        )
        opponent = Opponent(
            bench,
            split(attacks),
            tuple(epsilon or EPSILONS),
            surrogate_loader(loaded_model.spec, device),
        )
        opponents = [(opponent, images)]
        if also:
            once = replace(opponent, families=split(also), epsilons=(ONE_GREY_LEVEL,))
            opponents.append((once, images))
        if aware_attacks:
            guard = load_guarded(bundle).to(device)
            knowing = opponent.knowing(guard, opened.digest, split(aware_attacks))
            levels = tuple(aware_epsilon or AWARE_EPSILONS)
            opponents.append((replace(knowing, epsilons=levels), aware_images))
        with progress_bars() as progress:
            clean = clean_samples(load(progress, examples, loaded_model.spec), source)
            drawn = draw(clean, images, seed)
            others = []
            for folder in other or ():
                strangers = clean_samples(
                    load(progress, unlabelled(folder, images), loaded_model.spec)
                )
                others.append(replace(strangers, origin=folder.resolve().name))
            own = fitting_examples(dataset, loaded_model.spec, seed)
            learnt_from = draw(
                clean_samples(load(progress, own, loaded_model.spec)), ATTACKER_IMAGES, seed
            )
            advance, store = counted(progress), PartStore(default_folder())
            hit: list[Attacked] = []
            for attacker, attacked in opponents:
                what = "attacking" + (", knowing the guard" if attacker.bench.guard else "")
                hit += attacker.instructed(learnt_from).deliver(
                    draw(drawn, attacked, seed), partial(advance, what), store
                )
            fitted = fitted_families(opened)
            hit = [replace(a, knowledge=knowledge_of(a.samples.origin, fitted)) for a in hit]
            shifts = every_shift(drawn, seed, mildest=severity)
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
                    f"{len(set(clean.groups))} patients; {len(drawn)} of them attacked and "
                    f"shifted, {min(aware_images, len(drawn)) if aware_attacks else 0} of those by "
                    "attackers who know the guard",
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
