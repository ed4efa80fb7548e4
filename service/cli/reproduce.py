"""``lazaret reproduce``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from models.datasets import Dataset, Example
    from models.diagnostic import DiagnosticModel
    from models.spec import ModelSpec
    from models.train import Recipe

EXAMPLE = "Example: lazaret reproduce --data $LAZARET_DATA --out reproduction --preset quick"

REFERENCE = 600
"""Most images beside the test split that a model reads: some fit detectors, all do for the null
test."""
SECOND_WIDTHS, SECOND_BLOCKS = "16,32,64,96", "1,1,1,1"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a modality's images lie, and what is attacked if nothing else is named."""

    folder: str
    channels: int
    zoo: str | None = None


MODALITIES: Mapping[str, Source] = {
    "chest-xray": Source("cxr_kermany", 1, "chest-xray"),
    "fundus": Source("fundus_idrid", 3),
    "dermoscopy": Source("derm_isic2017", 3),
    "ultrasound": Source("us_busi", 1),
}


@dataclass(frozen=True, slots=True)
class Preset:
    """How much is measured where the command does not say."""

    images: int
    detection_images: int
    fit_images: int
    viewed: int
    epochs: int
    second_epochs: int


PRESETS: Mapping[str, Preset] = {
    "quick": Preset(24, 40, 40, 4, 12, 3),
    "paper": Preset(100, 200, 200, 16, 40, 10),
}


