"""How near a picture in disguise comes to itself, and other patients' pictures to it.

    python -m benchmarks.query_disguises --data FOLDER [FOLDER ...] [--page FILE]

Bounds the radii of ``detectors.query_disguise``: of each data set, how many pairs of different
patients lie within them, and how many pictures in the strongest disguises of ``query_adaptive``
are known again: by another disguise of themselves (as recent images), and by the picture itself (as
an incident's).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.page import command_of, publish
from benchmarks.query_adaptive import DISGUISES
from detectors.query_disguise import ALIKE, WANTED, Likeness, likeness_of
from detectors.query_fingerprint import cells_of
from models.datasets import load_images, read_dataset, unlabelled
from models.machine import describe
from models.spec import Preprocessing

Pixels = npt.NDArray[np.uint8]


def of(pixels: Pixels) -> Likeness:
    """As the history sees it whole."""
    return likeness_of(cells_of(np.ascontiguousarray(pixels), Preprocessing()))


def apart(one: Likeness, centres: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``float32[N]``: the distances of others, at its best position."""
    nearest: npt.NDArray[np.float32] = 1 - (one.moved @ centres.T).max(axis=0)
    return nearest


def rows(folder: Path, most: int, disguised: int) -> tuple[str, list[str]]:
    """A data set's line of each table."""
    try:
        firsts = {example.group: example for example in read_dataset(folder).examples}
        examples = tuple(firsts.values())[:most]
    except ValueError:
        examples = unlabelled(folder, most)
    images = [image.pixels for image in load_images(examples).images]
    centres = np.stack([of(image).centre for image in images])
    near, nearest = np.zeros(2, int), 2.0
    for i, image in enumerate(images):
        others = np.delete(apart(of(image), centres), i)
        near += [(others <= ALIKE).sum(), (others <= WANTED).sum()]
        nearest = min(nearest, float(others.min()))
    pairs = len(images) * (len(images) - 1)
    strange = (
        f"| {folder.name} | {len(images)} | {pairs:,} | {near[0]} ({10_000 * near[0] / pairs:.2f}) "
        f"| {near[1]} ({10_000 * near[1] / pairs:.2f}) | {nearest:.3f} |"
    )
    print(strange, flush=True)
    rng = np.random.default_rng(0)
    known = []
    for title, disguise in DISGUISES.items():
        for strength in (0.5, 1.0):
            hits = np.zeros(2, int)
            for image, centre in zip(images[:disguised], centres, strict=False):
                source = torch.from_numpy(image.copy()).float()
                one, other = (
                    of(disguise(source, strength, rng).round().clamp(0, 255).byte().numpy())
                    for _ in range(2)
                )
                hits += [
                    apart(one, other.centre[None])[0] <= ALIKE,
                    apart(one, centre[None])[0] <= WANTED,
                ]
            count = len(images[:disguised])
            known.append(
                f"| {folder.name} | {title} | {strength} | {hits[0] / count:.0%} "
                f"| {hits[1] / count:.0%} |"
            )
            print(known[-1], flush=True)
    return strange, known


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--most", type=int, default=1500, help="images of a data set")
    parser.add_argument("--disguised", type=int, default=100)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = [rows(folder, arguments.most, arguments.disguised) for folder in arguments.data]
    publish(
        [
            "# Pictures in disguise",
            "",
            (__doc__ or "").split("\n\n", 2)[2].strip(),
            "",
            f"`{command_of('query_disguises')}`; {describe()}.",
            "",
            "Ordered pairs of images of different patients (in parentheses: of 10,000). Some data "
            "sets hold one image twice.",
            "",
            f"| data | images | pairs | within {ALIKE}: taken for a recent one | within {WANTED}: "
            "taken for an incident's | nearest |",
            "|---|---|---|---|---|---|",
            *(strange for strange, _ in found),
            "",
            "| data | disguise | strength | known by another disguise of it | known by the picture "
            "itself |",
            "|---|---|---|---|---|",
            *(line for _, known in found for line in known),
            "",
        ],
        arguments.page,
    )


if __name__ == "__main__":
    main()
