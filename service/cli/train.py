"""``lazaret train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from models.datasets import Dataset
    from models.diagnostic import DiagnosticModel
    from models.model_card import Report
    from models.spec import Arguments, ModelSpec
    from models.train import Recipe

EXAMPLE = "Example: lazaret train --data scans --out models/mine --name mine"

WIDTHS, BLOCKS = "32,64,128,192", "2,2,2,2"
GOING_ON = 3e-4
"""The learning rate of a model that has learnt already."""
SURROGATE_WIDTHS, SURROGATE_BLOCKS = "24,48,96,192", "1,2,3,1"


def train(
    data: Annotated[Path, typer.Option(help="Folder of labelled images.")],
    out: Annotated[Path, typer.Option(help="Folder to write the model into; must not exist.")],
    name: Annotated[
        str,
        typer.Option(help="The model's name: lower case, digits, - and _; by default --out's."),
    ] = "",
    size: Annotated[int, typer.Option(help="Side of the network's square input in pixels.")] = 224,
    channels: Annotated[int, typer.Option(help="1 for gray images, 3 for colour.")] = 1,
    widths: Annotated[
        str, typer.Option(help="Channels of each residual stage.", show_default=WIDTHS)
    ] = "",
    blocks: Annotated[
        str, typer.Option(help="Blocks of each residual stage.", show_default=BLOCKS)
    ] = "",
    epochs: Annotated[int, typer.Option(help="Most epochs to train.")] = 18,
    patience: Annotated[
        int, typer.Option(help="Epochs that do not better the validation loss before it stops.")
    ] = 8,
    orientation: Annotated[
        str,
        typer.Option(
            help="How images may lie: upright, mirrored (ultrasound) or any (skin, fundus)."
        ),
    ] = "upright",
    harden: Annotated[
        float,
        typer.Option(
            help="Train on images moved against the model by up to so many grey levels, and on "
            "noise: it then falls less often. 4 to 8 suit most; 0 does not harden."
        ),
    ] = 0.0,
    start: Annotated[
        str,
        typer.Option(
            help="A model from `lazaret train` to go on from: at a lower rate for the same "
            "classes, with all but its last layer for others."
        ),
    ] = "",
    licence: Annotated[str, typer.Option(help="Licence of the images, for the card.")] = "unstated",
    seed: Annotated[int, typer.Option(help="Fixes splits, weights and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    surrogate: Annotated[
        bool,
        typer.Option(
            "--surrogate",
            help="An attacker's stand-in for transfer attacks: other patients than a model of the "
            "same --seed, other weights, another network "
            f"({SURROGATE_WIDTHS} and {SURROGATE_BLOCKS}).",
        ),
    ] = False,
) -> None:
    """Train a residual network from scratch on a labelled folder.

    Patients are never split between training and testing. 40 % of the training patients are kept
    back for the guard, 12 % of the rest choose the epoch to keep. The model is tested on the
    `test` split and written as model.json, weights.safetensors, model.onnx and card.md.

    With --harden it is attacked and shaken while it trains; with --start M it need not begin
    again: `lazaret train --data scans --start models/mine --harden 6 --epochs 6 --out models/hard`.
    M may be for other images: few of your own go further from `--start chest-xray-hard`.

    With --surrogate it is an attacker's: trained on just those 40 %, for
    `lazaret attack --attacks transfer:surrogate=OUT,eps=1/255`.
    """
    from service.cli.offline import console, progress_bars, workshop

    with workshop():
        from typing import get_args

        from models.datasets import DatasetProblem, read_dataset
        from models.diagnostic import DiagnosticModel
        from models.hardening import Hardening
        from models.load import load_model
        from models.save import save_model
        from models.train import FACTORY, Orientation, Recipe

        if out.exists():
            raise DatasetProblem(f"{out}: exists already; choose another folder")
        if orientation not in get_args(Orientation):
            raise DatasetProblem(
                f"no orientation is called {orientation!r}; choose from "
                f"{', '.join(get_args(Orientation))}"
            )
        dataset = read_dataset(data)
        name = name or out.resolve().name
        first = load_model(start) if start else None
        if first is None:
            stages = stages_of(
                widths or (SURROGATE_WIDTHS if surrogate else WIDTHS),
                blocks or (SURROGATE_BLOCKS if surrogate else BLOCKS),
            )
            spec = new_spec(name, dataset.classes, size, channels, stages)
        elif not isinstance(first, DiagnosticModel):
            raise DatasetProblem(f"--start {start}: has no weights to go on from, only a graph")
        elif first.spec.factory != FACTORY:
            raise DatasetProblem(f"--start {start}: is no network of lazaret train")
        elif widths or blocks:
            raise DatasetProblem("--widths and --blocks are those of --start: leave them out")
        elif first.spec.classes == dataset.classes:
            spec = first.spec.model_copy(update={"name": name})
        else:
            stages = {key: first.spec.arguments[key] for key in ("widths", "blocks")}
            spec = new_spec(name, dataset.classes, size, channels, stages)
        learnt = first is not None and first.spec.classes == dataset.classes
        recipe = Recipe(
            epochs=epochs,
            patience=patience,
            orientation=orientation,  # type: ignore[arg-type]  # checked above
            seed=seed,
            surrogate=surrogate,
            learning_rate=GOING_ON if learnt else Recipe().learning_rate,
            hardening=Hardening(epsilon=harden) if harden else None,
            start=first.spec.name if first else "",
        )
        with progress_bars() as progress:
            model, report = trained(progress, dataset, spec, recipe, device, first)
        save_model(model, out, report, data=data.resolve().name, licence=licence, recipe=recipe)
        console.print(f"{out}: accuracy {report.accuracy.described} on {report.images} test images")


def new_spec(
    name: str, classes: tuple[str, ...], size: int, channels: int, stages: Arguments
) -> ModelSpec:
    """The declaration of a network that is yet to be trained.

    Args:
        stages: its ``widths`` and ``blocks``.
    """
    from models.spec import ModelSpec, Preprocessing

    return ModelSpec(
        name=name,
        classes=classes,
        preprocessing=Preprocessing(
            channels=3 if channels == 3 else 1,
            resize=(size, size),
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
        ),
        arguments=stages,
    )


def trained(
    progress: Progress,
    dataset: Dataset,
    spec: ModelSpec,
    recipe: Recipe,
    device: str = "cpu",
    first: DiagnosticModel | None = None,
) -> tuple[DiagnosticModel, Report]:
    """Train on the data set's training patients, with a bar, and judge on its test patients."""
    from detectors.guard_data import test_examples
    from models.model_card import judge
    from models.train import Epoch, shown_and_fitted
    from models.train import train as fit_network
    from service.cli.offline import console, load

    test = test_examples(dataset, recipe.seed)
    declared = any(example.split for example in dataset.examples)
    tested = {example.key for example in test}
    training = [
        example
        for example in dataset.examples
        if example.key not in tested and (example.split == "train" or not declared)
    ]
    loaded = load(progress, training)
    judged = load(progress, test)
    _, fitted, _ = shown_and_fitted([e.group for e in loaded.examples], recipe)
    task = progress.add_task("training", total=len(fitted) * recipe.epochs)

    def on_epoch(epoch: Epoch) -> None:
        console.print(
            f"epoch {epoch.number}: loss {epoch.train_loss:.3f}, validation loss "
            f"{epoch.validation_loss:.3f}, accuracy {epoch.validation_accuracy:.3f}"
            f"{' (kept)' if epoch.best else ''}"
        )

    model = fit_network(
        spec,
        loaded,
        recipe,
        device,
        on_epoch,
        lambda images: progress.advance(task, images),
        first,
    )
    return model, judge(model, judged)


def stages_of(widths: str, blocks: str) -> Arguments:
    """A network's stages, from numbers by comma."""
    return {
        "widths": [int(number) for number in widths.split(",")],
        "blocks": [int(number) for number in blocks.split(",")],
    }
