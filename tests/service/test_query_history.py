"""Black-box attacks are caught by what they asked before, through the service's own doors."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import server_process, serving
from fastapi.testclient import TestClient
from pydantic import SecretStr
from servers.redis import PATIENT, redis_server
from tiny_bundle import encode

from detectors.query_sequence import ALARM, POINT
from models.imaging.decode import decode
from models.imaging.encode import dicom
from models.phantom import radiograph
from models.spec import ModelSpec, Preprocessing
from service.body import Upload
from service.metrics import Metrics
from service.query_history import RETRY_SECONDS, QueryHistory
from service.query_store import Size
from service.query_store_redis import RedisStore
from service.secret_file import read_secret
from service.settings import Settings, SettingsProblem

PNG = {"Content-Type": "image/png"}
TOLERATED = ALARM // POINT
"""Distinct near-duplicates before the alarm: the next one is held."""


def question(i: int, label: int = 0, patient: int = 1) -> np.ndarray:
    """The i-th of many noisy copies of a chest, which the tiny model accepts."""
    pixels = radiograph(patient, 0, opacities=False, size=64).astype(float) * 0.7
    noise = np.random.default_rng(i).normal(0, 6, pixels.shape)
    asked = np.clip(pixels + noise, 0, 255).round().astype(np.uint8)
    asked[0, 0] = 200 * label  # decides the tiny model's class
    return asked


def ask(client: TestClient | httpx.Client, pixels: np.ndarray, **headers: str) -> httpx.Response:
    return client.post("/diagnose", content=encode(pixels[..., 0]), headers=PNG | headers)


def responding(settings: Settings, response: str, **given: object) -> Settings:
    return settings.model_copy(update={"query_response": response, **given})


def on_record(path: Path) -> list[tuple[int, str | None, str | None, str | None]]:
    with sqlite3.connect(path) as database:
        return list(database.execute("SELECT status, verdict, route, case_id FROM requests"))


@pytest.mark.parametrize(("response", "verdict"), [("flag", "flag"), ("reject", "reject")])
def test_an_attack_is_one_incident(
    settings: Settings, tmp_path: Path, response: str, verdict: str
) -> None:
    with serving(responding(settings, response)) as client:
        answers = [ask(client, question(i)).json() for i in range(TOLERATED + 4)]
        assert {a["verdict"] for a in answers[:TOLERATED]} == {"accept"}
        for answer in answers[TOLERATED:]:
            assert (answer["verdict"], answer["route"]) == (verdict, "query_attack")
            assert (answer["diagnosis"] is None) == (verdict == "reject")
        (case,) = client.get("/cases").json()
        assert {answer["case_id"] for answer in answers[TOLERATED:]} == {case["case_id"]}
        assert case["route"] == "query_attack"
        assert case["evidence"]["queries"]["images"] == TOLERATED + 1
        assert ask(client, question(0, patient=2)).json()["verdict"] == "accept"
        assert 'lazaret_incidents_total{kind="query_attack"} 1.0' in client.get("/metrics").text
    rows = on_record(tmp_path / "records.sqlite3")
    assert [row[3] for row in rows[TOLERATED:-1]] == 4 * [case["case_id"]]


def test_a_changed_diagnosis_is_caught_when_it_happens(settings: Settings) -> None:
    with serving(responding(settings, "reject")) as client:
        answers = [ask(client, question(i, label=int(i == 3))).json() for i in range(4)]
    assert [answer["verdict"] for answer in answers] == [*3 * ["accept"], "reject"]


def test_moving_and_windowing_every_question_does_not_help(settings: Settings) -> None:
    def disguised(i: int) -> np.ndarray:
        moved = np.roll(question(i), (i % 4 - 2, i % 3 - 1), axis=(0, 1)).astype(float)
        shown = np.clip(moved * (0.8 + 0.05 * (i % 5)), 0, 255).round().astype(np.uint8)
        shown[0, 0] = 0  # the tiny model's class
        return shown

    with serving(responding(settings, "reject")) as client:
        answers = [ask(client, disguised(i)).json() for i in range(2 * TOLERATED + 4)]
        assert ask(client, question(0, patient=2)).json()["verdict"] == "accept"
    assert {answer["verdict"] for answer in answers[:4]} == {"accept"}
    assert {answer["route"] for answer in answers[-4:]} == {"query_attack"}


def test_throttling_refuses(settings: Settings, tmp_path: Path) -> None:
    with serving(responding(settings, "throttle")) as client:
        answers = [ask(client, question(i)) for i in range(TOLERATED + 3)]
        assert [a.status_code for a in answers] == TOLERATED * [200] + 3 * [429]
        assert int(answers[-1].headers["Retry-After"]) > 0
        assert answers[-1].json()["type"] == "urn:lazaret:problem:rate"
        assert len(client.get("/cases").json()) == 1
        assert ask(client, question(0, patient=2)).status_code == 200
    assert [row[:3] for row in on_record(tmp_path / "records.sqlite3")[TOLERATED:-1]] == 3 * [
        (429, "reject", "query_attack")
    ]


def test_silence_tells_the_attacker_nothing(settings: Settings, tmp_path: Path) -> None:
    """What is answered is what would have been answered without a history."""
    questions = [question(i, label=int(i % 4 == 3)) for i in range(14)]
    # so bright that the guard holds it by itself
    questions[10] = np.clip(questions[10] * 1.6, 0, 255).astype(np.uint8)
    shown = {}
    for response in ("silent", "off"):
        database = f"sqlite:///{tmp_path}/{response}.sqlite3"
        with serving(responding(settings, response, database=database)) as client:
            shown[response] = [ask(client, pixels) for pixels in questions]
            cases = client.get("/cases").json()
        assert len(cases) == (2 if response == "silent" else 1)
    for silent, plain in zip(shown["silent"], shown["off"], strict=True):
        one, other = silent.json(), plain.json()
        for answer in (one, other):
            del answer["request_id"], answer["timing_ms"]
            answer["case_id"] = answer["case_id"] is not None
        assert one == other
    held = [row for row in on_record(tmp_path / "silent.sqlite3") if row[2] == "query_attack"]
    assert len(held) == 11
    own = shown["silent"][10].json()["case_id"]
    assert [row[3] for row in held].count(own) == 1


def test_sending_again_is_no_attack(settings: Settings) -> None:
    with serving(responding(settings, "reject")) as client:
        for _ in range(20):
            for patient in (1, 2, 3):
                assert ask(client, question(0, patient=patient)).json()["verdict"] == "accept"


def test_after_an_attack_the_picture_itself_is_still_diagnosed(settings: Settings) -> None:
    with serving(responding(settings, "reject")) as client:
        answers = [ask(client, question(i)).json()["verdict"] for i in (*range(12), 0, 11)]
    assert answers[-2:] == ["accept", "reject"]


def test_frames_of_one_study_are_no_attack(settings: Settings) -> None:
    with serving(responding(settings, "reject")) as client:
        for i in range(30):
            file = dicom(question(i), patient="1")  # images of one patient share a study
            answer = client.post("/diagnose", content=file).json()
            assert answer["verdict"] == "accept", answer


def test_several_images_of_one_request_count_each(settings: Settings) -> None:
    parts = [("image", (f"{i}.png", encode(question(i)[..., 0]), "image/png")) for i in range(12)]
    with serving(responding(settings, "reject")) as client:
        client.post("/diagnose/batch", files=parts)
        assert ask(client, question(12)).json()["route"] == "query_attack"
        assert len(client.get("/cases").json()) == 1


def test_an_incident_that_cannot_be_recorded_is_raised_again(
    settings: Settings, tmp_path: Path
) -> None:
    def rename(one: str, other: str) -> None:
        with sqlite3.connect(tmp_path / "records.sqlite3") as database:
            database.execute(f"ALTER TABLE {one} RENAME TO {other}")

    with serving(responding(settings, "flag")) as client:
        for i in range(TOLERATED):
            ask(client, question(i))
        rename("cases", "gone")
        assert ask(client, question(98)).status_code == 503
        rename("gone", "cases")
        answer = ask(client, question(99)).json()
        assert client.get(f"/cases/{answer['case_id']}").status_code == 200


def test_the_secret_is_made_once_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "history.key"
    made = read_secret(path)
    assert len(made) >= 32
    assert read_secret(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("short")
    with pytest.raises(SettingsProblem, match="too few"):
        read_secret(path)
    path.chmod(0o666)
    with pytest.raises(SettingsProblem, match="chmod"):
        read_secret(path)
    with pytest.raises(SettingsProblem, match="No such file"):
        read_secret(tmp_path / "nowhere" / "history.key")


def test_sharing_needs_a_shared_secret(settings: Settings, tmp_path: Path) -> None:
    shared = settings.model_copy(update={"redis": SecretStr("redis://127.0.0.1:1/0")})
    with pytest.raises(SettingsProblem, match="query_secret_file"), serving(shared):
        pass
    wrong = {"redis": SecretStr("http://x"), "query_secret_file": tmp_path / "key"}
    with (
        pytest.raises(SettingsProblem, match="redis://"),
        serving(settings.model_copy(update=wrong)),
    ):
        pass


def test_a_lost_redis_degrades_and_comes_back(tmp_path: Path) -> None:
    metrics, size = Metrics(), Size(1000, 3600)
    now = [1_800_000_000.0]
    model = ModelSpec(name="m", classes=("a", "b"), preprocessing=Preprocessing(resize=(64, 64)))

    async def run() -> list[int]:
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        with redis_server(tmp_path / "one") as server:
            store = RedisStore(server.url, size, PATIENT)
            history = QueryHistory(b"k" * 32, size, metrics, (), store, clock=lambda: now[0])

            async def link(i: int) -> int:
                upload = Upload(encode(question(i)[..., 0]), "image/png")
                image = decode(upload.data)
                mark = history.mark(image, upload, model)
                assert mark is not None
                return (await history.link(mark, 0, "somebody")).queries

            found = [await link(i) for i in range(3)]
            server.process.terminate()
            server.process.wait()
            found += [await link(i) for i in range(3, 6)]
            lost = metrics.registry.get_sample_value
            assert lost("lazaret_shared_state_failures_total", {"store": "redis"}) == 1
            assert lost("lazaret_shared_state_up", {"store": "redis"}) == 0
            with redis_server(tmp_path / "two", server.port):
                now[0] += RETRY_SECONDS + 1
                found += [await link(i) for i in range(6, 8)]
                assert lost("lazaret_shared_state_up", {"store": "redis"}) == 1
            await history.close()
        return found

    # shared, then this process alone, then the new and empty Redis
    assert asyncio.run(run()) == [1, 2, 3, 1, 2, 3, 1, 2]


def test_replicas_know_the_disguises_of_a_shared_incident(tmp_path: Path) -> None:
    """An attack that was split over both goes on in another window, moved."""
    size = Size(1000, 3600)
    model = ModelSpec(name="m", classes=("a", "b"), preprocessing=Preprocessing(resize=(64, 64)))

    async def run(url: str) -> list[bool]:
        replicas = [
            QueryHistory(b"k" * 32, size, Metrics(), (), RedisStore(url, size, PATIENT))
            for _ in range(2)
        ]

        async def held(i: int, pixels: np.ndarray) -> bool:
            upload = Upload(encode(pixels[..., 0]), "image/png")
            mark = replicas[i % 2].mark(decode(upload.data), upload, model)
            assert mark is not None
            return (await replicas[i % 2].link(mark, 0, "somebody")).attack

        found = [await held(i, question(i)) for i in range(TOLERATED + 1)]
        for i in range(20, 26):
            moved = np.roll(question(i), (3, -3), axis=(0, 1)).astype(float)
            found.append(await held(i, (moved * 0.6 + 50).round().astype(np.uint8)))
        found.append(await held(0, question(0, patient=2)))
        for replica in replicas:
            await replica.close()
        return found

    with redis_server(tmp_path) as server:
        found = asyncio.run(run(server.url))
    assert found == [*TOLERATED * [False], *7 * [True], False]


def test_an_attack_split_over_two_gateways_is_caught_as_one(bundle: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path))
        environment = {
            "LAZARET_BUNDLES": str(bundle),
            "LAZARET_REDIS": redis.url,
            "LAZARET_QUERY_SECRET_FILE": str(tmp_path / "history.key"),
            "LAZARET_REDIS_SECONDS": str(PATIENT),
            "LAZARET_QUERY_RESPONSE": "reject",
        }
        clients = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            server = stack.enter_context(
                server_process(["-m", "service", "serve"], tmp_path / name, environment)
            )
            clients.append(stack.enter_context(httpx.Client(base_url=server.url)))
        answers = [ask(clients[i % 2], question(i)).json() for i in range(TOLERATED + 4)]
        verdicts = [answer["verdict"] for answer in answers]
        assert verdicts == TOLERATED * ["accept"] + 4 * ["reject"]
        assert len({answer["case_id"] for answer in answers[TOLERATED:]}) == 1
        opened = [len(client.get("/cases").json()) for client in clients]
        assert sorted(opened) == [0, 1]