def reproduce(
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of data sets: " + ", ".join(s.folder for s in MODALITIES.values()) + "."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for reproduction.html, .md, .json, figures.")],
    modality: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(MODALITIES)}; repeat for more. Default: all.", metavar="M"),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="paper: all its epsilons; quick: a few, on few images.")
    ] = "paper",
    images: Annotated[
        int | None, typer.Option(help="Test images a modality, attacked at every epsilon.")
    ] = None,
    detection_images: Annotated[
        int | None, typer.Option(help="Right ones that judge detectors, at 1/255.")
    ] = None,
    fit_images: Annotated[
        int | None, typer.Option(help="Right ones that detectors are fitted on, at 1/255.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="MODALITY=FOLDER, from lazaret train, in place of one trained here. Repeat.",
            metavar="M=FOLDER",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs of what is trained here.")] = None,
    size: Annotated[int, typer.Option(help="Side of the input of what is trained here.")] = 224,
    widths: Annotated[
        str, typer.Option(help="Channels of each stage of what is trained here.")
    ] = "24,48,96,144",
    show_images: Annotated[
        bool, typer.Option("--show-images", help="Show a test image of each modality on the page.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Where models and attacks are kept; safe to remove.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes draws, weights and random starts.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Reproduce Ma et al. (2021): attacks, detectors by two protocols, the null test, and why.

    Trains the classifiers that are missing, attacks them over the paper's epsilons, and writes one
    page: accuracy under attack, the paper's four detectors by its released protocol and by an
    honest one, transfer, the number of classes, saliency, loss landscapes, Grad-CAM and features.
    The page is written after each modality. Stopped and started again, the command goes on where it
    was. Nothing is written unless the honest null test passes.
    """
    from service.cli.offline import console, counted, progress_bars, workshop
    from service.cli.sentence import refuse

    names = tuple(dict.fromkeys(modality or MODALITIES))
    if unknown := [name for name in names if name not in MODALITIES]:
        refuse(f"no modality is called {unknown[0]!r}; choose from {', '.join(MODALITIES)}")
    if preset not in PRESETS:
        refuse(f"no preset is called {preset!r}; choose from {', '.join(PRESETS)}")
    given = _given(model or [])
    with workshop():
        import shlex
        import sys
        from dataclasses import replace
        from time import perf_counter

        from attacks.paper_grid import GRID, QUICK
        from attacks.part_store import default_folder
        from attacks.reproduction import Plan, Subject, count_classes, examine
        from detectors.guard_data import (
            clean_samples,
            draw_evenly,
            guard_examples,
            test_examples,
        )
        from detectors.reproduction.findings import ClassCount, Modality, Reproduction
        from detectors.reproduction.page import write_page
        from models.datasets import read_dataset
        from models.diagnostic import DiagnosticModel
        from models.load import LoadProblem, load_model
        from models.machine import describe
        from models.train import Recipe
        from service.cli.offline import load
        from service.cli.train import BLOCKS, new_spec, stages_of

        started = perf_counter()
        sized = PRESETS[preset]
        kept = cache or default_folder()
        recipe = Recipe(epochs=epochs or sized.epochs, seed=seed)
        second_recipe = replace(
            recipe, surrogate=True, epochs=min(epochs or sized.second_epochs, sized.second_epochs)
        )
        plan = Plan(
            images=images or sized.images,
            detection_images=detection_images or sized.detection_images,
            fit_images=fit_images or sized.fit_images,
            epsilons=GRID if preset == "paper" else QUICK,
            viewed=sized.viewed,
            confidence=1 - 0.01 / len(names),
            show_images=show_images,
            seed=seed,
            device=device,
            cache=kept,
        )
        modalities: list[Modality] = []
        counts: list[ClassCount] = []
        for number, name in enumerate(names, start=1):
            source = MODALITIES[name]
            folder = data / source.folder
            reference = given.get(name) or source.zoo
            dataset = read_dataset(folder)
            with progress_bars() as progress:
                trainer = _Trainer(progress, kept, device)
                if reference is not None:
                    loaded = load_model(reference)
                    if not isinstance(loaded, DiagnosticModel):
                        raise LoadProblem(
                            f"{reference}: is a graph without its network; give a model from "
                            "lazaret train"
                        )
                    origin = f"{'given' if name in given else 'the zoo'}: {loaded.spec.name}"
                    dataset = read_dataset(folder, loaded.spec.classes)
                else:
                    stages = stages_of(widths, BLOCKS)
                    spec = new_spec(name, dataset.classes, size, source.channels, stages)
                    loaded, origin = trainer.trained(dataset, spec, recipe)
                second_spec = loaded.spec.model_copy(
                    update={
                        "name": f"{name}-second",
                        "arguments": stages_of(SECOND_WIDTHS, SECOND_BLOCKS),
                        "taps": None,
                        "trained_on": (),
                    }
                )
                second, _ = trainer.trained(dataset, second_spec, second_recipe)
                test = clean_samples(load(progress, test_examples(dataset, seed), loaded.spec))
                others = clean_samples(
                    load(progress, _some(guard_examples(dataset, loaded.spec, seed)), loaded.spec)
                )
                subject = Subject(loaded.to(device), second, source.folder, origin, test, others)
                found = examine(subject, plan, counted(progress))
                modalities.append(replace(found, classifier=replace(found.classifier, name=name)))
                ladder = [
                    trainer.trained(part, _narrowed(loaded.spec, part.classes), recipe)[0]
                    for part in class_subsets(dataset)
                ]
                if ladder:
                    counts += count_classes(
                        [*ladder, loaded],
                        name,
                        draw_evenly(test, plan.images, seed),
                        dataset.classes,
                        plan,
                        counted(progress),
                    )
            result = Reproduction(
                tuple(modalities),
                tuple(counts),
                {
                    "command": shlex.join(["lazaret", *sys.argv[1:]]),
                    **({"still to come": ", ".join(rest)} if (rest := names[number:]) else {}),
                    "data": "; ".join(
                        f"{m.classifier.data}, {m.classifier.images} test images, "
                        f"{m.attacked_images} of them attacked at every ε; "
                        f"{m.detections[0].images} right ones judge detectors fitted on "
                        f"{m.fit_images} others"
                        for m in modalities
                    ),
                    "recipe": f"{recipe.epochs} epochs at most, widths {widths}, blocks {BLOCKS}; "
                    f"the second models {second_recipe.epochs} epochs, widths {SECOND_WIDTHS}, "
                    f"blocks {SECOND_BLOCKS}",
                    "rounding": "to the nearest grey level, ties to even",
                    "seed": seed,
                    "machine": describe(),
                    "seconds, without what was in the cache": round(perf_counter() - started),
                },
            )
            write_page(result, out)
            page = out / "reproduction.html"
            console.print(f"{page}: {number} of {len(names)} modalities, null test passed")


def _some(examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """At most ``REFERENCE`` of them, of patients in no particular order."""
    from models.datasets import group_digest

    ordered = sorted(examples, key=lambda e: (group_digest(e.group), e.key))
    return tuple(ordered[:REFERENCE])


def class_subsets(dataset: Dataset) -> list[Dataset]:
    """The data set's two commonest classes, its three commonest and so on, all left out; empty for
    a data set of two. Ranked on the training split, as Ma et al. rank by frequency."""
    from dataclasses import replace

    training = [e for e in dataset.examples if e.split in ("train", None)]
    count = [sum(e.label == c for e in training) for c in range(len(dataset.classes))]
    ranked = sorted(range(len(dataset.classes)), key=lambda c: (-count[c], dataset.classes[c]))
    subsets = []
    for number in range(2, len(dataset.classes)):
        place = {c: i for i, c in enumerate(ranked[:number])}
        subsets.append(
            replace(
                dataset,
                classes=tuple(dataset.classes[c] for c in place),
                examples=tuple(
                    replace(e, label=place[e.label]) for e in dataset.examples if e.label in place
                ),
            )
        )
    return subsets


def _narrowed(spec: ModelSpec, classes: tuple[str, ...]) -> ModelSpec:
    return spec.model_copy(
        update={
            "name": f"{spec.name}-{len(classes)}",
            "classes": classes,
            "arguments": {k: spec.arguments[k] for k in ("widths", "blocks")},
            "taps": None,
            "trained_on": (),
        }
    )


def _given(options: list[str]) -> dict[str, str]:
    from service.cli.sentence import refuse

    given = {}
    for option in options:
        name, equals, folder = option.partition("=")
        if not equals or name not in MODALITIES:
            refuse(f"--model {option}: write MODALITY=FOLDER, with one of {', '.join(MODALITIES)}")
        given[name] = folder
    return given


@dataclass(frozen=True, slots=True)
class _Trainer:
    """Trains what is not in the cache yet."""

    progress: Progress
    cache: Path
    device: str

    def trained(
        self, dataset: Dataset, spec: ModelSpec, recipe: Recipe
    ) -> tuple[DiagnosticModel, str]:
        """The model and where it comes from."""
        import hashlib
        import json
        import shutil
        from dataclasses import asdict

        from models.diagnostic import DiagnosticModel
        from models.load import load_model
        from models.save import save_model
        from service.cli.offline import console
        from service.cli.train import trained

        content = {
            "images": [
                (e.key, e.path.stat().st_size, e.label, e.group, e.split) for e in dataset.examples
            ],
            "spec": spec.model_dump(mode="json"),
            "recipe": asdict(recipe),
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        folder = self.cache / "models" / f"{spec.name}-{digest[:16]}"
        if not folder.is_dir():
            console.print(f"training {spec.name} ({', '.join(spec.classes)})")
            model, report = trained(self.progress, dataset, spec, recipe, self.device)
            made = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(made, ignore_errors=True)
            save_model(
                model, made, report, data=dataset.folder.name, licence="unstated", recipe=recipe
            )
            made.rename(folder)
        loaded = load_model(str(folder))
        assert isinstance(loaded, DiagnosticModel)  # save_model names our own factory
        return loaded.to(self.device), f"trained here, {recipe.epochs} epochs at most"
