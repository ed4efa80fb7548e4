"""How soon a drift is told, and how often one is told that is not there.

    python benchmarks/drift_delay.py [--out docs/results/drift.md]

Chest phantoms of patients that the phantom's guard has never met go through its graph and into the
service's drift test, image by image: unchanged, and changed as a scanner, a site or a gain would
change them. Delays are in images after the change; a stream is resampled from one pool of
phantoms, in a new order for each run, without an image twice.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np

from attacks.corruptions import corrupt
from detectors.bundle import Bundle
from detectors.drift import DriftTest, Gaps
from models.engine import Readings
from models.machine import describe
from models.onnx_engine import OnnxEngine
from models.phantom import radiograph
from service.drift import gaps_of
from service.guard import open_guards
from service.settings import Settings

BUNDLE = Path("models/zoo/phantom/bundle")
PATIENT = 91_000_000
"""The first of the patients: no other seed of this project reaches them."""
FALSE_ALARM = 0.001
LEVELS = (0.001, 0.01, 0.05, 0.2)
Change = Callable[[np.ndarray, int], np.ndarray]


def gain(factor: float) -> Change:
    """Brighter by a factor, saturating."""
    return lambda pixels, _: np.clip(np.round(pixels * factor), 0, 255).astype(np.uint8)


def other_site(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Softer, flatter, collimated."""
    seen = corrupt("contrast_down", corrupt("defocus_blur", pixels, 2, seed), 2, seed)
    return corrupt("collimation", seen, 2, seed)


CHANGES: dict[str, Change] = {
    "scanner: other gamma": lambda x, i: corrupt("gamma_down", x, 2, i),
    "scanner: dead columns": lambda x, i: corrupt("dead_columns", x, 2, i),
    "scanner: softer focus": lambda x, i: corrupt("defocus_blur", x, 2, i),
    "site: softer, flatter, collimated": other_site,
    "gain 1.2": gain(1.2),
    "gain 1.05": gain(1.05),
    "vendor's logarithmic table": lambda x, i: corrupt("vendor_lut_log", x, 2, i),
}
SLOW = (1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5)
"""Gains that a slow drift passes through."""


class Pool:
    """Readings of one pool of images, unchanged and changed."""

    def __init__(self, images: int) -> None:
        self.guard = open_guards(Settings(bundles=(BUNDLE,)), _silent).all[0]
        self.gaps: list[Gaps] = gaps_of(self.guard)
        self._engine = OnnxEngine(self.guard.bundle.graph)
        self._pixels = [
            radiograph(PATIENT + i, 0, opacities=bool(i % 2), size=128) for i in range(images)
        ]
        self.clean = self.read(lambda pixels, _: pixels)

    def read(self, change: Change) -> list[tuple[int, float]]:
        """Predicted class and fused score of every image, changed."""
        found: list[tuple[int, float]] = []
        for start in range(0, len(self._pixels), 32):
            batch = [change(x, start + i) for i, x in enumerate(self._pixels[start : start + 32])]
            readings: Readings = self._engine.run(np.stack(batch))
            p_values = self.guard.bundle.calibration.p_values(readings)
            found += [
                (p.predicted, float(score))
                for p, score in zip(p_values, readings.fused, strict=True)
            ]
        return found

    def flagged(self, readings: list[tuple[int, float]]) -> float:
        """Share of the readings that the guard flags as adversarial."""
        levels, cells = self.guard.levels, self.guard.bundle.calibration.cells
        held = 0
        for predicted, score in readings:
            cell, level = cells[predicted], levels[predicted].flag
            p = (1 + int((cell.fused >= np.float32(score)).sum())) / (len(cell) + 1)
            held += level is not None and p <= level
        return held / len(readings)


def _silent(_: bytes, __: Settings) -> OnnxEngine:
    return OnnxEngine(Bundle.open(BUNDLE).graph)


def play(
    pool: Pool, stream: list[tuple[int, float]], seed: int, test: DriftTest | None = None
) -> DriftTest:
    """The test after the stream."""
    rng = np.random.default_rng(seed)
    test = test or DriftTest(FALSE_ALARM)
    for predicted, score in stream:
        test.see(predicted, pool.gaps[predicted], score, *rng.random(2))
    return test


