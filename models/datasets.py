"""Labelled folders of images: one sub-folder per class, or a ``labels.csv``."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.imaging.decode import decode
from models.imaging.image import Image, ImageProblem, Limits
from models.imaging.rendering import RenderingPolicy

SUFFIXES = {".png", ".jpg", ".jpeg", ".dcm"}
SPLITS = {"train", "val", "test"}


class DatasetProblem(Exception):
    """A folder that cannot be used. The message says which file and what to do."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled file."""

    path: Path
    key: str
    """Its path inside the data set."""
    label: int
    group: str
    """Patient, else the file itself: what must not straddle splits."""
    split: str | None
    """``train`` (the model's), ``val``, ``test`` or None when the data set does not say."""
    source: str = ""
    """Hospital, device or sender; "" when the data set does not say."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A folder as it was found; no image has been read yet."""

    folder: Path
    classes: tuple[str, ...]
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Decoded examples, and a sentence for each file that could not be."""

    examples: tuple[Example, ...]
    images: tuple[Image, ...]
    problems: tuple[str, ...]


def group_digest(group: str) -> str:
    """What a model card may say of a patient or source: 16 hex digits, no name."""
    return hashlib.sha256(f"group:{group}".encode()).hexdigest()[:16]


def read_dataset(folder: Path, classes: tuple[str, ...] | None = None) -> Dataset:
    """Find the labelled files below ``folder``.

    Args:
        classes: a model's class names, in its order; the folder's labels must be among them.
            None: the folder's labels, sorted.

    Raises ``DatasetProblem``.
    """
    if not folder.is_dir():
        raise DatasetProblem(f"{folder}: no such folder; give a folder of labelled images")
    table = folder / "labels.csv"
    rows = _from_table(table) if table.is_file() else _from_folders(folder)
    found = sorted({row[1] for row in rows})
    if not rows:
        raise DatasetProblem(
            f"{folder}: no labelled image; put images into one sub-folder per class, or list them "
            "in labels.csv with the columns filename,label"
        )
    if classes is None:
        classes = tuple(found)
        if len(classes) < 2:
            raise DatasetProblem(
                f"{folder}: only one class, {found[0]!r}; a classifier needs at least two"
            )
    elif unknown := [label for label in found if label not in classes]:
        raise DatasetProblem(
            f"{folder}: label {unknown[0]!r} is not a class of the model ({', '.join(classes)})"
        )
    elif missing := [name for name in classes if name not in found]:
        raise DatasetProblem(
            f"{folder}: no image of class {missing[0]!r}; add a sub-folder {missing[0]}/ or rows "
            "with that label"
        )
    index = {name: i for i, name in enumerate(classes)}
    return Dataset(
        folder,
        classes,
        tuple(
            Example(folder / key, key, index[label], group, split, source)
            for key, label, group, split, source in rows
        ),
    )


Row = tuple[str, str, str, str | None, str]
"""Key, label, group, split and source."""


def _from_table(table: Path) -> list[Row]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        names = set(reader.fieldnames or ())
        if not {"filename", "label"} <= names:
            raise DatasetProblem(f"{table}: needs the columns filename and label")
        rows = []
        for number, row in enumerate(reader, start=2):
            key, label = row["filename"] or "", row["label"] or ""
            if not key or not label or Path(key).is_absolute() or ".." in Path(key).parts:
                raise DatasetProblem(
                    f"{table}, line {number}: needs a file name inside the folder and a label"
                )
            split = row.get("split") or None
            if split is not None and split not in SPLITS:
                split = "test"  # a second site or an out-of-distribution set is never fitted on
            rows.append((key, label, row.get("patient") or key, split, row.get("source") or ""))
    return rows


def _from_folders(folder: Path) -> list[Row]:
    return [
        (str(path.relative_to(folder)), path.parent.name, str(path.relative_to(folder)), None, "")
        for directory in sorted(folder.iterdir())
        if directory.is_dir()
        for path in sorted(directory.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]


def unlabelled(folder: Path, most: int) -> tuple[Example, ...]:
    """Up to ``most`` images below ``folder``, evenly spaced in name order, whose labels do not
    matter. Raises ``DatasetProblem``."""
    if not folder.is_dir():
        raise DatasetProblem(f"{folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DatasetProblem(f"{folder}: holds no PNG, JPEG or DICOM file")
    kept = paths[:: -(-len(paths) // most)]
    keys = [str(path.relative_to(folder)) for path in kept]
    return tuple(Example(path, key, 0, key, None) for path, key in zip(kept, keys, strict=True))


def load_images(
    examples: Iterable[Example],
    limits: Limits | None = None,
    progress: Callable[[int], None] = lambda _: None,
    rendering: RenderingPolicy | None = None,
) -> Loaded:
    """Decode with the service's own decoder, as the model wants DICOM shown. A file that cannot
    be read is reported, left out."""
    examples = tuple(examples)
    bounds, policy = limits or Limits(), rendering or RenderingPolicy()

    def load(example: Example) -> Image | str:
        try:
            return decode(example.path.read_bytes(), None, bounds, policy)
        except ImageProblem as problem:
            return f"{example.key}: {problem.detail}"
        except OSError as error:
            return f"{example.key}: {error.strerror or error}"

    kept: list[Example] = []
    images: list[Image] = []
    problems: list[str] = []
    with ThreadPoolExecutor() as pool:
        for example, result in zip(examples, pool.map(load, examples), strict=True):
            if isinstance(result, str):
                problems.append(result)
            else:
                kept.append(example)
                images.append(result)
            progress(1)
    return Loaded(tuple(kept), tuple(images), tuple(problems))
