"""``lazaret retrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Example: lazaret retrain --bundle bundles/chest-xray --data scans --adversarial adversarial"
)
EXIT_NOT_PROMOTABLE = 3


def retrain(
    bundle: Annotated[Path, typer.Option(help="The bundle in use; it is left as it is.")],
    data: Annotated[Path, typer.Option(help="Folder of labelled images.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the new bundle; must not exist. Default: BUNDLE-retrained."),
    ] = None,
    adversarial: Annotated[
        list[Path] | None,
        typer.Option(help="Sets of `lazaret attack --fitting` to learn from too; repeat for more."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The guarded model, to attack. Default: the zoo's.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors of a factory.")] = None,
    spec: Annotated[Path | None, typer.Option(help="model.json, if not beside the model.")] = None,
    attacks: Annotated[
        str, typer.Option(help="Families to fit on and to judge by, with parameters, by comma.")
    ] = "fgsm,bim,pgd,cw_linf",
    aware_attacks: Annotated[
        str, typer.Option(help="The same for attackers who know the guard; empty for none.")
    ] = "feature_matching,joint_pgd",
    epsilon: Annotated[
        list[float] | None, typer.Option(help="Grey levels; default 1, 2 and 4.")
    ] = None,
    fit_images: Annotated[
        int | None,
        typer.Option(help="Most images of each of the two fitting splits. Default: the bundle's."),
    ] = None,
    attack_images: Annotated[
        int, typer.Option(help="Images attacked in each of the two fitting splits.")
    ] = 160,
    images: Annotated[int, typer.Option(help="Test images attacked and shifted.")] = 240,
    margin: Annotated[
        float, typer.Option(min=0, help="Points by which an attack's undetected harm may rise.")
    ] = 2.0,
    device: Annotated[str, typer.Option(help="Where attacks run: cpu or cuda.")] = "cpu",
) -> None:
    """Fit a bundle's guard again on new attacks, and say whether it may take the old one's place.

    Detectors, false-alarm rates, seed and so splits are those of the bundle in use. Attacks are
    made anew against its model and against its guard. Old and new guard are then judged on the
    same untouched test patients: by the same attacks, and each by attackers who know it.

    Writes the new bundle with comparison.json and comparison.md in it. Stopped and started again,
    it makes no attack twice.

    Exit status: 0 promotable, 3 not promotable, 2 could not be done.
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

    in_use = bundle.resolve()
    target = out or in_use.with_name(f"{in_use.name}-retrained")
    with workshop():
        import shlex
        import shutil
        import sys

        import numpy as np

        from attacks.added_sets import added_sets
        from attacks.campaign import FIT_EPSILONS
        from attacks.duel import compare_guards
        from attacks.fit_material import clean_splits, fit_material
        from attacks.generate import bench_of
        from attacks.guarded import load_guarded
        from attacks.opponent import Opponent
        from attacks.part_store import PartStore, default_folder
        from attacks.registry import split
        from detectors.bundle import Bundle
        from detectors.comparison import write_comparison
        from detectors.fit import FitProblem
        from detectors.fit import fit as fit_bundle
        from detectors.gates import Margins
        from detectors.guard_data import (
            FITTING,
            clean_samples,
            draw,
            guard_examples,
            test_examples,
        )
        from detectors.shortfalls import shortfalls
        from detectors.trial import Trial, detector_names, refuse_known
        from models.datasets import read_dataset
        from models.load import model_digest, victim_of
        from models.machine import describe

        if target.exists():
            raise FitProblem(f"{target}: exists already; choose another folder")
        old = Bundle.open(bundle)
        declared, parent = old.manifest.model, old.manifest.provenance
        loaded = guarded_model(old, model, weights=weights, spec=spec)
        seed = int(parent["seed"])
        dataset = read_dataset(data, declared.classes)
        examples, tested = guard_examples(dataset, declared, seed), test_examples(dataset, seed)
        refuse_known(old, tested)
        if not examples or not tested:
            raise FitProblem(
                f"{data}: needs patients to fit on and others to test on, none of them the model's "
                "training patients; add images"
            )
        bench = bench_of(
            victim_of(loaded, device),
            digest=model_digest(loaded),
            seed=seed,
            attempts=True,
            device=device,
        )
        blind = Opponent(bench, split(attacks), tuple(epsilon or FIT_EPSILONS))
        opponents, knowing = [blind], split(aware_attacks) if aware_attacks else ()
        if knowing:
            guard = load_guarded(bundle).to(device)
            opponents.append(blind.knowing(guard, old.digest, knowing))
        store = PartStore(default_folder())
        with progress_bars() as progress:
            advance = counted(progress)
            fitting = clean_samples(load(progress, examples, declared))
            tests = clean_samples(load(progress, tested, declared))
            begun = Trial.begin(old, tests, seed)  # what it lacks is told before any attack
            most = fit_images or max(parent["images"][name] for name in FITTING)
            splits = clean_splits(fitting, most, seed)
            learnt = {name: splits[name] for name in FITTING}
            used = {key for samples in learnt.values() for key in samples.keys}
            idle = np.array([key not in used for key in fitting.keys])
            added = added_sets(
                adversarial or (), learnt, tests=tests, others=fitting.rows(np.flatnonzero(idle))
            )
            material = fit_material(
                splits,
                opponents,
                images=attack_images,
                seed=seed,
                progress=advance,
                added={
                    name: [one.samples[name] for one in added if name in one.samples]
                    for name in FITTING
                },
                store=store,
            )
            made = target.with_name(f"{target.name}.unjudged")
            shutil.rmtree(made, ignore_errors=True)  # of a run that was stopped
            task = progress.add_task("measuring", total=len(material))
            stage = old.manifest.second_stage
            new = fit_bundle(
                loaded,
                material.reference,
                material.fusion,
                material.calibration,
                made,
                names=detector_names(old),
                alphas=old.manifest.alphas,
                provenance={
                    "model": model_digest(loaded),
                    "data": data.resolve().name,
                    **material.provenance,
                    "retrained from": old.digest,
                    "added": [one.sentence for one in added],
                },
                seed=seed,
                views=stage.views if stage else 0,
                share=stage.share if stage else 0.1,
                progress=lambda done: progress.advance(task, done),
                taught=advance,
            )
            drawn = draw(tests, images, seed)
            comparison = compare_guards(
                begun,
                Trial.begin(new, tests, seed),
                drawn,
                own=draw(splits["fusion"], attack_images, seed),
                blind=blind,
                knowing=knowing,
                margins=Margins(harm=margin / 100),
                provenance={
                    "command": shlex.join(["lazaret", *sys.argv[1:]]),
                    "data": f"{data.resolve().name}, {len(tests)} test images of "
                    f"{len(set(tests.groups))} patients; {len(drawn)} of them attacked and shifted",
                    "old": old.digest,
                    "new": new.digest,
                    "added": "; ".join(one.sentence for one in added) or "nothing",
                    "seed": seed,
                    "machine": describe(),
                },
                progress=advance,
                store=store,
            )
        write_comparison(comparison, made)
        made.rename(target)
        for sentence in shortfalls(new.manifest):
            console.print(sentence, style="yellow", markup=False)
        print_gates(comparison.gates)
        verdict = "promotable" if comparison.promotable else "not promotable"
        console.print(f"{target}: {new.digest}, {verdict}; see {target / 'comparison.md'}")
    if not comparison.promotable:
        raise typer.Exit(EXIT_NOT_PROMOTABLE)
