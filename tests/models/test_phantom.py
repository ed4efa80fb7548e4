"""The phantom is a learnable, repeatable task with no patient in it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.imaging.decode import decode
from models.phantom import CLASSES, radiograph, write_dataset


def test_the_same_arguments_give_the_same_image_and_others_do_not() -> None:
    image = radiograph(3, 0, opacities=False, size=64)
    assert image.shape == (64, 64, 1)
    assert image.dtype == np.uint8
    assert np.array_equal(image, radiograph(3, 0, opacities=False, size=64))
    for other in (
        radiograph(3, 1, opacities=False, size=64),
        radiograph(4, 0, opacities=False, size=64),
    ):
        assert not np.array_equal(image, other)


def test_two_images_of_a_patient_are_more_alike_than_two_patients() -> None:
    def chest(patient: int, image: int) -> Any:
        pixels = radiograph(patient, image, opacities=False, size=64)[..., 0].astype(float)
        return (pixels - pixels.mean()) / pixels.std()

    same = np.mean([np.square(chest(p, 0) - chest(p, 1)).mean() for p in range(8)])
    different = np.mean([np.square(chest(p, 0) - chest(p + 1, 0)).mean() for p in range(8)])
    assert same < 0.8 * different


def test_it_looks_like_a_radiograph() -> None:
    image = radiograph(0, 0, opacities=False)[..., 0].astype(float)
    lung, spine, liver = image[40:80, 24:48], image[60:110, 62:68], image[112:124, 30:50]
    assert lung.mean() + 40 < liver.mean() < spine.mean()
    assert image[:6, :12].mean() < 40  # air above the shoulder
    assert np.mean((image == 0) | (image == 255)) < 0.25


def test_opacities_brighten_the_lungs_and_leave_the_rest() -> None:
    gain = np.zeros((128, 128))
    for patient in range(12):
        dense = radiograph(patient, 0, opacities=True)[..., 0].astype(float)
        gain += dense - radiograph(patient, 0, opacities=False)[..., 0]
    assert gain[45:80, 24:48].mean() > 5 * 12
    assert abs(gain[112:124, 30:50].mean()) < 5 * 12


def test_a_linear_model_separates_the_classes_only_partly() -> None:
    def batch(patients: range) -> tuple[Any, Any]:
        labels = np.array([p % 2 for p in patients])
        images = np.stack([radiograph(p, 0, opacities=bool(p % 2), size=32) for p in patients])
        flat = images.reshape(len(images), 16, 2, 16, 2).mean(axis=(2, 4)).reshape(len(images), -1)
        return flat / 255 - 0.5, labels * 2.0 - 1

    x, y = batch(range(320))
    weights = np.linalg.solve(x.T @ x + 2 * np.eye(x.shape[1]), x.T @ y)
    held_out, truth = batch(range(10_000, 10_160))
    accuracy = np.mean(np.sign(held_out @ weights) == truth)
    assert 0.6 < accuracy < 0.97


def test_a_dataset_keeps_each_patient_in_one_split(tmp_path: Path) -> None:
    labels = write_dataset(tmp_path / "a", 60, seed=1, size=32)
    with labels.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert set(rows[0]) == {"filename", "label", "patient", "split"}
    assert {row["label"] for row in rows} == set(CLASSES)
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert len({(row["patient"], row["split"]) for row in rows}) == len(
        {r["patient"] for r in rows}
    )
    for row in rows:
        assert decode((tmp_path / "a" / row["filename"]).read_bytes()).pixels.shape == (32, 32, 1)
    again = write_dataset(tmp_path / "b", 60, seed=1, size=32)
    assert again.read_bytes() == labels.read_bytes()
    other = write_dataset(tmp_path / "c", 60, seed=2, size=32)
    with other.open() as file:
        assert not {r["patient"] for r in csv.DictReader(file)} & {r["patient"] for r in rows}


def test_a_size_too_small_for_anatomy_is_refused() -> None:
    with pytest.raises(ValueError, match="32 pixels"):
        radiograph(0, 0, opacities=False, size=16)
