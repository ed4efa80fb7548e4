"""Black-box attacks against the model, the query history and both.

    python -m benchmarks.query_attacks --model chest-xray --data FOLDER [--images 100]

Non-adaptive attacks are recorded once against the bare model and replayed (``query_traces``): in
short for many images, in full for a few. Adaptive ones run live: the history's refusal is their
oracle (OARS, Feng et al. 2023, arXiv 2310.17645). Each question is disguised: smooth noise, another
window or a shift, as weak as it may be; a refused one is asked again in a stronger disguise.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attacks.registry import methods, parse
from attacks.spec import Scene, carry_out
from benchmarks.query_traces import ATTACKS, LIMIT, Trace, record, sources
from detectors.query_fingerprint import BANDS, SKETCH, Fingerprint, Fingerprinter
from models.machine import describe
from models.spec import Preprocessing
from service.query_store import LocalStore, Query, Size

FINGERPRINTER = Fingerprinter(b"the benchmark's own secret")
SIZE = Size(queries=2**20, seconds=86_400)
NAMES = [name for name, text in ATTACKS.items() if text.partition(":")[0] in methods()]


def query(
    image: npt.NDArray[np.uint8], label: int, spec: Preprocessing, sender: int, study: int = 0
) -> Query | None:
    """One question as the gateway puts it to the store."""
    image = np.ascontiguousarray(image)
    mark = FINGERPRINTER.of(image, str(hash(image.tobytes())), spec, "m")
    return None if mark is None else Query(mark, label, sender, study, False, "incident")


@dataclass(frozen=True)
class Outcome:
    """One replay."""

    detected: int | None
    """The index of the first question that was held."""
    harmed: int | None
    """Of the first wrong answer about an image close to the source that was not held."""


def replay(
    trace: Trace,
    spec: Preprocessing,
    store: LocalStore,
    identities: int,
    study: int = 0,
    others: Callable[[], Iterator[Query]] = lambda: iter(()),
) -> Outcome:
    """Put a recording to a store.

    Args:
        identities: the questions go round so many senders.
        others: benign queries between two questions.
    """
    detected = harmed = None
    for i, (image, answer) in enumerate(zip(trace.queries, trace.answers, strict=True)):
        for other in others():
            store.link(other, 0.0)
        asked = query(image, int(answer), spec, 1 + i % identities, study)
        held = asked is not None and store.link(asked, 0.0).attack
        if held and detected is None:
            detected = i
        if not held and harmed is None and answer != trace.label and trace.close(image):
            harmed = i
    return Outcome(detected, harmed)


def strangers(rng: np.random.Generator, count: int) -> Iterator[Query]:
    """Queries about other pictures: what they do to the tables is what any others do."""
    bands = rng.integers(2**32, size=(count, BANDS))
    sketches = rng.integers(256, size=(count, SKETCH), dtype=np.uint8)
    for row, sketch in zip(bands, sketches, strict=True):
        mark = Fingerprint(sketch.tobytes(), tuple(row.tolist()), 50.0, 100.0, rng.bytes(8))
        yield Query(mark, 0, 999, 0, False, "incident")


class SpentProblem(Exception):
    """The adaptive attacker's questions are used up, or it has won."""


class Adaptive(nn.Module):
    """The guarded model as an adaptive attacker asks it: in disguise, and again when refused."""

    def __init__(
        self,
        model: nn.Module,
        spec: Preprocessing,
        source: Tensor,
        label: int,
        disguise: Callable[[Tensor, float, np.random.Generator], Tensor],
        queries: int,
    ) -> None:
        super().__init__()
        self.model, self.spec, self.source, self.label = model, spec, source, label
        self.disguise, self.left, self.strength = disguise, queries, 0.0
        self.store = LocalStore(Size(queries=2**14, seconds=86_400))
        self.rng = np.random.default_rng(0)
        self.asked = self.refused = 0
        self.won = False

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.stack([self._ask(image) for image in pixels])

    def _ask(self, image: Tensor) -> Tensor:
        logits = torch.zeros(0)
        for _ in range(4):
            if self.left == 0 or self.won:
                raise SpentProblem
            self.left -= 1
            self.asked += 1
            seed = int(self.rng.integers(2**31))
            shown = self._disguised(image, seed)
            with torch.no_grad():
                logits = self.model(shown[None])[0]
            answer = int(logits.argmax())
            one = query(shown.numpy().astype(np.uint8), answer, self.spec, 1)
            if one is None or not self.store.link(one, 0.0).attack:
                self.strength *= 0.97
                change = shown - self._disguised(self.source, seed)
                near = float(change.square().mean().sqrt()) <= LIMIT
                self.won = answer != self.label and near
                return logits
            self.refused += 1
            self.strength = min(1.0, max(2 * self.strength, 1 / 16))
        # refused: all it knows is that it has not won
        return nn.functional.one_hot(torch.tensor(self.label), len(logits)).float() * 10

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


