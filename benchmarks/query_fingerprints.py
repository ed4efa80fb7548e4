"""Which fingerprint of a gray image links an attack's questions and keeps patients apart.

    python -m benchmarks.query_fingerprints --model phantom --data FOLDER [--others FOLDER ...]

Every candidate gets the distance below which one pair in ten thousand of different patients lies;
then: how many questions of each attack are linked to an earlier one at that distance, how many
benign pairs are, and how noise that an attacker would choose fares. Last, for the fingerprint that
is used: pairs of different patients within its fixed radius, on further data.
"""

from __future__ import annotations

import argparse
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from benchmarks.page import command_of, publish
from benchmarks.query_attacks import NAMES
from benchmarks.query_traces import Trace, record, sources
from detectors.query_fingerprint import SKETCH, Fingerprinter, distances
from detectors.query_sequence import RADIUS
from models.datasets import load_images, read_dataset, unlabelled
from models.diagnostic import DiagnosticModel
from models.load import load_model
from models.machine import describe
from models.spec import Preprocessing

Pixels = npt.NDArray[np.uint8]
WHOLE = Preprocessing()
DIGESTS, WINDOW, STEP, QUANTUM = 50, 50, 25, 50
"""Blacklight (Li et al. 2022, arXiv 2006.14042), as its authors set it for 224 pixels."""


@dataclass(frozen=True)
class Candidate:
    """A way to remember an image."""

    name: str
    size: int
    """Bytes a query."""
    of: Callable[[Pixels], object]
    apart: Callable[[object, Sequence[object]], npt.NDArray[np.float64]]


def euclidean(one: object, others: Sequence[object]) -> npt.NDArray[np.float64]:
    """Root mean square differences of vectors."""
    return np.sqrt(((np.stack(others) - one) ** 2).mean(axis=1))  # type: ignore[arg-type]  # of one kind


def cosine(one: object, others: Sequence[object]) -> npt.NDArray[np.float64]:
    """Cosine distances of vectors."""
    many = np.stack(others)  # type: ignore[arg-type]  # of one kind
    lengths = np.linalg.norm(many, axis=1) * np.linalg.norm(one)  # type: ignore[arg-type]  # of one kind
    return 1 - many @ one / np.maximum(lengths, 1e-9)


def cells(pixels: Pixels) -> npt.NDArray[np.float64]:
    """``float64[16, 16]``: means."""
    small = Image.fromarray(pixels[..., 0]).resize((16, 16), Image.Resampling.BOX)
    return np.asarray(small, np.float64)


def centred(pixels: Pixels) -> object:
    """Means of 16 x 16 cells, less their mean."""
    return cells(pixels).ravel() - cells(pixels).mean()


def gradients(pixels: Pixels) -> object:
    """dHash: whether each of 16 x 16 cells is brighter than the one before."""
    mean = cells(pixels)
    return np.concatenate([np.diff(mean, axis=axis).ravel() > 0 for axis in (0, 1)]).astype(float)


class Blacklight:
    """Salted digests of windows of quantised pixels; the largest are kept."""

    def __init__(self) -> None:
        self._salts: dict[tuple[int, ...], npt.NDArray[np.int64]] = {}

    def of(self, pixels: Pixels) -> object:
        """The digests of one image."""
        if pixels.shape not in self._salts:
            rng = np.random.default_rng(0)
            self._salts[pixels.shape] = rng.integers(0, 256, pixels.shape)
        salted = (pixels + self._salts[pixels.shape]) % 255 // QUANTUM
        flat = salted.astype(np.uint8).ravel()
        starts = range(0, len(flat) - WINDOW + 1, STEP)
        digests = {hashlib.sha256(flat[i : i + WINDOW]).digest()[::-1] for i in starts}
        return frozenset(sorted(digests)[-DIGESTS:])

    def apart(self, one: object, others: Sequence[object]) -> npt.NDArray[np.float64]:
        """The share of digests not in common."""
        return np.array([1 - len(one & other) / DIGESTS for other in others])  # type: ignore[operator]  # of one kind


def encoder(model: DiagnosticModel) -> Callable[[Pixels], object]:
    """The penultimate layer of the diagnostic model."""

    def of(pixels: Pixels) -> object:
        with torch.no_grad():
            x = model.preprocess(torch.from_numpy(pixels.copy())[None])
            return model.activations(x)[1][-1][0].double().numpy()

    return of


