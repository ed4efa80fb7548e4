"""False alarms of the query history over what hospitals send.

    python -m benchmarks.query_benign --model phantom --requests 40000
    python -m benchmarks.query_benign --model chest-xray --data FOLDER

Every pattern has a history of its own, in which all its images meet, and the model's own answers.
A false alarm is a request that is held. Without a folder the patients are phantoms, as many as the
requests take: to bound a rate by 1 in 10,000 with 95 % confidence takes 36,889 requests with no
alarm.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.page import command_of, publish
from benchmarks.query_fingerprints import jpeg, windowed
from benchmarks.query_traces import fitting
from benchmarks.query_watched import Watched
from detectors.statistics import proportion_interval
from models.datasets import Example, load_images, read_dataset
from models.load import load_model, victim_of
from models.machine import describe
from models.phantom.radiograph import radiograph
from models.spec import Preprocessing

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Request:
    """One image that somebody sends."""

    pixels: Pixels
    sender: int = 1
    study: int = 0
    known: bool = False


Patients = Iterable[Iterable[Pixels]]
"""The images of one patient after another."""


def firsts(patients: Patients) -> Iterator[Pixels]:
    """One image of each; no other is made."""
    for images in patients:
        yield next(iter(images))


def apart(patients: Patients, rng: np.random.Generator) -> Iterator[Request]:
    """One image of each patient."""
    del rng
    for pixels in firsts(patients):
        yield Request(pixels)


def again(patients: Patients, rng: np.random.Generator) -> Iterator[Request]:
    """A study sent again and retried, by any of three senders, two to eight times."""
    for pixels in firsts(patients):
        for _ in range(rng.integers(2, 9)):
            yield Request(pixels, sender=int(rng.integers(1, 4)))


def priors(patients: Patients, rng: np.random.Generator) -> Iterator[Request]:
    """All images of each patient, in studies of their own."""
    for images in patients:
        for pixels in images:
            yield Request(pixels, study=int(rng.integers(1, 2**31)))


def windows(patients: Patients, rng: np.random.Generator) -> Iterator[Request]:
    """A picture and two to eight windows of it, without a study."""
    for pixels in firsts(patients):
        yield Request(pixels)
        for _ in range(rng.integers(2, 9)):
            yield Request(windowed(pixels, rng.uniform(0.7, 1.4), rng.uniform(-30, 30)))


def encodings(patients: Patients, rng: np.random.Generator) -> Iterator[Request]:
    """A picture and up to four other encodings of it: JPEG of three qualities and 7 bits."""
    for pixels in firsts(patients):
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
    for number, pixels in enumerate(firsts(patients), start=1):
        for i in range(rng.integers(30, 201)):
            yield Request(frame(pixels, i / 5, rng), study=number)


def variants(patients: Patients, rng: np.random.Generator) -> Iterator[Request]:
    """A known sender's loose frames: no study, 10 to 60 of each picture."""
    for pixels in firsts(patients):
        for i in range(rng.integers(10, 61)):
            yield Request(frame(pixels, i / 5, rng), known=True)


PATTERNS = {
    "encodings of one picture": encodings,
    "windows of one picture": windows,
    "frames of one study": series,
    "loose frames of a known sender": variants,
    "studies sent again, retries": again,
    "priors of the same patient": priors,
    "different patients": apart,
}


def batches(requests: Iterator[Request], size: int = 32) -> Iterator[list[Request]]:
    """So many at a time."""
    while batch := list(islice(requests, size)):
        yield batch


def row(
    name: str,
    model: nn.Module,
    spec: Preprocessing,
    patients: Patients,
    most_requests: int,
    seed: int,
) -> str:
    """One pattern's line of the table."""
    watched, sent, alarms, flips, most = Watched(spec), 0, 0, 0, 0
    requests = islice(PATTERNS[name](patients, np.random.default_rng(seed)), most_requests)
    for batch in batches(requests):
        pixels = np.stack([request.pixels for request in batch])
        with torch.no_grad():
            labels = model(torch.from_numpy(pixels).float()).argmax(dim=1).tolist()
        for request, label in zip(batch, labels, strict=True):
            sent += 1
            sight = watched.see(request.pixels, label, request.sender, request.study, request.known)
            alarms += sight.attack
            flips += sight.flip
            most = max(most, sight.points)
    upper = proportion_interval(alarms, sent)[1]
    line = (
        f"| {name} | {sent:,} | {alarms} | {10_000 * upper:.2f} in 10,000 | {flips} "
        f"| {most / 64:.2f} |"
    )
    print(line, flush=True)
    return line


def of_folder(folder: Path, classes: Sequence[str], spec: Preprocessing) -> Patients:
    """Those of a labelled folder, all images in memory, as large as the network wants them."""
    groups: dict[str, list[Example]] = {}
    for example in read_dataset(folder, classes).examples:
        groups.setdefault(example.group, []).append(example)
    chosen = [e for group in groups.values() for e in group]
    images: dict[str, list[Pixels]] = {}
    for example, image in zip(chosen, load_images(chosen).images, strict=True):
        pixels = fitting(torch.from_numpy(image.pixels).float(), spec.channels, spec.size)
        images.setdefault(example.group, []).append(pixels.numpy().astype(np.uint8))
    return list(images.values())


@lru_cache(maxsize=60_000)
def _phantom(patient: int, image: int, opacities: bool, size: int) -> Pixels:
    """Most patterns show the same patients, and they take longer to make than to judge."""
    return radiograph(patient, image, opacities=opacities, size=size)


@dataclass(frozen=True)
class Phantoms:
    """Patients without end, the same each time; none is in a data set of another seed."""

    seed: int
    size: int

    def __iter__(self) -> Iterator[Iterable[Pixels]]:
        rng = np.random.default_rng((6, self.seed))
        for patient in count(self.seed * 1_000_000):
            ill = rng.integers(2, size=rng.integers(1, 4)).astype(bool).tolist()
            yield (
                _phantom(patient, image, opacities, self.size)
                for image, opacities in enumerate(ill)
            )


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, help="default: phantoms")
    parser.add_argument("--requests", type=int, default=40_000, help="of each pattern, at most")
    parser.add_argument("--patterns", nargs="*", default=list(PATTERNS), choices=list(PATTERNS))
    parser.add_argument("--seed", type=int, default=0, help="other phantoms, in another order")
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(arguments.model)
    model, spec = victim_of(loaded), loaded.spec.preprocessing
    patients: Patients = (
        Phantoms(seed=9 + arguments.seed, size=spec.size[0])
        if arguments.data is None
        else of_folder(arguments.data, loaded.spec.classes, spec)
    )
    if isinstance(patients, list):
        images = sum(len(list(of)) for of in patients)
        print(f"{len(patients)} patients, {images} images", flush=True)
    rows = [
        row(name, model, spec, patients, arguments.requests, arguments.seed)
        for name in arguments.patterns
    ]
    publish(
        [
            f"### {Path(arguments.model).name}",
            "",
            f"`{command_of('query_benign')}`; {describe()}.",
            "",
            "| pattern | requests | held | at most, 95 % | diagnoses that changed | most evidence "
            "(alarm at 8) |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ],
        arguments.page,
    )


if __name__ == "__main__":
    main()
