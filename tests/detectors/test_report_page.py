"""The page of an evaluation: whole by itself, safe against names from outside, and honest."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from detectors.curves import Hits, curves, thinned
from detectors.evaluation import (
    AttackResult,
    CalibrationCheck,
    CleanResult,
    Discrimination,
    Estimate,
    Evaluation,
    Judged,
    Knowledge,
    LeftOut,
    ShiftResult,
    Subgroup,
    Targets,
)
from detectors.evaluation_schema import schema
from detectors.null_test import NullResult
from detectors.paper_protocol import PaperScores
from detectors.report import write_report
from detectors.report_page import page_html, perturbation
from detectors.statistics import roc
from detectors.subgroups import sources, thirds
from detectors.wording import Standing, standing
from detectors.worst_cases import FalseAlarm, HarmfulImage, Reading, WorstCases

NOTHING = Estimate(math.nan, math.nan, math.nan)
HOSTILE = "<script>alert('$x$')</script>"
VOID = {"meta", "img", "br", "link", "input"}


def around(value: float) -> Estimate:
    return Estimate(value, max(value - 0.01, 0), min(value + 0.01, 1))


def attack(
    name: str, epsilon: float, knowledge: Knowledge = "unaware", harm: float = 0.0
) -> AttackResult:
    found = Discrimination(around(0.97), (around(0.5), around(0.8), around(0.9)))
    none = Discrimination(NOTHING, (NOTHING, NOTHING, NOTHING))
    judged = Judged(found, found) if epsilon >= 1 else Judged(none, found)
    return AttackResult(
        attack=name,
        epsilon=epsilon,
        knowledge=knowledge,
        images=40,
        linf=epsilon,
        success=around(0.7),
        success_float=math.nan,
        undetected_harm=around(harm),
        undetected_harm_either=around(harm),
        undetected_harm_served=around(harm),
        scores={"kd": judged, "fused": judged},
        paper=PaperScores(0.9, 0.8, math.nan, 0.7) if epsilon >= 1 else None,
    )


def an_evaluation(*attacks: AttackResult, name: str = "OPACITY") -> Evaluation:
    rng = np.random.default_rng(0)
    negatives = {score: rng.normal(size=300) for score in ("kd", "fused")}
    null = (NullResult("kd", 0.51, 0.4, 0.6, True),)
    alpha = (0.001, 0.01, 0.05, 0.5, 1.0)
    return Evaluation(
        bundle="sha256:0",
        model="phantom 1",
        classes=("CLEAR", name),
        detectors=("kd",),
        targets=Targets(0.01, 0.01),
        provenance={"command": "lazaret evaluate", "seed": 0},
        clean=CleanResult(
            300, 150, around(0.95), around(0.004), NOTHING, {name: around(0.03)}, around(0.05)
        ),
        null=null,
        null_refitted=null,
        null_paper=PaperScores(0.9, 0.6, 0.8, 0.8),
        subgroups=(
            Subgroup("true class", "CLEAR", 200, 100, around(0.97), around(0.0), NOTHING),
            Subgroup("true class", name, 100, 50, around(0.85), around(0.02), around(0.01)),
        ),
        calibration=(
            CalibrationCheck(None, 300, alpha, tuple(around(a) for a in alpha)),
            CalibrationCheck(name, 100, alpha, tuple(around(a) for a in alpha)),
        ),
        attacks=attacks,
        curves=curves(
            negatives,
            (
                Hits(
                    a.knowledge, a.attack, a.epsilon, {s: v[:30] + 2 for s, v in negatives.items()}
                )
                for a in attacks
            ),
        ),
        left_out=(LeftOut("pgd", "pgd", 1.0, math.nan, NOTHING),),
        shifts=(ShiftResult("jpeg", 1.0, 20, 0.9, around(0.05), 0.05, around(0.0)),),
        others=(),
        cost={"graph_bytes": 1e6, "milliseconds_per_image": math.nan},
    )


def some_cases(name: str = "OPACITY") -> WorstCases:
    clean = np.full((300, 200, 1), 90, np.uint8)
    attacked = clean.copy()
    attacked[::2] += 2
    before = Reading(clean, name, 0.4, 0.1, True)
    after = Reading(attacked, "CLEAR", math.nan, 0.2, False)
    return WorstCases(
        (HarmfulImage("0a1b", "pgd", 2.0, "unaware", name, before, after, True),),
        (FalseAlarm("0a1c", "clean", name, before),),
    )


class Reader(HTMLParser):
    """Collects tags, and checks that they close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


FULL = (attack("pgd", 0.5), attack("pgd", 1.0), attack("pgd", 2.0, harm=0.1), attack("gamma", 0.0))


def test_the_page_needs_nothing_beside_it() -> None:
    page = page_html(an_evaluation(*FULL), some_cases())
    assert len(page) < 1_000_000
    reader = Reader(page)
    assert reader.open == []
    assert not reader.all("script")
    assert not reader.all("link")
    assert "http" not in re.sub(r'http-equiv="', "", page)
    assert "@import" not in page
    ids = [a["id"] for _, a in reader.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in reader.tags:
        target = attributes.get("href")
        assert target is None or target.removeprefix("#") in ids
        assert (attributes.get("src") or "data:").startswith("data:")
        assert not [key for key in attributes if key.startswith("on")]
    assert all(image["alt"] for image in reader.all("img"))
    assert len(reader.all("table")) == len(reader.all("caption"))
    plots = [svg for svg in reader.all("svg") if svg.get("role") == "img"]
    assert len(plots) >= 4
    assert all(svg["aria-label"] for svg in plots)


def test_a_number_that_is_none_is_a_dash() -> None:
    page = page_html(an_evaluation(*FULL), some_cases())
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.S)
    assert not re.search(r"\b(nan|inf|None)\b", text, flags=re.I)
    assert "–" in text


