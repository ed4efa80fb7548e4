"""Adaptive black-box attacks: the history's refusal is their oracle.

    python -m benchmarks.query_adaptive --model phantom --data FOLDER [--images 60]

After OARS (Feng et al. 2023, arXiv 2310.17645): each question is disguised by smooth noise, another
window, a shift, or all three; a refused one is asked again in a stronger disguise. A *patient*
attacker learns from refusals only: it starts undisguised. A *wary* one disguises every question to
the full from the first. Every attack runs on images that fall to it within as many questions while
nobody watches.

Success is a wrong diagnosis of a question that differs from the equally disguised source by at most
8 grey levels. Where the disguised source is diagnosed wrongly as well, the disguise did it and the
attack need not have been: that is counted apart.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from attacks.registry import parse
from attacks.spec import Scene, carry_out
from benchmarks.page import command_of, publish
from benchmarks.query_attacks import NAMES, share
from benchmarks.query_traces import ATTACKS, LIMIT, record, sources
from benchmarks.query_watched import Watched
from models.machine import describe
from models.spec import Preprocessing
from service.query_store import Size

Disguise = Callable[[Tensor, float, np.random.Generator], Tensor]
ATTEMPTS = 4
"""How often one question is asked before the attacker gives it up."""
LEAST = {"patient": 0.0, "half wary": 0.5, "wary": 1.0}
"""The weakest disguise that each kind of attacker wears."""


class SpentProblem(Exception):
    """The attacker's questions are used up, or it has won."""


