"""``lazaret gate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Example: lazaret gate --bundle bundles/chest-xray --data scans --baseline release_gate.json"
)
EXIT_ROSE = 3


def gate(
    bundle: Annotated[Path, typer.Option(help="The bundle folder.")],
    data: Annotated[Path, typer.Option(help="Folder of labelled images; its test split judges.")],
    baseline: Annotated[Path, typer.Option(help="JSON file with the last release's numbers.")],
    write: Annotated[
        bool, typer.Option("--write", help="Make these the numbers that the next is held against.")
    ] = False,
    margin: Annotated[
        float,
        typer.Option(min=0, help="With --write: points by which undetected harm may rise."),
    ] = 5.0,
    attacks: Annotated[
        str, typer.Option(help="By comma, of attackers who do not know the guard.")
    ] = "fgsm,pgd,square:eps=8,queries=100",
    aware_attacks: Annotated[
        str, typer.Option(help="By comma, of attackers who do; empty for none.")
    ] = "hfc:steps=20,joint_pgd:steps=20",
    epsilon: Annotated[float, typer.Option(help="Grey levels, of attacks that name none.")] = 2.0,
    images: Annotated[int, typer.Option(help="Test images attacked.")] = 64,
    model: Annotated[
        str | None, typer.Option(help="The guarded model, to attack. Default: the zoo's.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors of a factory.")] = None,
    spec: Annotated[Path | None, typer.Option(help="model.json, if not beside the model.")] = None,
    seed: Annotated[int, typer.Option(help="Fixes the draw and the random starts.")] = 0,
) -> None:
    """Fail when undetected harm rose since the last release.

    A small evaluation with unaware, black-box and guard-aware attacks, made anew each time and
    judged as `lazaret evaluate` does, for continuous integration.

    Exit status: 0 no attack's undetected harm rose by more than the margin, 3 one did, 2 could not
    be measured.
    """
    from service.cli.offline import (
        console,
        counted,
        guarded_model,
        load,
        print_gates,
        progress_bars,
        workshop,
    )

    with workshop():
        import hashlib
        import shlex
        import sys
        from dataclasses import replace
        from functools import partial

        from attacks.generate import bench_of
        from attacks.guarded import load_guarded
        from attacks.opponent import ATTACKER_IMAGES, Opponent
        from attacks.registry import split
        from detectors.bundle import Bundle
        from detectors.gates import all_passed
        from detectors.guard_data import clean_samples, draw, fitting_examples, test_examples
        from detectors.leave_out import fitted_families
        from detectors.release_gate import Release, measured, release_gates
        from detectors.trial import Trial, refuse_known
        from models.datasets import read_dataset
        from models.load import model_digest, victim_of
        from models.machine import describe
        from service.cli.evaluate import knowledge_of

        last = None if write else Release.read(baseline)
        opened = Bundle.open(bundle)
        loaded = guarded_model(opened, model, weights=weights, spec=spec)
        dataset = read_dataset(data, loaded.spec.classes)
        tested = test_examples(dataset, seed)
        refuse_known(opened, tested)
        bench = bench_of(victim_of(loaded), digest=model_digest(loaded), seed=seed, attempts=True)
        opponents = [Opponent(bench, split(attacks), (epsilon,))]
        if aware_attacks:
            guard = load_guarded(bundle)
            opponents.append(opponents[0].knowing(guard, opened.digest, split(aware_attacks)))
        rows = []
        with progress_bars() as progress:
            advance = counted(progress)
            tests = clean_samples(load(progress, tested, loaded.spec))
            own = clean_samples(
                load(progress, fitting_examples(dataset, loaded.spec, seed), loaded.spec)
            )
            trial = Trial.begin(opened, tests, seed)
            trial.require_null()
            drawn, own = draw(tests, images, seed), draw(own, ATTACKER_IMAGES, seed)
            fitted = fitted_families(opened)
            for opponent in opponents:
                what = "attacking" + (", knowing the guard" if opponent.bench.guard else "")
                # nothing is kept or taken from the cache: the code that attacks is judged, too
                for made in opponent.instructed(own).deliver(drawn, partial(advance, what), None):
                    knowledge = knowledge_of(made.samples.origin, fitted)
                    rows.append(measured(trial, replace(made, knowledge=knowledge), seed))
        names = hashlib.sha256("\n".join([*drawn.keys, *drawn.groups]).encode()).hexdigest()
        now = Release(
            margin=margin / 100,
            setting={
                "attacks": [attacks, aware_attacks],
                "epsilon": epsilon,
                "images": f"{len(drawn)}, sha256:{names[:16]}",
                "seed": seed,
            },
            rows=tuple(rows),
            provenance={
                "command": shlex.join(["lazaret", *sys.argv[1:]]),
                "bundle": opened.digest,
                "machine": describe(),
            },
        )
        if last is None:
            now.write(baseline)
        gates = release_gates(last or now, now)
        print_gates(gates)
        if last is None:
            console.print(f"{baseline}: what the next release is held against")
    if not all_passed(gates):
        raise typer.Exit(EXIT_ROSE)