DISGUISES = {"smooth noise": smooth_noise, "window": window, "shift": shifted}


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
        "| attack | images that fall without the guard | disguise | success after the guard, of "
        "the first of these | questions asked, median | refused |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        bare = record(model, pixels, labels, [name], queries)
        fall = [i for i, trace in enumerate(bare) if trace.success is not None]
        for title, disguise in DISGUISES.items():
            runs = []
            for i in fall[:most]:
                rows = slice(i, i + 1)
                guarded = Adaptive(model, spec, pixels[i], int(labels[i]), disguise, queries)
                attack = parse(ATTACKS[name]).model_copy(update={"queries": 100_000})
                scene = Scene(guarded, pixels[rows], labels[rows], [i], lambda _: None)
                with suppress(SpentProblem):
                    carry_out(attack, scene)
                runs.append(guarded)
            head = f"| {name} | {share(len(fall), len(pixels))} | {title} "
            if not runs:
                lines.append(f"{head}| none to try | | |")
                continue
            won = sum(run.won for run in runs)
            asked = statistics.median(run.asked for run in runs)
            refused = sum(run.refused for run in runs) / sum(run.asked for run in runs)
            lines.append(f"{head}| {share(won, len(runs))} | {asked:.0f} | {refused:.0%} |")
            print(lines[-1], flush=True)
    return lines


def share(hits: int, count: int) -> str:
    """``97 of 100``."""
    return f"{hits} of {count}"


