"""A labelled folder of phantom radiographs, split by patient."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

import numpy as np

from models.imaging import encode
from models.phantom.radiograph import radiograph

CLASSES: Final = ("CLEAR", "OPACITY")
_SPLITS: Final = ("train", "val", "test")
_SHARES: Final = (0.7, 0.1, 0.2)


def write_dataset(folder: Path, images: int, seed: int = 0, size: int = 128) -> Path:
    """Write ``images/*.png`` and ``labels.csv`` (filename, label, patient, split).

    Patients have one to three images, each CLEAR or OPACITY by a fair coin, and belong to one
    split: about 70 % train, 10 % val, 20 % test. The same arguments write the same files;
    datasets of different seeds share no patient.

    Returns:
        The path of ``labels.csv``.
    """
    rng = np.random.default_rng((5, seed))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    labels = folder / "labels.csv"
    with labels.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("filename", "label", "patient", "split"))
        written, patient = 0, seed * 1_000_000
        while written < images:
            split = _SPLITS[rng.choice(3, p=_SHARES)]
            for image in range(min(int(rng.integers(1, 4)), images - written)):
                opacities = bool(rng.integers(2))
                name = f"images/p{patient:07d}-{image}.png"
                pixels = radiograph(patient, image, opacities=opacities, size=size)
                (folder / name).write_bytes(encode.png(pixels))
                table.writerow((name, CLASSES[opacities], f"p{patient:07d}", split))
                written += 1
            patient += 1
    return labels
