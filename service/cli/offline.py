"""What the offline commands share: they need torch, take long, and read folders of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from service.cli.sentence import refuse, told

if TYPE_CHECKING:
    from models.datasets import Example, Loaded

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
    from detectors.evaluate import EvaluationProblem
    from detectors.fit import FitProblem
    from detectors.fixture import AcceptanceProblem
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


def load(progress: Progress, examples: Sequence[Example]) -> Loaded:
    """Decode with a bar; say which files could not be read and go on with the rest."""
    from models.datasets import DatasetProblem, load_images

    task = progress.add_task("reading images", total=len(examples))
    loaded = load_images(examples, progress=lambda done: progress.advance(task, done))
    for sentence in loaded.problems[:5]:
        console.print(f"left out: {sentence}", style="yellow", markup=False)
    if len(loaded.problems) > 5:
        console.print(f"left out: {len(loaded.problems) - 5} more files", style="yellow")
    if not loaded.images:
        raise DatasetProblem("no image could be read; see the sentences above")
    return loaded
