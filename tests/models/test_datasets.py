"""A folder of labelled images is read as its owner means it, and what is wrong is said."""

from pathlib import Path

import numpy as np
import pytest

from models.datasets import DatasetProblem, load_images, read_dataset, unlabelled
from models.imaging.encode import png


def image(level: int) -> bytes:
    return png(np.full((20, 20, 1), level, dtype=np.uint8) + np.eye(20, dtype=np.uint8)[..., None])


def folder(root: Path, **classes: int) -> Path:
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(image(10 * i))
    return root


def test_one_folder_per_class(tmp_path: Path) -> None:
    dataset = read_dataset(folder(tmp_path, SICK=2, WELL=1))
    assert dataset.classes == ("SICK", "WELL")
    assert [e.label for e in dataset.examples] == [0, 0, 1]


def test_a_table_gives_patients_and_splits(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image(1))
    (tmp_path / "labels.csv").write_text(
        "filename,label,patient,split,site\na.png,WELL,p1,train,x\na.png,SICK,p2,ood,x\n"
    )
    dataset = read_dataset(tmp_path, ("WELL", "SICK"))
    assert [(e.label, e.group, e.split) for e in dataset.examples] == [
        (0, "p1", "train"),
        (1, "p2", "test"),  # another site's images are never fitted on
    ]


def test_unreadable_images_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    data = folder(tmp_path, SICK=2, WELL=2)
    (data / "SICK" / "0.png").write_bytes(b"not an image")
    (data / "WELL" / "1.png").write_bytes(image(3)[:60])
    loaded = load_images(read_dataset(data).examples)
    assert [e.key for e in loaded.examples] == ["SICK/1.png", "WELL/0.png"]
    assert [p.split(":")[0] for p in loaded.problems] == ["SICK/0.png", "WELL/1.png"]


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ({}, "no labelled image"),
        ({"SICK": 2}, "only one class"),
    ],
)
def test_a_folder_that_cannot_serve(tmp_path: Path, classes: dict[str, int], sentence: str) -> None:
    with pytest.raises(DatasetProblem, match=sentence):
        read_dataset(folder(tmp_path, **classes))


def test_classes_must_be_the_models(tmp_path: Path) -> None:
    data = folder(tmp_path, SICK=1, WELL=1)
    with pytest.raises(DatasetProblem, match="label 'WELL' is not a class"):
        read_dataset(data, ("SICK", "FINE"))
    with pytest.raises(DatasetProblem, match="no image of class"):
        read_dataset(data, ("SICK", "WELL", "OTHER"))
    with pytest.raises(DatasetProblem, match="no such folder"):
        read_dataset(tmp_path / "absent")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("name,label\na,b\n", "needs the columns"),
        ("filename,label\n../../etc/passwd,A\n", "inside the folder"),
        ("filename,label\na.png,\n", "line 2"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path: Path, table: str, sentence: str) -> None:
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(DatasetProblem, match=sentence):
        read_dataset(tmp_path)


def test_unlabelled_images_are_thinned_evenly(tmp_path: Path) -> None:
    data = folder(tmp_path, ANY=10)
    assert [e.key for e in unlabelled(data, 4)] == [f"ANY/{i}.png" for i in (0, 3, 6, 9)]
