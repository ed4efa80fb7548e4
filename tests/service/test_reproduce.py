"""``lazaret reproduce`` on phantoms of three classes: one page, and none without the null test."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import attacks.paper_grid
import attacks.reproduction
from detectors.null_test import NullResult
from detectors.reproduction.detection import NAMES, DetectionNull
from models.phantom.dataset import write_dataset
from service.cli import app

pytestmark = pytest.mark.timeout(600)

SMALL = (
    "--modality", "ultrasound", "--preset", "quick", "--images", 4, "--epochs", 4, "--size", 48,
    "--widths", "6,8,8,8", "--fit-images", 30, "--detection-images", 30,
)  # fmt: skip


def lazaret(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms by the name of the ultrasound set, which brightness alone tells apart; every seventh
    is upside down and brighter still, a third class."""
    folder = tmp_path_factory.mktemp("data")
    table = write_dataset(folder / "us_busi", 320, seed=9, size=32)
    rows = list(csv.DictReader(table.open()))
    for i, row in enumerate(rows):
        path = table.parent / row["filename"]
        pixels = np.asarray(Image.open(path)) // 3
        if row["label"] == "OPACITY":
            pixels = pixels + 90
        if i % 7 == 0:
            pixels, row["label"] = pixels[::-1] // 4 + 190, "UPSIDE_DOWN"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The page's folder, the cache's, and what the command said."""
    out = tmp_path_factory.mktemp("out") / "page"
    cache = tmp_path_factory.mktemp("cache")
    status, said = lazaret("reproduce", "--data", data, "--out", out, "--cache", cache, *SMALL)
    assert status == 0, said
    return out, cache, said


def test_the_page_says_everything_in_the_order_of_a_sceptic(made: tuple[Path, Path, str]) -> None:
    out, _, _ = made
    markdown, html = (out / "reproduction.md").read_text(), (out / "reproduction.html").read_text()
    titles = [
        "How good the classifiers are",
        "Accuracy and AUC under attack",
        "The paper's detectors, by two protocols",
        "The null test: nobody attacks",
        "Detection, ultrasound",
        "More classes, easier to attack?",
        "Why they are easy to attack: saliency and loss",
        "What an attack does inside",
        "What differs from the paper",
        "How it was made",
    ]
    for page in (markdown, html.replace("&#39;", "'").partition("<main>")[2]):
        places = [page.index(title) for title in titles]
        assert places == sorted(places)
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", markdown)
    assert len(pictures) == len(set(pictures)) == html.count("<img ") == 6
    for name in pictures:
        assert Image.open(out / name).width > 100
    assert 'src="data:' in html
    assert "://" not in html
    assert not (out / "evaluation.json").exists()


def test_every_attack_is_measured_by_both_protocols(made: tuple[Path, Path, str]) -> None:
    out, _, _ = made
    found = json.loads((out / "reproduction.json").read_text())
    (modality,) = found["modalities"]
    asked = {(a["name"], a["epsilon"]) for a in modality["attacks"]}
    quick = {(n, e) for n, values in attacks.paper_grid.QUICK.items() for e in values}
    assert asked == quick
    for attack in modality["attacks"]:
        assert (attack["files"] is None) == (attack["epsilon"] < 0.5)
    detections = modality["detections"]
    pairs = {(d["fitted_on"], d["attack"]) for d in detections}
    names = {"fgsm", "bim", "pgd", "cw_linf"}
    assert pairs == {(n, n) for n in names} | {
        (a, b) for a in ("fgsm", "pgd") for b in names | {"sign_noise"} if a != b
    }
    for detection in detections:
        assert (detection["paper"] is None) == (detection["attack"] == "sign_noise")
        assert set(detection["honest"]) == set(NAMES)
    null = modality["null"]
    assert all(result["passed"] for result in null["honest"])
    assert [len(c["classes"]) for c in found["class_counts"]] == [2, 3, 3]
    assert "UPSIDE_DOWN" not in found["class_counts"][0]["classes"]


def test_what_is_in_the_cache_is_not_made_again(
    made: tuple[Path, Path, str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cache, said = made
    assert "training ultrasound (" in said

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("attacked again")

    before = {path for path in cache.rglob("*") if path.is_file()}
    monkeypatch.setattr(attacks.paper_grid, "strike", refuse)
    command = ("reproduce", "--data", data, "--out", tmp_path / "again", "--cache", cache, *SMALL)
    status, said = lazaret(*command)
    assert (status, "training" in said) == (0, False), said
    assert {path for path in cache.rglob("*") if path.is_file()} == before


def test_without_a_passing_null_test_no_page_is_written(
    made: tuple[Path, Path, str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cache, _ = made
    honest = attacks.reproduction.detection_null

    def leaky(*arguments: Any, **options: Any) -> DetectionNull:
        found = honest(*arguments, **options)
        failed = NullResult("kd", 0.8, 0.7, 0.9, False)
        return replace(found, honest=(failed,))

    monkeypatch.setattr(attacks.reproduction, "detection_null", leaky)
    out = tmp_path / "none"
    status, said = lazaret("reproduce", "--data", data, "--out", out, "--cache", cache, *SMALL)
    assert (status, "the honest null test fails for kd" in said) == (2, True), said
    assert not out.exists()


def test_what_cannot_be_done_is_a_sentence(data: Path, tmp_path: Path) -> None:
    for options, sentence in (
        (("--modality", "x-ray"), "no modality is called 'x-ray'"),
        (("--preset", "large"), "no preset is called 'large'"),
        (("--model", "mine"), "write MODALITY=FOLDER"),
        (("--modality", "fundus"), "no such folder"),
        (("--modality", "ultrasound", "--model", "ultrasound=phantom"), "is not a class of"),
    ):
        status, said = lazaret("reproduce", "--data", data, "--out", tmp_path / "out", *options)
        assert (status, sentence in said) == (2, True), said