class Adaptive(nn.Module):
    """The guarded model as an adaptive attacker asks it.

    Args:
        source: ``float32[H, W, C]``, grey levels.
        queries: it may ask so often.
        least: the weakest disguise, 0 to 1.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: Preprocessing,
        source: Tensor,
        label: int,
        disguise: Disguise,
        queries: int,
        least: float,
    ) -> None:
        super().__init__()
        self.model, self.source, self.label = model, source, label
        self.disguise, self.left, self.least, self.strength = disguise, queries, least, least
        self.watched = Watched(spec, Size(queries=2**14, seconds=86_400))
        self.rng = np.random.default_rng(0)
        self.asked = self.refused = 0
        self.won = self.by_disguise = False

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of each image, ``float32[N, L]``. Raises ``SpentProblem``."""
        return torch.stack([self._ask(image) for image in pixels])

    def _ask(self, image: Tensor) -> Tensor:
        logits = torch.zeros(0)
        for _ in range(ATTEMPTS):
            if self.left == 0 or self.won:
                raise SpentProblem
            self.left -= 1
            self.asked += 1
            seed = int(self.rng.integers(2**31))
            shown = self._disguised(image, seed)
            logits = self._said(shown)
            answer = int(logits.argmax())
            if not self.watched.see(shown.numpy().astype(np.uint8), answer).attack:
                change = image.round().clamp(0, 255) - self.source
                if answer != self.label and float(change.square().mean().sqrt()) <= LIMIT:
                    self.won = True
                    alone = self._said(self._disguised(self.source, seed))
                    self.by_disguise = int(alone.argmax()) != self.label
                self.strength = max(self.least, 0.97 * self.strength)
                return logits
            self.refused += 1
            self.strength = min(1.0, max(2 * self.strength, 1 / 16))
        # refused: all it knows is that it has not won
        return nn.functional.one_hot(torch.tensor(self.label), len(logits)).float() * 10

    def _said(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.model(image[None])[0]
        return logits

    def _disguised(self, image: Tensor, seed: int) -> Tensor:
        shown = self.disguise(image, self.strength, np.random.default_rng(seed))
        return shown.round().clamp(0, 255)


def smooth_noise(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Up to 16 grey levels in cells of a 14th of the side, where fingerprints suffer most."""
    signs = torch.from_numpy(rng.choice([-16.0, 16.0], (1, 1, 14, 14))).float()
    noise = nn.functional.interpolate(signs, image.shape[:2], mode="nearest")[0, 0]
    return image + strength * noise[..., None]


def window(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Contrast up to half more or less, brightness by up to 40 grey levels."""
    gain, offset = 1 + strength * rng.uniform(-0.5, 0.5), strength * rng.uniform(-40, 40)
    return (image - 128) * gain + 128 + offset


def shifted(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Moved by up to an 18th of the side each way, edges repeated."""
    most = strength * image.shape[0] / 18
    down, right = (round(rng.uniform(-most, most)) for _ in range(2))
    pad = round(image.shape[0] / 18) + 1
    wide = nn.functional.pad(image.permute(2, 0, 1)[None], (pad,) * 4, mode="replicate")[0]
    height, width = image.shape[:2]
    rows, columns = slice(pad + down, pad + down + height), slice(pad + right, pad + right + width)
    return wide[:, rows, columns].permute(1, 2, 0)


def all_three(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Moved, windowed and under noise, each as far as alone."""
    for disguise in (shifted, window, smooth_noise):
        image = disguise(image, strength, rng).clamp(0, 255)
    return image


DISGUISES: dict[str, Disguise] = {
    "smooth noise": smooth_noise,
    "window": window,
    "shift": shifted,
    "all three": all_three,
}


def adaptive_rows(
    model: nn.Module,
    spec: Preprocessing,
    pixels: Tensor,
    labels: Tensor,
    names: Sequence[str],
    queries: int,
    most: int,
) -> list[str]:
    """A table of every attack in every disguise, on up to ``most`` images that fall to the attack
    within as many questions while nobody watches."""
    lines = [
        "| attacker | disguise | attack | images that fall without the guard | success after the "
        "guard, of the first of these | by the disguise alone | questions, median | refused |",
        "|---|---|---|---|---|---|---|---|",
    ]
    falls: dict[str, list[int]] = {}
    for name in names:
        bare = record(model, pixels, labels, [name], queries)
        falls[name] = [i for i, trace in enumerate(bare) if trace.success is not None]
    for attacker, least in LEAST.items():
        for title, disguise in DISGUISES.items():
            every: list[Adaptive] = []
            for name in names:
                runs = []
                for i in falls[name][:most]:
                    rows = slice(i, i + 1)
                    guarded = Adaptive(
                        model, spec, pixels[i], int(labels[i]), disguise, queries, least
                    )
                    attack = parse(ATTACKS[name]).model_copy(update={"queries": 100_000})
                    scene = Scene(guarded, pixels[rows], labels[rows], [i], lambda _: None)
                    with suppress(SpentProblem):
                        carry_out(attack, scene)
                    runs.append(guarded)
                every += runs
                fall = share(len(falls[name]), len(pixels))
                lines.append(f"| {attacker} | {title} | {name} | {fall} | {_row(runs)} |")
                print(lines[-1], flush=True)
            lines.append(f"| {attacker} | {title} | **all** | | {_row(every)} |")
            print(lines[-1], flush=True)
    return lines


def _row(runs: Sequence[Adaptive]) -> str:
    if not runs:
        return "none to try | | | "
    won = sum(run.won and not run.by_disguise for run in runs)
    alone = sum(run.by_disguise for run in runs)
    asked = statistics.median(run.asked for run in runs)
    refused = sum(run.refused for run in runs) / sum(run.asked for run in runs)
    return f"{share(won, len(runs))} | {alone} | {asked:.0f} | {refused:.0%}"


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--queries", type=int, default=250)
    parser.add_argument("--most", type=int, default=8, help="images of each attack that are tried")
    parser.add_argument("--attacks", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, pixels, labels = sources(arguments.model, arguments.data, arguments.images)
    spec = model.spec.preprocessing
    lines = adaptive_rows(
        model, spec, pixels, labels, arguments.attacks, arguments.queries, arguments.most
    )
    publish(
        [
            f"### Adaptive, {Path(arguments.model).name}",
            "",
            f"`{command_of('query_adaptive')}`; "
            f"{len(pixels)} images of {tuple(pixels.shape[1:])} that the model diagnoses right; "
            f"{arguments.queries} questions each, refused ones included; {describe()}.",
            "",
            *lines,
            "",
        ],
        arguments.page,
    )


if __name__ == "__main__":
    main()