def delays(
    pool: Pool, changed: list[tuple[int, float]], before: int, runs: int
) -> list[int | None]:
    """Images after the change until it was told; None: not within the pool."""
    found: list[int | None] = []
    for run in range(runs):
        order = np.random.default_rng((1, run)).permutation(len(changed))
        first = [pool.clean[i] for i in order[:before]]
        rest = [changed[i] for i in order[before:]]
        test = play(pool, first, run)
        if test.drifted_after is not None:  # a false alarm before the change
            continue
        told = None
        rng = np.random.default_rng((2, run))
        for count, (predicted, score) in enumerate(rest, 1):
            test.see(predicted, pool.gaps[predicted], score, *rng.random(2))
            if test.drifted_after is not None:
                told = count
                break
        found.append(told)
    return found


def slow(pool: Pool, runs: int) -> list[int | None]:
    """A gain that grows over the whole pool."""
    steps = [pool.read(gain(factor)) for factor in SLOW]
    found: list[int | None] = []
    for run in range(runs):
        order = np.random.default_rng((3, run)).permutation(len(pool.clean))
        stream = [
            steps[min(len(steps) - 1, at * len(steps) // len(order))][i]
            for at, i in enumerate(order)
        ]
        found.append(play(pool, stream, run).drifted_after)
    return found


def false_alarms(runs: int, images: int, calibration: int) -> dict[float, int]:
    """How many of ``runs`` streams like their calibration set reached each level. Every run draws
    its own calibration scores: the bound is over both."""
    reached = dict.fromkeys(LEVELS, 0)
    from detectors.calibrate import Cell, assured_level

    for run in range(runs):
        rng = np.random.default_rng((4, run))
        scores = np.sort(rng.normal(size=calibration).astype(np.float32))
        gaps = Gaps.of(Cell(scores, scores, scores[:, None]), assured_level(calibration, 0.01), run)
        test, highest = DriftTest(1e-12), 0.0
        for score in rng.normal(size=images):
            test.see(0, gaps, float(score), *rng.random(2))
            highest = max(highest, test.capital)
        for level in LEVELS:
            reached[level] += highest >= 1 / level
    return reached


def _row(name: str, share: float, found: list[int | None]) -> str:
    told = sorted(delay for delay in found if delay is not None)
    middle = f"{statistics.median(told):.0f}" if told else "-"
    worst = f"{told[-1]}" if told else "-"
    return f"| {name} | {share:.1%} | {len(told)} of {len(found)} | {middle} | {worst} |"


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--before", type=int, default=400)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--null-runs", type=int, default=200)
    parser.add_argument("--null-images", type=int, default=1500)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    pool = Pool(arguments.images)
    rows = []
    for name, change in CHANGES.items():
        changed = pool.read(change)
        found = delays(pool, changed, arguments.before, arguments.runs)
        rows.append(_row(name, pool.flagged(changed), found))
    found = slow(pool, arguments.runs)
    rows.append(_row(f"gain growing from 1 to {SLOW[-1]} over all images", float("nan"), found))
    nothing = [
        play(pool, [pool.clean[i] for i in np.random.default_rng((5, r)).permutation(
            len(pool.clean))], r).drifted_after
        for r in range(arguments.runs)
    ]  # fmt: skip
    reached = false_alarms(arguments.null_runs, arguments.null_images, 400)
    page = "\n".join(
        [
            "# Drift: how soon it is told",
            "",
            f"`python benchmarks/drift_delay.py --out docs/results/drift.md`; {describe()}.",
            "",
            f"{arguments.images} chest phantoms of as many patients that the phantom's guard has "
            f"not met; {arguments.runs} orders of them. The first {arguments.before} images are "
            f"unchanged, then all are changed; an alarm is raised at a false-alarm bound of "
            f"{FALSE_ALARM:g}. Delays are in images after the change.",
            "",
            "| change | flagged as adversarial | told | median delay | longest |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Unchanged phantoms: told in {sum(x is not None for x in nothing)} of "
            f"{len(nothing)} orders (they share one pool, so these are not independent).",
            "",
            "A change that is told late, or not within the pool, is one that moves the fused score "
            "little: the column beside it says how many images it costs.",
            "",
            "## False alarms",
            "",
            f"{arguments.null_runs} streams of {arguments.null_images} normal scores, each with "
            "400 calibration scores of its own; how many ever reached an alarm level:",
            "",
            "| bound | streams that may, on average | streams that did |",
            "|---|---|---|",
            *(
                f"| {level:g} | {level * arguments.null_runs:g} | {count} |"
                for level, count in reached.items()
            ),
            "",
        ]
    ).replace("| nan% |", "| - |")
    print(page)
    if arguments.out:
        arguments.out.write_text(page)


if __name__ == "__main__":
    main()
