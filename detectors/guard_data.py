"""Which images of a data set may fit a guard, and which must judge it."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from detectors.bank import subsample
from detectors.samples import CLEAN, Samples, group_numbers
from detectors.splits import assign
from models.datasets import Dataset, Example, Loaded, group_digest
from models.spec import ModelSpec

FRACTIONS = {"reference": 0.22, "fusion": 0.18, "calibration": 0.6}
"""Calibration gets most: at 1 % FPR a class needs 299 images before anything can be assured."""

FITTING = ("reference", "fusion")
"""What detectors and their fusion learn from."""

HELD_OUT = {"guard": 0.6, "test": 0.4}  # when the data set declares no test split


def guard_examples(dataset: Dataset, spec: ModelSpec, seed: int) -> tuple[Example, ...]:
    """Images of patients that the model was not trained on and that are not for testing.

    A model's own training images look more typical than any new one, so a guard calibrated on
    them would raise false alarms. When the model lists no training patients, the data set's
    ``train`` split is taken for them.
    """
    trained = set(spec.trained_on)
    tested = {example.group for example in test_examples(dataset, seed)}
    return tuple(
        example
        for example in dataset.examples
        if example.group not in tested
        and group_digest(example.group) not in trained
        and not (not trained and example.split == "train")
    )


def fitting_examples(dataset: Dataset, spec: ModelSpec, seed: int) -> tuple[Example, ...]:
    """Those of ``guard_examples`` that a guard learns from: not the ones that calibrate it."""
    examples = guard_examples(dataset, spec, seed)
    places = assign([example.group for example in examples], FRACTIONS, seed)
    return tuple(e for e, place in zip(examples, places, strict=True) if place in FITTING)


def training_examples(dataset: Dataset, spec: ModelSpec, most: int, seed: int) -> list[Example]:
    """At most ``most`` of the model's own training images, drawn by file. Whoever learns what the
    model answers (a student) may see them; no detector may, to which they look too typical."""
    trained = set(spec.trained_on)
    own = [
        example
        for example in dataset.examples
        if example.split != "test"
        and (group_digest(example.group) in trained if trained else example.split == "train")
    ]
    return sorted(own, key=lambda example: _place(seed, example.key))[:most]


def test_examples(dataset: Dataset, seed: int) -> tuple[Example, ...]:
    """The declared ``test`` split or, where no split is declared, a share of the patients."""
    if any(example.split for example in dataset.examples):
        return tuple(example for example in dataset.examples if example.split == "test")
    places = assign([example.group for example in dataset.examples], HELD_OUT, seed)
    return tuple(
        example for example, place in zip(dataset.examples, places, strict=True) if place == "test"
    )


def clean_samples(loaded: Loaded, source: str = "") -> Samples:
    """Decoded images as they came.

    Args:
        source: of images whose source the data set does not say.
    """
    sources = tuple(example.source or source for example in loaded.examples)
    return Samples(
        images=tuple(image.pixels for image in loaded.images),
        labels=np.array([example.label for example in loaded.examples], dtype=np.int64),
        groups=tuple(example.group for example in loaded.examples),
        keys=tuple(example.key for example in loaded.examples),
        origin=CLEAN,
        sources=sources if any(sources) else (),
    )


def split_samples(clean: Samples, seed: int) -> dict[str, Samples]:
    """``reference``, ``fusion`` and ``calibration``, by patient."""
    places = np.array(assign(clean.groups, FRACTIONS, seed))
    return {name: clean.rows(np.flatnonzero(places == name)) for name in FRACTIONS}


def draw(clean: Samples, images: int, seed: int) -> Samples:
    """At most ``images`` of them, whole patients first come first served in a seeded order, so that
    a larger draw contains a smaller one."""
    order = sorted(range(len(clean)), key=lambda i: (_place(seed, clean.groups[i]), clean.keys[i]))
    return clean.rows(np.array(sorted(order[:images]), dtype=np.intp))


def draw_evenly(clean: Samples, images: int, seed: int) -> Samples:
    """At most ``images`` of them, as many of each class as there are and of as many patients as
    there are, so that a larger draw contains a smaller one: for small samples, which whole patients
    would fill with one class."""
    numbers = group_numbers(clean.groups)
    chosen = subsample(torch.from_numpy(clean.labels), numbers, images, seed)
    return clean.rows(chosen.numpy())


def _place(seed: int, group: str) -> str:
    return hashlib.sha256(f"draw:{seed}:{group}".encode()).hexdigest()
