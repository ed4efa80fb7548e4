"""Adversarial images that were made before, for a guard to learn from: only such as were made from
its own fitting images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attacks.adversarial import AdversarialSet
from attacks.campaign import as_samples
from attacks.shards import MANIFEST, ShardProblem, read, read_manifest
from detectors.samples import Samples
from models.imaging.decode import digest


@dataclass(frozen=True, slots=True)
class AddedSet:
    """A stored set, as far as a guard may learn from it."""

    name: str
    recipe: str
    """Digest of what it follows from."""
    samples: Mapping[str, Samples]
    """By split."""
    left_out: int
    """Images whose sources are calibration images, or were not drawn to fit on."""

    @property
    def sentence(self) -> str:
        """What was taken and what was not."""
        taken = ", ".join(f"{len(made)} for {split}" for split, made in self.samples.items())
        said = f"{self.name} ({self.recipe[:19]}): {taken}"
        return f"{said}; {self.left_out} left out" if self.left_out else said


def added_sets(
    folders: Sequence[Path],
    splits: Mapping[str, Samples],
    *,
    tests: Samples,
    others: Samples,
) -> tuple[AddedSet, ...]:
    """Read every set in or below ``folders``.

    Args:
        splits: the clean images that are learned from, ``reference`` and ``fusion``. A set's image
            counts when its source is one of them, pixel for pixel; label and patient are then
            taken from there.
        others: images of the data that are not learned from, such as those for calibration.

    Raises ``ShardProblem``, also for a set that was made from a test image or from an image that is
    none of these, and for one of which nothing can be used.
    """
    place = {
        digest(image): (split, row)
        for split, clean in splits.items()
        for row, image in enumerate(clean.images)
    }
    tested = {digest(image) for image in tests.images}
    idle = {digest(image) for image in others.images}
    sources = {name: splits[split].images[row] for name, (split, row) in place.items()}
    results = []
    for folder in (one for given in folders for one in _sets(given)):
        manifest = read_manifest(folder)
        if manifest.container is None:
            raise ShardProblem(
                f"{folder}: holds float pixels, which no file can carry; make it without --float"
            )
        if manifest.findings_per_label is not None:
            raise ShardProblem(f"{folder}: holds findings, not classes; a guard needs classes")
        made_from = [row.source for row in manifest.images]
        if judging := sum(source in tested for source in made_from):
            raise ShardProblem(
                f"{folder}: {judging} of its {len(made_from)} images were made from test images, "
                "which judge the guard; make the set with `lazaret attack --fitting`"
            )
        if strange := sum(source not in place.keys() | idle for source in made_from):
            raise ShardProblem(
                f"{folder}: {strange} of its {len(made_from)} images were made from images that "
                "are not in this data, or that the model was trained on; a set needs its sources"
            )
        made = read(folder, sources, partly=True)
        if not len(made.pixels):
            raise ShardProblem(
                f"{folder}: none of its images was made from one that this guard is fitted on; "
                "make the set with `lazaret attack --fitting` and the bundle's seed"
            )
        samples = {split: _of_split(made, split, clean, place) for split, clean in splits.items()}
        results.append(
            AddedSet(
                folder.name,
                manifest.recipe,
                {split: some for split, some in samples.items() if len(some)},
                len(made_from) - len(made.pixels),
            )
        )
    return tuple(results)


def _sets(folder: Path) -> Iterator[Path]:
    below = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if (folder / MANIFEST).exists() or not below:
        yield folder
    else:
        yield from below


def _of_split(
    made: AdversarialSet, split: str, clean: Samples, place: Mapping[str, tuple[str, int]]
) -> Samples:
    chosen = [i for i, source in enumerate(made.sources) if place[source][0] == split]
    sources = np.array([place[made.sources[i]][1] for i in chosen], dtype=np.intp)
    adversarial, own = as_samples(made.rows(np.array(chosen, dtype=np.intp))), clean.rows(sources)
    return Samples(
        adversarial.images,
        own.labels,
        own.groups,
        own.keys,
        adversarial.origin,
        adversarial.level,
        attacked=True,
    )
