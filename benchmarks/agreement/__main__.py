"""Every attack beside the libraries that have it, on two models, one of them binary.

    python -m benchmarks.agreement --model phantom --data FOLDER --model M2 --data D2 \\
        --images 24 --page docs/results/attacks.md

Float pixels, since no library rounds. Only images that are diagnosed right when clean. Attacks with
a budget are compared by success; attacks of smallest change by the median norm over all images,
where a failure counts as infinitely far. Passes are means an image, counted in the model. CPU
seconds are for all images on one thread, in one run each, and say little; ``attack_speed.py``
measures speed.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from attacks.ball import size
from attacks.objective import reached
from benchmarks.agreement import (
    beyond_noise,
    black_box,
    ensembles,
    gradient_steps,
    minimum_norm,
)
from benchmarks.agreement.match import Match, Setting
from models.datasets import load_images, read_dataset
from models.load import load_model, victim_of
from models.machine import describe

FAMILIES = (gradient_steps, minimum_norm, ensembles, black_box, beyond_noise)
POINTS = 0.02 + 1e-9  # 0.34 - 0.32 is a little more than 0.02 in floating point
SHARE = 0.05


@dataclass(frozen=True)
class Side:
    """What one side reached."""

    success: float
    """The mean of all draws."""
    median_norm: float
    """Over all images, of the median draw; infinite where fewer than half succeeded."""
    forwards: float
    backwards: float
    cpu_seconds: float


@dataclass(frozen=True)
class Row:
    """Both sides of one match on one model."""

    model: str
    attack: str
    peer: str
    norm: str
    minimum: bool
    ours: Side
    theirs: Side | None
    """None where the library failed; the note then says how."""
    note: str

    @property
    def verdict(self) -> str:
        """Whether ours is at least as strong."""
        if self.theirs is None:
            return "peer fails"
        if not self.minimum:
            gap = self.ours.success - self.theirs.success
            return "weaker" if gap < -POINTS else "stronger" if gap > POINTS else "equal"
        if self.ours.success < self.theirs.success - POINTS:
            return "weaker"
        if math.isinf(self.theirs.median_norm):
            return "equal" if math.isinf(self.ours.median_norm) else "stronger"
        ratio = self.ours.median_norm / self.theirs.median_norm
        return "weaker" if ratio > 1 + SHARE else "stronger" if ratio < 1 - SHARE else "equal"


class _Counted(nn.Module):
    """The model with its passes added up over the batch: libraries send whatever part of it they
    like, so that they cannot be told apart by image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.forwards += len(pixels)
        logits: Tensor = self.model(pixels)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def _side(match: Match, side: str, model: nn.Module, pixels: Tensor, labels: Tensor) -> Side:
    counted = _Counted(model)
    run = match.ours if side == "ours" else match.theirs
    goal, success, norms, seconds = labels, [], [], 0.0
    for draw in range(match.draws):
        setting = Setting(counted, pixels, labels, draw)
        torch.manual_seed(draw)
        np.random.seed(draw)  # the libraries draw from it
        start = time.process_time()
        found = run(setting).detach().float()
        seconds += time.process_time() - start
        with torch.no_grad():
            if match.towards_next:
                goal = (labels + 1) % setting.classes
            fooled = reached(model(found), goal, targeted=match.towards_next)
        lengths = (match.distance or partial(size, norm=match.norm))(found - pixels).double()
        lengths[~fooled] = math.inf
        success.append(float(fooled.double().mean()))
        norms.append(float(lengths.sort().values[len(lengths) // 2]))
    return Side(
        sum(success) / match.draws,
        sorted(norms)[match.draws // 2],
        counted.forwards / len(pixels) / match.draws,
        counted.backwards / len(pixels) / match.draws,
        seconds / match.draws,
    )


def compare(
    name: str, model: nn.Module, pixels: Tensor, labels: Tensor, only: str = ""
) -> list[Row]:
    """All matches on one model, or those of attacks whose title begins with ``only``."""
    classes = int(model(pixels[:1]).shape[1])
    rows = []
    for match in (match for family in FAMILIES for match in family.MATCHES):
        if not match.attack.startswith(only):
            continue
        ours, note, theirs = _side(match, "ours", model, pixels, labels), match.note, None
        side = max(pixels.shape[1:3])
        largest = match.largest_side
        if not match.classes(classes):
            note = f"{note + '; ' if note else ''}does not run with {classes} classes"
        elif largest is not None and side > largest:
            note = f"{note + '; ' if note else ''}not run at {side} pixels a side"
        else:
            try:
                theirs = _side(match, "theirs", model, pixels, labels)
            except Exception as error:  # whatever a library raises is its result
                traceback.print_exc()
                note = f"{note + '; ' if note else ''}{type(error).__name__}"
        peer, norm = match.peer, match.norm.value
        rows.append(Row(name, match.attack, peer, norm, match.minimum, ours, theirs, note))
        print(f"{rows[-1].verdict:10} {rows[-1]}", flush=True)
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| model | attack | library | norm | success, ours / theirs | median norm, ours / theirs | "
        "forward | backward | CPU s | ours is | note |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.model} | {row.attack} | {row.peer} | {row.norm} "
            f"| {_both(row, 'success', '.2f')} | {_both(row, 'median_norm', '.4g')} "
            f"| {_both(row, 'forwards', '.0f')} | {_both(row, 'backwards', '.0f')} "
            f"| {_both(row, 'cpu_seconds', '.1f')} | {row.verdict} | {row.note} |"
        )
    return "\n".join(lines)


def _both(row: Row, field: str, form: str) -> str:
    ours = format(getattr(row.ours, field), form)
    theirs = "" if row.theirs is None else format(getattr(row.theirs, field), form)
    return f"{ours} / {theirs}"


def read(path: Path) -> list[Row]:
    """What ``--json`` wrote."""
    documents = json.loads(path.read_text())
    for document in documents:
        for side in ("ours", "theirs"):
            document[side] = document[side] and Side(**document[side])
    return [Row(**document) for document in documents]


def load(name: str, data: Path, images: int, seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A model and test images of the commonest size that it diagnoses right."""
    model = victim_of(load_model(name))
    dataset = read_dataset(data, model.spec.classes)
    held_out = [example for example in dataset.examples if example.split in (None, "test")]
    order = np.random.default_rng(seed).permutation(len(held_out))
    drawn = load_images([held_out[i] for i in order[: 20 * images]])
    shapes = [image.pixels.shape for image in drawn.images]
    side = model.spec.preprocessing.size
    pixels = [
        # sizes differ between kinds of image; all are brought to the network's own
        torch.tensor(image.pixels, dtype=torch.float32).mean(dim=2, keepdim=True)
        for image in drawn.images
    ]
    if len(set(shapes)) > 1:
        resized = [
            torch.nn.functional.interpolate(
                image.permute(2, 0, 1)[None], side, mode="bilinear", antialias=True
            )[0].permute(1, 2, 0)
            for image in pixels
        ]
        pixels = [image.round() for image in resized]
    batch = torch.stack(pixels)
    labels = torch.tensor([example.label for example in drawn.examples])
    with torch.no_grad():
        right = (model(batch).argmax(dim=1) == labels).nonzero()[:images, 0]
    return model, batch[right], labels[right]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", default=[], help="repeat, with --data")
    parser.add_argument("--data", action="append", default=[], type=Path)
    parser.add_argument(
        "--rows", action="append", default=[], type=Path, help="--json of an earlier run, shown too"
    )
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--only", default="", help="attacks whose title begins like this")
    parser.add_argument("--seed", type=int, default=0, help="which images are drawn")
    parser.add_argument("--json", type=Path, help="write the rows")
    parser.add_argument("--page", type=Path, help="write the table as Markdown")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # passes of a few images gain nothing from more
    rows = [row for path in arguments.rows for row in read(path)]
    for name, data in zip(arguments.model, arguments.data, strict=True):
        model, pixels, labels = load(name, data, arguments.images, arguments.seed)
        print(f"{name}: {len(pixels)} images of {tuple(pixels.shape[1:])}", flush=True)
        title = Path(name).parent.name if "/" in name else name
        rows += compare(title, model, pixels, labels, arguments.only)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if arguments.page is not None:
        weaker = [row for row in rows if row.verdict == "weaker"]
        description = (__doc__ or "").split("\n\n", 2)[2].strip()
        arguments.page.write_text(
            f"# Our attacks beside other libraries'\n\n{description}\n\n"
            f"Ours is weaker in {len(weaker)} of {len(rows)} rows: by more than 2 points of "
            "success, or by a median norm more than 5 % larger.\n\n"
            f"`{shlex.join(['python', '-m', 'benchmarks.agreement', *sys.argv[1:]])}`; seed "
            f"{arguments.seed}; torch {torch.__version__}; {describe()}.\n\n{table(rows)}\n"
        )


if __name__ == "__main__":
    main()
