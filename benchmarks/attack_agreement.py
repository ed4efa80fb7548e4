"""Our attacks beside foolbox's: same model, images and parameters; success, norms and CPU time.

    python benchmarks/attack_agreement.py --model phantom --data FOLDER --images 64 --out table.json

Needs the ``train`` and ``dev`` extras. Success counts images that are diagnosed right when clean,
on float pixels (neither library rounds here). Norms are medians in grey levels. Times are process
CPU seconds for all images, the median of ``--repeats`` runs in alternating order. foolbox is
timed through ``attack.run``, without the extra forward passes that its ``attack(...)`` spends on
counting successes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import eagerpy
import foolbox
import numpy as np
import torch
from torch import Tensor, nn

from attacks.objective import reached
from attacks.white_box.bim import bim
from attacks.white_box.cw_linf import cw_linf
from attacks.white_box.fgsm import fgsm
from attacks.white_box.pgd import pgd
from models.machine import describe

STEPS = 20
STEP_FRACTION = 0.1


class FoolboxMargin(foolbox.attacks.LinfProjectedGradientDescentAttack):
    """foolbox's loop with the margin instead of the cross-entropy: it ships no CW-Linf."""

    def get_loss_fn(
        self, model: foolbox.Model, labels: eagerpy.Tensor
    ) -> Callable[[eagerpy.Tensor], eagerpy.Tensor]:
        def margin(inputs: eagerpy.Tensor) -> eagerpy.Tensor:
            logits = model(inputs)
            others = logits.raw.scatter(1, labels.raw[:, None], float("-inf")).amax(dim=1)
            return eagerpy.astensor(others).sum() - logits[range(len(logits)), labels].sum()

        return margin


@dataclass(frozen=True)
class Row:
    """One attack of one library at one budget."""

    attack: str
    epsilon: float
    library: str
    success: float
    linf: float
    l2: float
    cpu_seconds: float
    pixel_difference: float | None
    """Largest difference to foolbox's pixels in grey levels; None where starts are random."""


def compare(
    model: nn.Module, pixels: Tensor, labels: Tensor, epsilons: Sequence[float], repeats: int = 3
) -> list[Row]:
    """Run both libraries on ``pixels`` (``float32[N, H, W, C]`` in grey levels)."""
    with torch.no_grad():
        right = model(pixels).argmax(1) == labels
    rows = []
    for epsilon in epsilons:
        for name, (ours, theirs) in _pairs(model, pixels, labels, epsilon).items():
            results: dict[str, Tensor] = {}
            seconds: dict[str, list[float]] = {"lazaret": [], "foolbox": []}
            runners = [("lazaret", ours), ("foolbox", theirs)]
            for _ in range(repeats):
                for library, attack in runners:
                    torch.manual_seed(0)
                    start = time.process_time()
                    results[library] = attack()
                    seconds[library].append(time.process_time() - start)
                runners.reverse()
            gap = float((results["lazaret"] - results["foolbox"]).abs().max())
            for library, attacked in results.items():
                change = (attacked - pixels).flatten(1)
                with torch.no_grad():
                    fooled = reached(model(attacked), labels, targeted=False)
                rows.append(
                    Row(
                        name,
                        epsilon,
                        library,
                        success=float(fooled[right].float().mean()),
                        linf=float(change.abs().amax(1).median()),
                        l2=float(change.norm(dim=1).median()),
                        cpu_seconds=statistics.median(seconds[library]),
                        pixel_difference=None if name == "pgd" else gap,
                    )
                )
    return rows


def _pairs(
    model: nn.Module, pixels: Tensor, labels: Tensor, epsilon: float
) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
    peer = foolbox.PyTorchModel(model, bounds=(0, 255), device=pixels.device)
    criterion = foolbox.criteria.Misclassification(labels)
    iterated = {"rel_stepsize": STEP_FRACTION, "steps": STEPS, "random_start": False}
    steps = {"epsilon": epsilon, "step": epsilon * STEP_FRACTION, "steps": STEPS}
    recorded = {"on_finding": print}
    seeds = range(len(pixels))

    def theirs(attack: foolbox.Attack) -> Callable[[], Tensor]:
        return lambda: attack.run(peer, pixels, criterion, epsilon=epsilon)

    return {
        "fgsm": (
            lambda: fgsm(model, pixels, labels, epsilon=epsilon, **recorded),
            theirs(foolbox.attacks.LinfFastGradientAttack(random_start=False)),
        ),
        "bim": (
            lambda: bim(model, pixels, labels, **steps, **recorded),
            theirs(foolbox.attacks.LinfBasicIterativeAttack(**iterated)),
        ),
        "pgd": (
            lambda: pgd(model, pixels, labels, seeds=seeds, **steps, **recorded),
            theirs(
                foolbox.attacks.LinfProjectedGradientDescentAttack(
                    rel_stepsize=STEP_FRACTION, steps=STEPS
                )
            ),
        ),
        "cw_linf": (
            lambda: cw_linf(model, pixels, labels, **steps, **recorded),
            theirs(FoolboxMargin(**iterated)),
        ),
    }


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| attack | ε | library | success | median L-inf | median L2 | CPU s | max difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gap = "random start" if row.pixel_difference is None else f"{row.pixel_difference:.1e}"
        lines.append(
            f"| {row.attack} | {row.epsilon:g}/255 | {row.library} | {row.success:.3f} "
            f"| {row.linf:.3f} | {row.l2:.1f} | {row.cpu_seconds:.2f} | {gap} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="what `lazaret --model` takes")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--spec", type=Path)
    parser.add_argument("--data", required=True, type=Path, help="a folder of labelled images")
    parser.add_argument("--images", type=int, default=64, help="images of the commonest size")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="which images are drawn")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument("--page", type=Path, help="write the table as Markdown")
    arguments = parser.parse_args()

    model, pixels, labels = _load(arguments)
    rows = compare(model, pixels, labels, arguments.epsilons, arguments.repeats)
    print(table(rows))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if arguments.page is not None:
        command = shlex.join(["python", *sys.argv])
        arguments.page.write_text(
            "# Our attacks beside foolbox's\n\n"
            "Same model, images and parameters, float pixels. Success is of the images diagnosed "
            "right when clean; times are CPU seconds for all images.\n\n"
            f"`{command}`; {len(pixels)} images, seed {arguments.seed}; foolbox "
            f"{foolbox.__version__}; {describe()}.\n\n{table(rows)}\n"
        )


def _load(arguments: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    from models.datasets import load_images, read_dataset
    from models.load import load_model, victim_of

    model = victim_of(load_model(arguments.model, weights=arguments.weights, spec=arguments.spec))
    dataset = read_dataset(arguments.data, model.spec.classes)
    held_out = [example for example in dataset.examples if example.split in (None, "test")]
    order = np.random.default_rng(arguments.seed).permutation(len(held_out))
    drawn = load_images([held_out[i] for i in order[: 4 * arguments.images]])
    shapes = [image.pixels.shape for image in drawn.images]
    commonest = max(set(shapes), key=shapes.count)
    chosen = [i for i, shape in enumerate(shapes) if shape == commonest][: arguments.images]
    print(f"{len(chosen)} images of {'x'.join(map(str, commonest))} from {arguments.data}")
    pixels = torch.from_numpy(np.stack([drawn.images[i].pixels for i in chosen])).float()
    return model, pixels, torch.tensor([drawn.examples[i].label for i in chosen])


if __name__ == "__main__":
    main()
