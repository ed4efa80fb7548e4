"""People decide on held images: durably, counted, and calibration learns from it."""

import hashlib
import itertools
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import serving
from fastapi.testclient import TestClient
from test_recalibrate import calibrate, drifted, fill
from tiny_bundle import FLAGGED, REJECTED, flat
from typer.testing import CliRunner, Result

from detectors.bundle import Bundle
from service.auth import Auth
from service.case_states import TRANSITIONS, Event, State
from service.cli import app
from service.metrics import Metrics
from service.metrics import catalogue as c
from service.monitor import watch_cases
from service.records import Records
from service.reviews import CLAIM_LASTS, Conflict, NoCase, Reviews
from service.settings import Settings, SettingsProblem
from service.tables import cases

PNG = {"Content-Type": "image/png"}
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def records(bundle: Path, tmp_path: Path) -> Iterator[Records]:
    """Ten cases."""
    url = f"sqlite:///{tmp_path}/reviews.sqlite3"
    fill(url, Bundle.open(bundle), drifted(10) * 0 + 0.6)
    opened = Records(url)
    opened.open()
    yield opened
    opened.close()


def reviews_of(records: Records, at: datetime = NOW) -> Reviews:
    metrics = Metrics()
    metrics.allow(c.REVIEWS.labels[0], ["tiny"])
    return Reviews(records.engine, metrics, lambda: at)


def put(records: Records, case_id: str, **values: object) -> None:
    with records.engine.begin() as connection:
        connection.execute(cases.update().where(cases.c.case_id == case_id).values(**values))


PEOPLE = (Event.CLAIM, Event.RELEASE, Event.CONFIRM)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, PEOPLE)))
def test_every_step_of_the_table_and_no_other(records: Records, state: State, event: Event) -> None:
    case_id = records.cases(None, 1)[0].case_id
    put(records, case_id, state=state, claimed_by="ana" if state is State.CLAIMED else None)
    reviews = reviews_of(records)
    then = TRANSITIONS.get((state, event))
    repeated = {State.RELEASED: Event.RELEASE, State.CONFIRMED: Event.CONFIRM}.get(state)
    if then is None and event is not repeated:
        with pytest.raises(Conflict, match=r"decided|expired"):
            reviews.happen(case_id, event, "ana")
        then = state
    else:
        reviews.happen(case_id, event, "ana", "seen")
    case = records.case(case_id)
    assert case is not None
    assert case.state == (then or state)
    assert case.claimed_by == ("ana" if case.state == State.CLAIMED else None)
    steps = [(step.by, step.event, step.note) for step in reviews.history(case_id)]
    assert steps == ([("ana", event, "seen")] if (state, event) in TRANSITIONS else [])


def test_two_do_not_look_at_one_case(records: Records) -> None:
    reviews = reviews_of(records)
    first, second = (case.case_id for case in records.cases(None, 2))
    reviews.happen(first, Event.CLAIM, "ana")
    for event in PEOPLE:
        with pytest.raises(Conflict, match="ana has claimed it"):
            reviews.happen(first, event, "ben")
    reviews.happen(second, Event.RELEASE, "ben")
    with pytest.raises(NoCase):
        reviews.happen(32 * "0", Event.RELEASE, "ben")


def test_claims_lapse_cases_expire_and_files_go(records: Records) -> None:
    ids = [case.case_id for case in records.cases(None, 10)]
    old = NOW - timedelta(days=91)
    for case_id in ids:
        put(records, case_id, opened_at=NOW)
    put(records, ids[0], opened_at=old)
    put(records, ids[1], opened_at=old, state=State.CLAIMED, claimed_by="ana", claimed_at=NOW)
    put(records, ids[2], opened_at=old, state=State.RELEASED)
    put(records, ids[3], state=State.CLAIMED, claimed_by="ana", claimed_at=NOW - 2 * CLAIM_LASTS)
    put(records, ids[4], state=State.CLAIMED, claimed_by="ana", claimed_at=NOW)
    reviews = reviews_of(records)
    reviews.expire(90)
    states = [records.case(case_id).state for case_id in ids]  # type: ignore[union-attr]  # each is there
    assert states == ["expired", "expired", "released", "open", "claimed", *5 * ["open"]]
    files = [records.case_image(case_id)[1] for case_id in ids]  # type: ignore[index]  # each is there
    assert files == [*3 * [b""], *7 * [b"x"]]
    counted = {s.labels["outcome"]: s.value for f in reviews.metrics.registry.collect()
               for s in f.samples if s.name == "lazaret_reviews_total"}  # fmt: skip
    assert counted == {"expired": 2, "released": 0, "confirmed": 0}
    reviews.expire(90)  # once
    assert [step.event for step in reviews.history(ids[0])] == [Event.EXPIRE]