def replay_rows(
    names: Sequence[str],
    short: Sequence[Trace],
    full: Sequence[Trace],
    spec: Preprocessing,
    unseen: int,
) -> list[str]:
    """Tables of every non-adaptive attack."""
    lines = [
        "| attack | success without the guard | stopped before success | of those not over in 3 "
        "questions | detected | questions to detection, median (largest) |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        bare = [trace for trace in full if trace.attack == name]
        runs = [trace for trace in short if trace.attack == name]
        store = LocalStore(SIZE)
        found = [replay(trace, spec, store, identities=1) for trace in runs]
        lines.append(_row(name, bare, runs, found))
        print(lines[-1], flush=True)
    lines += [
        "",
        "To the end of the recording: a history that answers silently lets the attacker go on, and "
        "every later success must be held too.",
        "",
        "| attack | runs | success without the guard | success that was not held |",
        "|---|---|---|---|",
    ]
    for name in names:
        bare = [trace for trace in full if trace.attack == name]
        store = LocalStore(SIZE)
        found = [replay(trace, spec, store, identities=1) for trace in bare]
        won = sum(trace.success is not None for trace in bare)
        harmed = sum(outcome.harmed is not None for outcome in found)
        lines.append(f"| {name} | {len(bare)} | {won} | {harmed} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        "Spread over identities and hidden in benign traffic (all attacks together):",
        "",
        "| identities | benign queries between two questions | runs | stopped before success | "
        "questions to detection, median |",
        "|---|---|---|---|---|",
    ]
    rng = np.random.default_rng(1)
    for identities in (1, 10, 100):
        for between in (1, 10, 100, 1000):
            runs = [t for name in names for t in [t for t in short if t.attack == name][:unseen]]
            if between == 1000:
                runs = runs[:: max(1, len(runs) // 16)]
            stores = {name: LocalStore(SIZE) for name in names}
            found = [
                replay(
                    Trace(t.attack, t.source, t.label, t.queries[:24], t.answers[:24]),
                    spec,
                    stores[t.attack],
                    identities,
                    others=lambda between=between: strangers(rng, between),
                )
                for t in runs
            ]
            stopped = sum(outcome.harmed is None for outcome in found)
            waits = [o.detected + 1 for o in found if o.detected is not None]
            lines.append(
                f"| {identities} | {between} | {len(runs)} | {share(stopped, len(runs))} "
                f"| {statistics.median(waits):.0f} |"
            )
            print(lines[-1], flush=True)
    lines += [
        "",
        "As DICOM that claims one study, whose evidence counts a 32nd:",
        "",
        "| attack | runs | success without the guard | success that was not held | questions to "
        "detection, median |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        bare = [trace for trace in full if trace.attack == name]
        store = LocalStore(SIZE)
        found = [replay(t, spec, store, identities=1, study=7) for t in bare]
        won = sum(trace.success is not None for trace in bare)
        waits = [o.detected + 1 for o in found if o.detected is not None]
        middle = f"{statistics.median(waits):.0f}" if waits else "never"
        harmed = sum(outcome.harmed is not None for outcome in found)
        lines.append(f"| {name} | {len(bare)} | {won} | {harmed} | {middle} |")
        print(lines[-1], flush=True)
    return lines


def _row(name: str, bare: Sequence[Trace], runs: Sequence[Trace], found: Sequence[Outcome]) -> str:
    without = sum(trace.success is not None for trace in bare)
    stopped = [outcome.harmed is None for outcome in found]
    longer = [
        ok
        for ok, trace in zip(stopped, runs, strict=True)
        if trace.success is None or trace.success > 2
    ]
    waits = [o.detected + 1 for o in found if o.detected is not None]
    middle = f"{statistics.median(waits):.0f} ({max(waits)})" if waits else "never"
    enough = [t for t in runs if len(t.queries) >= 12]
    seen = sum(
        o.detected is not None for o, t in zip(found, runs, strict=True) if len(t.queries) >= 12
    )
    return (
        f"| {name} | {share(without, len(bare))} | {share(sum(stopped), len(stopped))} "
        f"| {share(sum(longer), len(longer))} | {share(seen, len(enough))} | {middle} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100, help="of the short recordings")
    parser.add_argument("--short", type=int, default=60, help="questions of a short recording")
    parser.add_argument("--full-images", type=int, default=12)
    parser.add_argument("--full", type=int, default=500, help="questions of a full recording")
    parser.add_argument("--adaptive-images", type=int, default=8)
    parser.add_argument("--adaptive", type=int, default=300, help="questions of an adaptive run")
    parser.add_argument("--attacks", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, pixels, labels = sources(arguments.model, arguments.data, arguments.images)
    spec = model.spec.preprocessing
    print(f"{len(pixels)} images of {tuple(pixels.shape[1:])}", flush=True)
    few = arguments.full_images
    short = record(model, pixels, labels, arguments.attacks, arguments.short)
    full = record(model, pixels[:few], labels[:few], arguments.attacks, arguments.full)
    lines = replay_rows(arguments.attacks, short, full, spec, unseen=5)
    few = arguments.adaptive_images
    lines += ["", "## Adaptive", ""]
    lines += adaptive_rows(model, spec, pixels, labels, arguments.attacks, arguments.adaptive, few)
    title = Path(arguments.model).name
    body = "\n".join(
        [
            f"## {title}",
            "",
            f"`{shlex.join(['python', '-m', 'benchmarks.query_attacks', *sys.argv[1:]])}`; images "
            f"of {tuple(pixels.shape[1:])}, one a patient, that the model diagnoses right; "
            f"{len(pixels)} of them for {arguments.short} questions, {arguments.full_images} for "
            f"{arguments.full}; adaptive ones ask {arguments.adaptive}; {describe()}.",
            "",
            *lines,
            "",
        ]
    )
    print(body)
    if arguments.page:
        arguments.page.write_text(body)


if __name__ == "__main__":
    main()