def test_names_from_outside_are_text() -> None:
    evaluation = replace(
        an_evaluation(attack(HOSTILE, 2.0, harm=0.5), name=HOSTILE),
        provenance={HOSTILE: HOSTILE},
        model=HOSTILE,
    )
    page = page_html(evaluation, some_cases(HOSTILE))
    assert not Reader(page).all("script")
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("attacks", "unmeasured"),
    [
        ((attack("pgd", 1.0),), 3),
        ((attack("pgd", 1.0), attack("joint_pgd", 1.0, "aware", 0.4)), 2),
        ((), 4),
    ],
)
def test_the_top_box_says_what_was_not_measured(
    attacks: tuple[AttackResult, ...], unmeasured: int
) -> None:
    page = page_html(an_evaluation(*attacks), WorstCases())
    top = page[page.index('class="tiles"') : page.index("<nav")]
    assert top.count("badge unmeasured") - top.count('badge unmeasured">?</') >= unmeasured
    aware = any(a.knowledge == "aware" for a in attacks)
    assert ("Nothing on this page says what such an attacker achieves" in page) != aware
    if aware:
        assert "40.0\u00a0% (39.0 to 41.0)" in top


def test_weak_classifiers_are_called_weak() -> None:
    evaluation = an_evaluation(*FULL)
    assert "Weak on OPACITY" in page_html(evaluation, WorstCases())
    guessing = replace(evaluation, clean=replace(evaluation.clean, accuracy=around(0.67)))
    assert "not surely better than always answering CLEAR" in page_html(guessing, WorstCases())


def test_a_target_is_met_only_by_the_whole_interval() -> None:
    assert standing(Estimate(0.0, 0.0, 0.018), 0.02) is Standing.MET
    assert standing(Estimate(0.0, 0.0, 0.03), 0.02) is Standing.UNSURE
    assert standing(Estimate(0.021, 0.0, 0.03), 0.02) is Standing.MISSED
    assert standing(NOTHING, 0.02) is Standing.UNMEASURED


def test_files_agree_with_the_published_schema(tmp_path: Path) -> None:
    write_report(an_evaluation(*FULL), some_cases(), tmp_path)
    document = json.loads((tmp_path / "evaluation.json").read_text())
    published = json.loads(
        (Path(__file__).parents[2] / "docs" / "evaluation.schema.json").read_text()
    )
    assert published == json.loads(json.dumps(schema())), "run `make docs`"
    jsonschema.Draft202012Validator(published).validate(document)
    assert "pixels" not in json.dumps(document)
    page = (tmp_path / "evaluation.md").read_text()
    assert "**Not measured**: an attacker who knows model and guard" in page
    assert {p.name for p in tmp_path.iterdir()} == {
        "evaluation.json",
        "evaluation.html",
        "evaluation.md",
        "undetected_harm.png",
    }


def test_thinned_curves_are_points_of_the_whole_one() -> None:
    rng = np.random.default_rng(1)
    negative, positive = rng.normal(size=3000).round(2), rng.normal(1, size=500).round(2)
    x, y = thinned(negative, positive)
    whole = set(zip(*(part.tolist() for part in roc(negative, positive)), strict=True))
    assert whole >= set(zip(x, y, strict=True))
    assert (x[0], x[-1], y[-1]) == (0, 1, 1)
    assert len(x) <= 42
    assert np.all(np.diff(x) >= 0)
    assert np.all(np.diff(y) >= 0)
    assert thinned(np.zeros(9), np.ones(3)) == ((0.0, 1.0), (1.0, 1.0))


def test_attacks_of_one_knowledge_share_a_pool() -> None:
    negative = {"fused": np.arange(10.0)}
    found = curves(
        negative,
        (
            Hits("unaware", "a", 1.0, {"fused": np.array([20.0])}),
            Hits("unaware", "b", 1.0, {"fused": np.array([-1.0])}),
            Hits("aware", "c", 1.0, {"fused": np.empty(0)}),
        ),
    )
    assert [(c.knowledge, c.attack) for c in found] == [
        ("unaware", "a"), ("unaware", "b"), ("unaware", None),
    ]  # fmt: skip
    assert found[-1].tpr[0] == 0.5


def test_divisions_of_images() -> None:
    assert {name: rows.tolist() for name, rows in thirds(np.arange(6.0), "s").items()} == {
        "0 to 1 s": [0, 1], "2 to 3 s": [2, 3], "4 to 5 s": [4, 5],
    }  # fmt: skip
    assert list(thirds(np.ones(4), "s")) == ["1 to 1 s"]
    assert {name: len(rows) for name, rows in sources(("person12", "IM-1", "IM-22")).items()} == {
        "IM": 2, "person": 1,
    }  # fmt: skip
    assert sources([f"{chr(97 + i)}x" for i in range(20)]) == {}


def test_a_perturbation_is_shown_around_mid_grey() -> None:
    clean = np.full((2, 2, 1), 100, np.uint8)
    attacked = clean + np.array([[[2], [0]], [[0], [0]]], np.uint8)
    shown = perturbation(clean, attacked)
    assert shown is not None
    assert (shown.largest, shown.pixels.ravel().tolist()) == (2, [254, 127, 127, 127])
    assert perturbation(clean, clean) is None
    assert perturbation(clean, clean[:1]) is None


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser is installed")
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    page = tmp_path / "evaluation.html"
    page.write_text(page_html(an_evaluation(*FULL), some_cases()), encoding="utf-8")
    shot = tmp_path / "shot.png"
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--screenshot={shot}",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900", page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert shot.stat().st_size > 20_000