def candidates(model: nn.Module) -> list[Candidate]:
    """What is compared."""
    ours, blacklight = Fingerprinter(b"the benchmark's own secret"), Blacklight()

    def sketch(pixels: Pixels) -> object:
        found = ours.of(np.ascontiguousarray(pixels), "", WHOLE, "m")
        return found.sketch if found else b"\x80" * SKETCH

    def apart(one: object, others: Sequence[object]) -> npt.NDArray[np.float64]:
        return distances(one, others)  # type: ignore[arg-type]  # of one kind

    made = [
        Candidate("secret projections of whitened cells (used)", SKETCH, sketch, apart),
        Candidate("means of 16 x 16 cells, r.m.s.", 256, centred, euclidean),
        Candidate("means of 16 x 16 cells, cosine", 256, centred, cosine),
        Candidate("dHash 16 x 16", 60, gradients, euclidean),
        Candidate("Blacklight digests, salted", 1600, blacklight.of, blacklight.apart),
    ]
    if isinstance(model, DiagnosticModel):
        made.append(Candidate("encoder, penultimate layer, cosine", 512, encoder(model), cosine))
    return made


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    """Sent as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
        file, "JPEG", quality=quality
    )
    return np.asarray(Image.open(file)).reshape(pixels.shape)


def windowed(pixels: Pixels, gain: float, offset: float) -> Pixels:
    """In another window."""
    return np.clip((pixels.astype(float) - 128) * gain + 128 + offset, 0, 255).astype(np.uint8)


def noisy(pixels: Pixels, level: float, cell: int, rng: np.random.Generator) -> Pixels:
    """Signs of one level in square cells: the largest change within an L-inf ball."""
    side = -(-pixels.shape[0] // cell)
    signs = rng.choice([-level, level], (side, side)).repeat(cell, 0).repeat(cell, 1)
    change = signs[: pixels.shape[0], : pixels.shape[1], None]
    return np.clip(pixels + change, 0, 255).round().astype(np.uint8)


def row(
    candidate: Candidate,
    strangers: Sequence[Pixels],
    priors: Sequence[tuple[Pixels, Pixels]],
    traces: Sequence[Trace],
) -> str:
    """One line of the table."""
    marks = [candidate.of(pixels) for pixels in strangers]
    pairs = np.concatenate([candidate.apart(mark, marks[:i]) for i, mark in enumerate(marks) if i])
    threshold = float(np.quantile(pairs, 1e-4))
    rng = np.random.default_rng(0)

    def linked(pairs_of: Sequence[tuple[Pixels, Pixels]]) -> str:
        found = [
            candidate.apart(candidate.of(one), [candidate.of(other)])[0] < threshold
            for one, other in pairs_of
        ]
        return f"{np.mean(found):.0%}"

    shares = []
    for name in NAMES:
        hits = []
        for trace in (t for t in traces if t.attack == name):
            asked = [candidate.of(image) for image in trace.queries]
            hits += [
                bool((candidate.apart(one, asked[:i]) < threshold).any())
                for i, one in enumerate(asked)
                if i
            ]
        shares.append(f"{np.mean(hits):.0%}")
    some = strangers[:60]
    side = some[0].shape[0]
    noises = [
        linked([(noisy(p, level, cell, rng), noisy(p, level, cell, rng)) for p in some])
        for level, cell in ((1, 1), (8, 1), (8, side // 14))
    ]
    benign = [
        linked(priors),
        linked([(p, jpeg(p, 75)) for p in some]),
        linked([(p, windowed(p, 1.2, 10)) for p in some]),
        linked([(p, np.roll(p, 1, axis=1)) for p in some]),
    ]
    line = " | ".join([candidate.name, str(candidate.size), *shares, *noises, *benign])
    print(line, flush=True)
    return f"| {line} |"


def false_links(folder: Path, most: int) -> str:
    """How many pairs of a data set's images, one a patient, lie within the fixed radius."""
    try:
        firsts = {example.group: example for example in read_dataset(folder).examples}
        examples = tuple(firsts.values())[:most]
    except ValueError:
        examples = unlabelled(folder, most)
    ours = Fingerprinter(b"the benchmark's own secret")
    marks = [
        ours.of(image.pixels, image.digest, WHOLE, "m") for image in load_images(examples).images
    ]
    kept = [mark for mark in marks if mark is not None]
    digests = [mark.pixels for mark in kept]
    close = total = 0
    nearest = 2.0
    for i, mark in enumerate(kept):
        others = [j for j in range(i) if digests[j] != mark.pixels]
        if others:
            apart = distances(mark.sketch, [kept[j].sketch for j in others])
            close, total = close + int((apart <= RADIUS).sum()), total + len(others)
            nearest = min(nearest, float(apart.min()))
    return (
        f"| {folder.name} | {len(kept)} | {total:,} | {close} | {nearest:.3f} "
        f"| {len(marks) - len(kept)} |"
    )


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20, help="that are attacked")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--strangers", type=int, default=400)
    parser.add_argument("--others", type=Path, nargs="*", default=[])
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, pixels, labels = sources(arguments.model, arguments.data, arguments.images)
    traces = record(model, pixels, labels, NAMES, arguments.queries)
    groups: dict[str, list[Pixels]] = {}
    examples = read_dataset(arguments.data).examples
    chosen: list[str] = list(dict.fromkeys(e.group for e in examples))[: arguments.strangers]
    wanted = [e for e in examples if e.group in set(chosen)]
    for example, image in zip(wanted, load_images(wanted).images, strict=True):
        groups.setdefault(example.group, []).append(image.pixels[..., :1])
    strangers = [images[0] for images in groups.values()]
    priors = [(images[0], images[1]) for images in groups.values() if len(images) > 1]
    lines = [
        row(candidate, strangers, priors, traces)
        for candidate in candidates(load_model(arguments.model))
    ]
    names = ["candidate", "bytes", *NAMES, "noise 1/255", "noise 8/255", "smooth noise 8/255"]
    names += ["priors", "JPEG 75", "window", "1 pixel aside"]
    publish(
        [
            "# Which fingerprint",
            "",
            (__doc__ or "").split("\n\n", 2)[2].strip(),
            "",
            f"`{command_of('query_fingerprints')}`; "
            f"{len(strangers)} patients, {len(priors)} pairs of priors, {len(pixels)} attacked "
            f"images; {describe()}.",
            "",
            "Shares linked. Attacks and noise should be, priors should not; what other benign "
            "changes are linked is weighed by the sequence.",
            "",
            f"| {' | '.join(names)} |",
            f"|{'---|' * len(names)}",
            *lines,
            "",
            f"Pairs of images of different patients within the radius of {RADIUS}, bit-identical "
            "ones left out. Some data sets hold one image twice in other encodings.",
            "",
            "| data | images | pairs | within the radius | nearest | without a fingerprint |",
            "|---|---|---|---|---|---|",
            *(false_links(folder, 1500) for folder in [arguments.data, *arguments.others]),
            "",
        ],
        arguments.page,
    )


if __name__ == "__main__":
    main()
