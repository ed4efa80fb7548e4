"""False alarms of the query history over what hospitals send.

    python -m benchmarks.query_benign --model phantom --data FOLDER

Every pattern has a history of its own, in which all its images meet, and the model's own answers.
A false alarm is a request that is held.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.query_attacks import FINGERPRINTER, SIZE
from benchmarks.query_fingerprints import jpeg, windowed
from benchmarks.query_traces import sources
from detectors.statistics import proportion_interval
from models.datasets import Example, load_images, read_dataset
from models.machine import describe
from models.spec import Preprocessing
from service.query_store import LocalStore, Query

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Request:
    """One image that somebody sends."""

    pixels: Pixels
    sender: int = 1
    study: int = 0
    known: bool = False


@dataclass(frozen=True)
class Patients:
    """Images by patient."""

    images: list[list[Pixels]]

    @property
    def firsts(self) -> list[Pixels]:
        """One of each."""
        return [images[0] for images in self.images]


def apart(patients: Patients, rng: np.random.Generator) -> Iterator[Request]:
    """One image of each patient."""
    del rng
    for pixels in patients.firsts:
        yield Request(pixels)


def again(patients: Patients, rng: np.random.Generator) -> Iterator[Request]:
    """A study sent again and retried, by any of three senders, two to eight times."""
    for pixels in patients.firsts:
        for _ in range(rng.integers(2, 9)):
            yield Request(pixels, sender=int(rng.integers(1, 4)))


def priors(patients: Patients, rng: np.random.Generator) -> Iterator[Request]:
    """All images of each patient, in studies of their own."""
    for images in patients.images:
        for pixels in images:
            yield Request(pixels, study=int(rng.integers(1, 2**31)))


def windows(patients: Patients, rng: np.random.Generator) -> Iterator[Request]:
    """A picture and two to eight windows of it, without a study."""
    for pixels in patients.firsts:
        yield Request(pixels)
        for _ in range(rng.integers(2, 9)):
            yield Request(windowed(pixels, rng.uniform(0.7, 1.4), rng.uniform(-30, 30)))


def encodings(patients: Patients, rng: np.random.Generator) -> Iterator[Request]:
    """A picture and up to four other encodings of it: JPEG of three qualities and 7 bits."""
    for pixels in patients.firsts:
        yield Request(pixels)
        others = [jpeg(pixels, quality) for quality in (95, 85, 75)]
        others.append((pixels // 2 * 2).astype(np.uint8))
        for i in rng.permutation(4)[: rng.integers(1, 5)]:
            yield Request(others[i])


def frame(pixels: Pixels, t: float, rng: np.random.Generator) -> Pixels:
    """A moment of a loop: breathing moves it by up to two pixels, quanta add noise."""
    moved = np.roll(pixels, (round(2 * np.sin(t)), round(np.sin(t / 2))), axis=(0, 1))
    return np.clip(moved + rng.normal(0, 3, pixels.shape), 0, 255).round().astype(np.uint8)


def series(patients: Patients, rng: np.random.Generator) -> Iterator[Request]:
    """Loops of 30 to 200 frames, each of one study."""
    for number, pixels in enumerate(patients.firsts[::10], start=1):
        for i in range(rng.integers(30, 201)):
            yield Request(frame(pixels, i / 5, rng), study=number)


def variants(patients: Patients, rng: np.random.Generator) -> Iterator[Request]:
    """A known sender's loose frames: no study, 10 to 60 of each picture."""
    for pixels in patients.firsts[::10]:
        for i in range(rng.integers(10, 61)):
            yield Request(frame(pixels, i / 5, rng), known=True)


PATTERNS = {
    "different patients": apart,
    "studies sent again, retries": again,
    "priors of the same patient": priors,
    "windows of one picture": windows,
    "encodings of one picture": encodings,
    "frames of one study": series,
    "loose frames of a known sender": variants,
}


def answers(model: nn.Module, requests: list[Request]) -> list[int]:
    """The model's classes; a picture that is sent again is asked about once."""
    said: dict[bytes, int] = {}
    new = {request.pixels.tobytes(): request.pixels for request in requests}
    keys = list(new)
    with torch.no_grad():
        for start in range(0, len(keys), 32):
            part = keys[start : start + 32]
            batch = torch.from_numpy(np.stack([new[key] for key in part])).float()
            said.update(zip(part, model(batch).argmax(dim=1).tolist(), strict=True))
    return [said[request.pixels.tobytes()] for request in requests]


def row(name: str, model: nn.Module, spec: Preprocessing, patients: Patients) -> str:
    """One pattern's line of the table."""
    requests = list(PATTERNS[name](patients, np.random.default_rng(0)))
    store, alarms, flips, most = LocalStore(SIZE), 0, 0, 0
    for request, label in zip(requests, answers(model, requests), strict=True):
        pixels = np.ascontiguousarray(request.pixels)
        mark = FINGERPRINTER.of(pixels, str(hash(pixels.tobytes())), spec, "m")
        if mark is None:
            continue
        sight = store.link(
            Query(mark, label, request.sender, request.study, request.known, "incident"), 0.0
        )
        alarms += sight.attack
        flips += sight.flip
        most = max(most, sight.points)
    upper = proportion_interval(alarms, len(requests))[1]
    line = (
        f"| {name} | {len(requests):,} | {alarms} | {10_000 * upper:.1f} in 10,000 | {flips} "
        f"| {most / 64:.2f} |"
    )
    print(line, flush=True)
    return line


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=1500)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, _, _ = sources(arguments.model, arguments.data, 1)
    groups: dict[str, list[Example]] = {}
    for example in read_dataset(arguments.data, model.spec.classes).examples:
        groups.setdefault(example.group, []).append(example)
    chosen = [e for group in list(groups.values())[: arguments.patients] for e in group]
    images: dict[str, list[Pixels]] = {}
    for example, image in zip(chosen, load_images(chosen).images, strict=True):
        images.setdefault(example.group, []).append(image.pixels[..., :1])
    patients = Patients(list(images.values()))
    spec = model.spec.preprocessing
    rows = [row(name, model, spec, patients) for name in PATTERNS]
    body = "\n".join(
        [
            f"### {Path(arguments.model).name}",
            "",
            f"`{shlex.join(['python', '-m', 'benchmarks.query_benign', *sys.argv[1:]])}`; "
            f"{len(patients.images)} patients; {describe()}.",
            "",
            "| pattern | requests | held | at most, 95 % | diagnoses that changed | most evidence "
            "(alarm at 8) |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print(body)
    if arguments.page:
        arguments.page.write_text(body)


if __name__ == "__main__":
    main()
