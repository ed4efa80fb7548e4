"""What the offline commands share: they need torch, take long, and read folders of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from service.cli.sentence import refuse, told

if TYPE_CHECKING:
    from detectors.bundle import Bundle
    from detectors.gates import Gate
    from models.datasets import Example, Loaded
    from models.diagnostic import DiagnosticModel
    from models.load import OnnxModel
    from models.spec import ModelSpec

console = Console(stderr=True, soft_wrap=True, highlight=False)


@contextmanager
def workshop() -> Iterator[None]:
    """Turn what a user can mend, a missing extra among it, into a sentence and exit status 2."""
    try:
        import torch  # noqa: F401  # the rest of the extra comes with it
    except ImportError:
        refuse("this command needs the offline half: pip install 'lazaret[train]'")
    from attacks.crew import ClusterProblem
    from attacks.gradient import GradientProblem
    from attacks.problem import AttackProblem
    from attacks.registry import UnknownAttack
    from attacks.shards import ShardProblem
    from detectors.fit import FitProblem
    from detectors.fixture import AcceptanceProblem
    from detectors.trial import EvaluationProblem
    from models.datasets import DatasetProblem
    from models.load import LoadProblem
    from models.onnx_graph import GraphProblem
    from models.taps import TapProblem

    try:
        with told():
            yield
    except (
        AcceptanceProblem,
        AttackProblem,
        ClusterProblem,
        DatasetProblem,
        EvaluationProblem,
        FitProblem,
        GradientProblem,
        GraphProblem,
        LoadProblem,
        ShardProblem,
        TapProblem,
        UnknownAttack,
    ) as problem:
        refuse(str(problem))


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars with counts, time spent and time left; plain nothing when not on a terminal."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        yield progress


def counted(progress: Progress) -> Callable[[str, int, int], None]:
    """A bar for each thing that is told about, made when it is first told about."""
    tasks: dict[str, TaskID] = {}

    def advance(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=total)
        progress.update(tasks[what], completed=done, total=total)

    return advance


def print_gates(gates: Sequence[Gate]) -> None:
    """Every gate with what it found, the failed ones in red."""
    table = Table(
        "gate", "", Column("value", justify="right"), Column("limit", justify="right"), "why"
    )
    for gate in gates:
        table.add_row(
            gate.name,
            "passed" if gate.passed else "failed",
            f"{gate.value:.3f}",
            f"{gate.limit:.3f}",
            gate.sentence,
            style="" if gate.passed else "red",
        )
    console.print(table)


def guarded_model(
    bundle: Bundle, reference: str | None, *, weights: Path | None = None, spec: Path | None = None
) -> DiagnosticModel | OnnxModel:
    """The model that the bundle guards, by default the zoo's of that name. Raises ``LoadProblem``
    for another one."""
    from models.load import LoadProblem, load_model, model_digest

    name = reference or bundle.manifest.model.name
    loaded = load_model(name, weights=weights, spec=spec)
    if model_digest(loaded) != bundle.manifest.provenance.get("model"):
        raise LoadProblem(
            f"{name} is not the model that this bundle guards; say which one with --model"
        )
    return loaded


def load(progress: Progress, examples: Sequence[Example], spec: ModelSpec | None = None) -> Loaded:
    """Decode as the model declares, with a bar; say which files could not be read and go on."""
    from models.datasets import DatasetProblem, load_images

    task = progress.add_task("reading images", total=len(examples))
    rendering = spec.preprocessing.rendering if spec else None
    loaded = load_images(
        examples, progress=lambda done: progress.advance(task, done), rendering=rendering
    )
    for sentence in loaded.problems[:5]:
        console.print(f"left out: {sentence}", style="yellow", markup=False)
    if len(loaded.problems) > 5:
        console.print(f"left out: {len(loaded.problems) - 5} more files", style="yellow")
    if not loaded.images:
        raise DatasetProblem("no image could be read; see the sentences above")
    return loaded
