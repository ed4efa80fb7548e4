"""After a drift the guard is calibrated again, on what reviewers know to be benign."""

import asyncio
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from conftest import serving
from sqlalchemy import update
from tiny_bundle import flat
from typer.testing import CliRunner, Result

from detectors.bundle import Bundle
from detectors.calibrate import binomial_cdf
from detectors.recalibrate import ANCESTORS, Share
from service.cli import app
from service.records import NewCase, Record, Records
from service.settings import Settings
from service.tables import cases

FLAG = 0.01


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/records.sqlite3"


def fill(url: str, of: Bundle, scores: np.ndarray, prefix: str = "r", **changed: object) -> None:
    """Traffic of one class as the service would have recorded it."""
    records = Records(url)
    records.open()
    records.start()
    cell = of.calibration.cells[0]

    async def write() -> None:
        written = []
        for i, score in enumerate(scores.astype(np.float32)):
            p = (1 + int((cell.fused >= score).sum())) / (len(cell) + 1)
            held = p <= FLAG
            case = NewCase(f"{prefix}{i}".encode().hex().ljust(32, "0")[:32], "adversarial", {},
                           "image/png", b"x")  # fmt: skip
            given = {
                "request_id": f"{prefix}{i}", "client": "ward", "status": 200, "model": "tiny",
                "bundle": of.digest, "verdict": "flag" if held else "accept",
                "route": "adversarial" if held else None, "label": "dark",
                "fused_score": float(score), "quality_score": 0.1,
                "detectors": [
                    {"name": "mean", "score": float(score), "p_value": p},
                    {"name": "range", "score": 0.1, "p_value": 0.5},
                ],
                "pixels": f"sha256:{prefix}{i}", "case": case if held else None,
                "case_id": case.case_id if held else None,
            }  # fmt: skip
            written.append(records.write(Record(**{**given, **changed})))
        await asyncio.gather(*written)

    asyncio.run(write())
    records.close()


def review(url: str, state: str) -> None:
    records = Records(url)
    records.open()
    with records.engine.begin() as connection:
        connection.execute(update(cases).values(state=state))
    records.close()


def calibrate(bundle: Path, out: Path, url: str, *more: str) -> Result:
    return CliRunner().invoke(
        app,
        ["calibrate", "--bundle", str(bundle), "--from-records", "--out", str(out),
         "--database", url, *more],
        env={"COLUMNS": "200"},
    )  # fmt: skip


def drifted(images: int, seed: int = 0) -> np.ndarray:
    """Of each ten images the calibration's scores reach 0.5; these go on to 0.55."""
    return np.random.default_rng(seed).uniform(0, 0.55, images)


def test_a_new_bundle_keeps_the_promise_again(bundle: Path, tmp_path: Path, url: str) -> None:
    opened = Bundle.open(bundle)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    fill(url, opened, drifted(1200))
    review(url, "released")
    out = tmp_path / "new"
    done = calibrate(bundle, out, url)
    assert done.exit_code == 0, done.output
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    new = Bundle.open(out)
    assert new.digest != opened.digest
    assert new.graph == opened.graph
    assert new.manifest.provenance[ANCESTORS] == [opened.digest]
    assert new.manifest.levels[0].images == 1200
    kept, old = new.manifest.levels[1], opened.manifest.levels[1]
    assert (kept.images, kept.flag, kept.reject) == (old.images, old.flag, old.reject)
    assert kept.quality == new.manifest.levels[0].quality  # over all classes, so new here as well
    assert (out / "card.md").read_text().count("1200")
    fresh = drifted(4000, seed=1).astype(np.float32)
    for found, low, high in ((opened, 0.08, 0.13), (new, 0.0, FLAG)):
        cell, level = found.calibration.cells[0], found.manifest.levels[0].flag
        assert level is not None
        p = (1 + (cell.fused[None] >= fresh[:, None]).sum(axis=1)) / (len(cell) + 1)
        assert low <= (p <= level).mean() <= high
    (dark,) = [line for line in done.output.splitlines() if line.startswith("│ dark")]
    was, becomes = (float(cell.partition("%")[0]) for cell in dark.split("│")[3:5])
    assert 8 < was < 13
    assert becomes < 1.5
    assert "too few images" in done.output


def test_what_nobody_reviewed_is_not_passed_over(bundle: Path, tmp_path: Path, url: str) -> None:
    fill(url, Bundle.open(bundle), drifted(400))
    refused = calibrate(bundle, tmp_path / "new", url)
    assert refused.exit_code == 2
    assert "not reviewed" in refused.output
    assert not (tmp_path / "new").exists()
    assert calibrate(bundle, tmp_path / "new", url, "--assume-benign").exit_code == 0
    written = json.loads((tmp_path / "new" / "manifest.json").read_text())
    assert written["provenance"]["recalibrated_on"]["assumed_benign"] > 0
    again = calibrate(bundle, tmp_path / "new", url, "--assume-benign")
    assert again.exit_code == 2
    assert "exists already" in again.output