def test_gauges_show_states_and_ages(records: Records) -> None:
    reviews = reviews_of(records, datetime.now(UTC))
    ids = [case.case_id for case in records.cases(None, 10)]
    put(records, ids[0], opened_at=datetime.now(UTC) - timedelta(days=2))
    reviews.happen(ids[0], Event.CLAIM, "ana")
    reviews.happen(ids[1], Event.CONFIRM, "ana")
    watch_cases(records, reviews.metrics)
    said = {(s.name, s.labels["state"]): s.value for f in reviews.metrics.registry.collect()
            for s in f.samples if s.name.startswith("lazaret_case")}  # fmt: skip
    assert said["lazaret_cases", "open"] == 8
    assert said["lazaret_cases", "claimed"] == said["lazaret_cases", "confirmed"] == 1
    assert 2 * 86400 <= said["lazaret_case_oldest_seconds", "claimed"] < 2 * 86400 + 60
    assert said["lazaret_case_oldest_seconds", "open"] < 3600


def hold(client: TestClient, gray: int = FLAGGED, **headers: str) -> str:
    answer = client.post("/diagnose", content=flat(gray), headers={**PNG, **headers}).json()
    return str(answer["case_id"])


def test_over_http(client: TestClient, tmp_path: Path) -> None:
    first, second = hold(client), hold(client, REJECTED)
    claimed = client.post(f"/cases/{first}/claim").json()
    assert (claimed["state"], claimed["claimed_by"]) == ("claimed", "anonymous")
    released = client.post(f"/cases/{first}/release", json={"note": "a scar"}).json()
    assert released["state"] == "released"
    assert [step["event"] for step in released["reviews"]] == ["claim", "release"]
    assert released["reviews"][1]["note"] == "a scar"
    assert client.post(f"/cases/{second}/confirm").json()["state"] == "confirmed"
    refused = client.post(f"/cases/{second}/claim")
    assert (refused.status_code, refused.json()["type"][-8:]) == (409, "conflict")
    assert client.post(f"/cases/{32 * '0'}/release").status_code == 404
    assert client.post(f"/cases/{first}/release", json={"note": 1001 * "x"}).status_code == 422
    page = client.get("/metrics").text
    assert 'lazaret_reviews_total{model="tiny",outcome="released"} 1.0' in page
    assert 'lazaret_reviews_total{model="tiny",outcome="confirmed"} 1.0' in page
    # on disk by the time of the answer
    stored = sqlite3.connect(tmp_path / "records.sqlite3")
    assert stored.execute("select event from reviews order by id").fetchall() == [
        ("claim",), ("release",), ("confirm",)
    ]  # fmt: skip


def test_whoever_sends_images_does_not_release_them(settings: Settings) -> None:
    keys = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("scanner", "radiologist")}
    keyed = settings.model_copy(update={"api_keys": keys, "reviewers": ("radiologist",)})
    with serving(keyed) as client:
        case = hold(client, Authorization="Bearer scanner")
        for step in ("claim", "release", "confirm"):
            assert client.post(f"/cases/{case}/{step}").status_code == 401
            scanner = client.post(
                f"/cases/{case}/{step}", headers={"Authorization": "Bearer scanner"}
            )
            assert scanner.status_code == 403
        sender = {"Authorization": "Bearer scanner"}
        for path in ("/cases", f"/cases/{case}", f"/cases/{case}/image"):
            assert client.get(path, headers=sender).status_code == 403
        header = {"Authorization": "Bearer radiologist"}
        done = client.post(f"/cases/{case}/release", headers=header).json()
        assert done["reviews"][0]["by"] == "radiologist"
    with pytest.raises(SettingsProblem, match="ghost"):
        Auth(keys, "127.0.0.1", "loopback", ["ghost"])


def test_on_the_command_line(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def request(method: str, url: str, **given: Any) -> httpx.Response:
        given.pop("timeout")
        return client.request(method, url.removeprefix("http://127.0.0.1:8000"), **given)

    monkeypatch.setattr(httpx, "request", request)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["cases", *words], env={"COLUMNS": "200"})

    assert "No cases" in run("list").output
    first, second = hold(client), hold(client, REJECTED)
    listed = run("list", "--state", "open").output
    assert first in listed
    assert second in listed
    assert '"guard"' in run("show", first).output
    assert "claimed" in run("claim", first).output
    assert run("release", first, second, "--note", "fine").exit_code == 0
    refused = run("claim", first)
    assert refused.exit_code == 2
    assert "has been decided" in refused.output
    assert run("list", "--state", "released", "--json").output.count(first) == 1


def test_an_unreachable_service_is_a_sentence() -> None:
    found = CliRunner().invoke(app, ["cases", "list", "--url", "http://127.0.0.1:9"])
    assert found.exit_code == 2
    assert "is the service running" in found.output


def test_calibration_learns_from_what_was_released_alone(
    bundle: Path, settings: Settings, tmp_path: Path
) -> None:
    """Nobody has to assume anything once the held images are reviewed."""
    fill(settings.database, Bundle.open(bundle), drifted(1200))
    with serving(settings) as client:
        held = client.get("/cases", params={"state": "open", "limit": 500}).json()
        refused = calibrate(bundle, tmp_path / "new", settings.database)
        assert refused.exit_code == 2
        for i, case in enumerate(held):
            step = "confirm" if i < 5 else "release"
            assert client.post(f"/cases/{case['case_id']}/{step}").status_code == 200
    done = calibrate(bundle, tmp_path / "new", settings.database)
    assert done.exit_code == 0, done.output
    assert f"{len(held) - 5} released, 5 confirmed" in done.output
    assert Bundle.open(tmp_path / "new").manifest.levels[0].images == 1195
