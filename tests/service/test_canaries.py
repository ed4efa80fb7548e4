"""Known images prove that the running guard still detects, and are never taken for traffic."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import serving
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from tiny_bundle import ACCEPTED, FLAGGED, REJECTED, UNJUDGED, flat
from typer.testing import CliRunner

from detectors.bundle import Bundle
from detectors.canaries import CANARIES, Canary, Kind, as_bytes, canaries_of, check, seal
from detectors.manifest_file import BundleProblem
from models.engine import Batch, Readings
from service.cli import app
from service.guard import onnx_engine
from service.records import connect
from service.settings import Settings
from service.tables import cases, requests

CANARY_FILES = (
    Canary(Kind.CLEAN, flat(ACCEPTED)),
    Canary(Kind.ADVERSARIAL, flat(FLAGGED)),
    Canary(Kind.ADVERSARIAL, flat(REJECTED)),
)


def with_canaries(bundle: Path, folder: Path, canaries: tuple[Canary, ...] = CANARY_FILES) -> Path:
    shutil.copytree(bundle, folder)
    seal(folder, Bundle.open(folder).manifest, canaries)
    return folder


@pytest.fixture
def sealed(bundle: Path, tmp_path: Path) -> Path:
    return with_canaries(bundle, tmp_path / "sealed")


def wait_for(client: TestClient, line: str, seconds: float = 20) -> str:
    until = time.monotonic() + seconds
    while line not in (text := client.get("/metrics").text):
        assert time.monotonic() < until, text
        time.sleep(0.05)
    return text


def test_a_bundle_keeps_them_in_order_and_hashed(sealed: Path, bundle: Path) -> None:
    opened = Bundle.open(sealed)
    assert canaries_of(opened) == CANARY_FILES
    assert opened.digest != Bundle.open(bundle).digest
    assert canaries_of(Bundle.open(bundle)) == ()
    (sealed / CANARIES).write_bytes(as_bytes(CANARY_FILES[:1]))
    with pytest.raises(BundleProblem, match=CANARIES):
        Bundle.open(sealed)


@pytest.mark.parametrize("data", [b"", b"rubbish", as_bytes(33 * CANARY_FILES[:1])])
def test_a_broken_set_is_a_sentence(bundle: Path, tmp_path: Path, data: bytes) -> None:
    folder = with_canaries(bundle, tmp_path / "broken")
    (folder / CANARIES).write_bytes(data)
    manifest = Bundle.open(bundle).manifest
    from detectors.bundle import sha256, write_manifest

    files = {**manifest.files, CANARIES: sha256(data)}
    write_manifest(folder, manifest.model_copy(update={"files": files}))
    with pytest.raises(BundleProblem, match="lazaret bundle canaries"):
        canaries_of(Bundle.open(folder))


def test_canaries_are_seen_and_are_not_traffic(settings: Settings, sealed: Path) -> None:
    quick = settings.model_copy(update={"bundles": (sealed,), "canary_seconds": 0.1})
    with serving(quick) as client:
        wait_for(client, 'lazaret_canaries_total{kind="clean",model="tiny",outcome="seen"} 3.0')
        text = client.get("/metrics").text
        assert 'lazaret_canaries_missed{kind="adversarial",model="tiny"} 0.0' in text
        assert 'lazaret_canary_last_timestamp_seconds{model="tiny"} 1' in text
        assert 'outcome="missed"} 1' not in text
        assert 'lazaret_verdicts_total{model="tiny",route="none",verdict="accept"} 0.0' in text
        assert 'lazaret_requests_total{interface="diagnose",outcome="answered"} 0.0' in text
        assert client.get("/cases").json() == []
        assert client.get("/drift").json() == []
    with connect(settings.database).connect() as connection:
        for table in (requests, cases):
            assert connection.scalar(select(func.count()).select_from(table)) == 0


class Blind:
    """An engine whose detectors have gone: every score is low."""

    def __init__(self, run: Callable[[Batch], Readings]) -> None:
        self._run = run

    def run(self, images: Batch) -> Readings:
        found = self._run(images)
        return Readings(
            found.logits, found.probabilities, 0 * found.scores, 0 * found.fused, found.quality
        )

    def warm_up(self) -> None: ...


def test_a_guard_that_went_blind_is_told(settings: Settings, sealed: Path) -> None:
    quick = settings.model_copy(update={"bundles": (sealed,), "canary_seconds": 0.1})

    def blind(graph: bytes, chosen: Settings) -> Blind:
        return Blind(onnx_engine(graph, chosen).run)

    with serving(quick, load_engine=blind) as client:
        wait_for(client, 'lazaret_canaries_missed{kind="adversarial",model="tiny"} 2.0')
        text = client.get("/metrics").text
        assert 'lazaret_canaries_missed{kind="clean",model="tiny"} 0.0' in text
        assert "lazaret_canary_last_timestamp_seconds{" not in text
        assert 'lazaret_incidents_total{kind="canary_missed"} 1.0' in text
        wait_for(client, 'lazaret_incidents_open{kind="canary_missed"} 1.0')


def test_no_canary_is_sent_where_none_is_wanted(settings: Settings, sealed: Path) -> None:
    never = settings.model_copy(update={"bundles": (sealed,), "canary_seconds": 0})
    with serving(never) as client:
        time.sleep(0.3)
        assert "lazaret_canaries_missed{" not in client.get("/metrics").text


def test_adding_them_to_a_bundle(bundle: Path, tmp_path: Path) -> None:
    files = {}
    for name, gray in (("clean", ACCEPTED), ("held", REJECTED), ("unjudged", UNJUDGED)):
        files[name] = tmp_path / f"{name}.png"
        files[name].write_bytes(flat(gray))
    out = tmp_path / "new"
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    call = ["bundle", "canaries", str(bundle), "--out", str(out)]
    good = CliRunner().invoke(
        app, [*call, "--clean", str(files["clean"]), "--adversarial", str(files["held"])]
    )
    assert good.exit_code == 0, good.output
    assert [canary.kind for canary in canaries_of(Bundle.open(out))] == [*Kind]
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert CliRunner().invoke(app, ["bundle", "verify", str(out)]).exit_code == 0
    shown = CliRunner().invoke(app, ["bundle", "inspect", str(out)])
    assert "canaries" in shown.output
    for arguments in (
        [*call, "--clean", str(files["clean"])],
        [*call[:-1], str(tmp_path / "x"), "--clean", str(files["held"])],
        [*call[:-1], str(tmp_path / "x"), "--adversarial", str(files["clean"])],
        [*call[:-1], str(tmp_path / "x"), "--clean", str(tmp_path / "nowhere.png")],
        [*call[:-1], str(tmp_path / "x"), "--clean", str(out / "guard.onnx")],
        [*call[:-1], str(tmp_path / "x")],
    ):
        assert CliRunner().invoke(app, arguments).exit_code == 2
    assert not (tmp_path / "x").exists()


def test_what_a_canary_must_get(bundle: Path, settings: Settings) -> None:
    opened = Bundle.open(bundle)
    engine = onnx_engine(opened.graph, settings)
    assert check(CANARY_FILES, engine, opened) == []
    unjudged = Canary(Kind.CLEAN, flat(UNJUDGED))
    (sentence,) = check([unjudged, CANARY_FILES[0]], engine, opened)
    assert "canary 1 is clean and is held" in sentence


def test_fitting_chooses_what_stands_clear_of_the_levels(bundle: Path, settings: Settings) -> None:
    from detectors.canary_choice import choose
    from detectors.samples import Samples

    def samples(grays: list[int], attacked: bool) -> Samples:
        images = tuple(np.full((16, 16, 1), gray, np.uint8) for gray in grays)
        names = tuple(map(str, grays))
        return Samples(images, np.zeros(len(grays), np.int64), names, names, "x", 1.0, attacked)

    opened = Bundle.open(bundle)
    chosen = choose(
        samples([ACCEPTED, 20, REJECTED], False),
        [samples([FLAGGED, ACCEPTED], True), samples([REJECTED], True)],
        1,
        onnx_engine(opened.graph, settings),
        opened.calibration,
        opened.manifest.levels,
    )
    assert [canary.kind for canary in chosen] == [*Kind]
    from models.imaging import Limits
    from models.imaging.decode import decode

    grays = [int(decode(one.data, None, Limits()).pixels[0, 0, 0]) for one in chosen]
    assert grays == [20, REJECTED]