def test_what_does_not_count(bundle: Path, tmp_path: Path, url: str) -> None:
    opened = Bundle.open(bundle)
    fill(url, opened, drifted(400), "attack")
    review(url, "confirmed")
    confirmed = int((drifted(400) > 0.495).sum())
    benign = np.random.default_rng(2).uniform(0, 0.49, 400)
    fill(url, opened, benign, "other", bundle="sha256:another")
    fill(url, opened, benign, "bypass", bypass=True)
    fill(url, opened, benign, "blank", fused_score=None)
    fill(url, opened, benign, "query", route="query_attack")
    fill(url, opened, benign[:50], "same", pixels="sha256:one")
    done = calibrate(bundle, tmp_path / "new", url)
    assert done.exit_code == 0, done.output
    taken = Bundle.open(tmp_path / "new").manifest.levels[0].images
    assert abs(taken - (400 - confirmed + 1)) <= 3
    assert "49 repeats" in done.output


def test_too_little_traffic_is_a_sentence(bundle: Path, tmp_path: Path, url: str) -> None:
    fill(url, Bundle.open(bundle), np.full(20, 0.2))
    for more in ([], ["--source", "elsewhere"]):
        refused = calibrate(bundle, tmp_path / "new", url, *more)
        assert refused.exit_code == 2
        assert "299" in refused.output
    assert CliRunner().invoke(
        app, ["calibrate", "--bundle", str(bundle), "--out", str(tmp_path / "x")]
    ).exit_code == 2  # fmt: skip


def test_a_second_time_the_first_bundles_traffic_counts_too(
    bundle: Path, tmp_path: Path, url: str
) -> None:
    opened = Bundle.open(bundle)
    fill(url, opened, np.random.default_rng(3).uniform(0, 0.49, 350))
    assert calibrate(bundle, tmp_path / "one", url).exit_code == 0
    one = Bundle.open(tmp_path / "one")
    fill(url, one, np.random.default_rng(4).uniform(0, 0.48, 50), "later", verdict="accept")
    review(url, "released")
    done = calibrate(tmp_path / "one", tmp_path / "two", url, "--assume-benign")
    assert done.exit_code == 0, done.output
    two = Bundle.open(tmp_path / "two").manifest
    assert two.levels[0].images == 400
    assert two.provenance[ANCESTORS] == [one.digest, opened.digest]


@pytest.mark.parametrize(("flagged", "images"), [(0, 300), (3, 300), (300, 300), (1, 1)])
def test_intervals_are_exact(flagged: int, images: int) -> None:
    low, high = Share(flagged, images).interval()
    if flagged:
        assert 1 - binomial_cdf(flagged - 1, images, low) == pytest.approx(0.025, abs=1e-6)
    if flagged < images:
        assert binomial_cdf(flagged, images, high) == pytest.approx(0.025, abs=1e-6)
    assert 0 <= low <= flagged / images <= high <= 1


def test_days_bound_how_far_back(bundle: Path, tmp_path: Path, url: str) -> None:
    from service.reviewed import reviewed

    fill(url, Bundle.open(bundle), np.full(5, 0.2))
    records = Records(url)
    records.open()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    found = reviewed(records.engine, Bundle.open(bundle), tomorrow)
    assert (len(found.scores), found.first) == (0, None)
    records.close()


def test_a_client_with_traffic_enough_gets_levels_of_its_own(
    bundle: Path, tmp_path: Path, url: str, settings: Settings
) -> None:
    """The ward's images score higher than anybody else's: with its own levels, what is common there
    is accepted from it, and held from others."""
    opened = Bundle.open(bundle)
    rng = np.random.default_rng(3)
    fill(url, opened, rng.uniform(0, 0.46, 2000), "clinic", client="clinic")
    fill(url, opened, rng.uniform(0.3, 0.494, 400), "ward")
    fill(url, opened, rng.uniform(0, 0.4, 20), "desk", client="desk")
    out = tmp_path / "new"
    done = calibrate(bundle, out, url, "--by-source")
    assert done.exit_code == 0, done.output
    new = Bundle.open(out)
    (ward, none), levels = new.manifest.source_levels["ward"], new.manifest.levels
    assert ward is not None
    assert ward.images == 400
    assert none is None
    assert new.manifest.source_levels["desk"] == (None, None)
    assert levels[0].images == 2420
    assert "source desk: fewer than 299 calibration images" in done.output

    keys = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("ward", "clinic", "desk")}
    held = {}
    with serving(settings.model_copy(update={"bundles": (out,), "api_keys": keys})) as client:
        for name in keys:
            answer = client.post(
                "/diagnose",
                files={"image": ("scan.png", flat(125))},
                headers={"Authorization": f"Bearer {name}"},
            ).json()
            held[name] = answer["verdict"] != "accept"
    assert held == {"ward": False, "clinic": True, "desk": True}
