"""The same questions to both stores of the query history, and to both at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import redis as redis_client
from servers.redis import PATIENT, RedisServer, redis_server

from detectors.query_fingerprint import BANDS, SKETCH, Fingerprint, Fingerprinter
from detectors.query_sequence import ALARM, POINT, RELIEF, Kind, Sight
from models.phantom import radiograph
from models.spec import Preprocessing
from service.query_store import Link, LocalStore, Query, Size, Store, StoreProblem
from service.query_store_redis import RedisStore

SECRET = Fingerprinter(b"secret")
SPEC = Preprocessing(resize=(64, 64))
SIZE = Size(queries=5000, seconds=3600)
NOW = time.time()
Make = Callable[[Size], Store]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["local", "redis"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes an empty store of a size, of either kind in turn."""
    if request.param == "local":
        return LocalStore
    server: RedisServer = request.getfixturevalue("redis")

    def connect(size: Size) -> RedisStore:
        store = RedisStore(server.url, size, PATIENT)
        store._prefix += uuid4().hex  # an empty part of the shared server
        return store

    return connect


def chest(patient: int) -> np.ndarray:
    return radiograph(patient, 0, opacities=False, size=64)


def noisy(pixels: np.ndarray, seed: int, spread: float = 2.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, spread, pixels.shape)
    return np.clip(pixels + noise, 0, 255).round().astype(np.uint8)


def query(
    pixels: np.ndarray, label: int = 0, sender: int = 1, study: int = 0, known: bool = False
) -> Query:
    digest = str(hash(pixels.tobytes()))
    fingerprint = SECRET.of(pixels, digest, SPEC, "m")
    assert fingerprint is not None
    return Query(fingerprint, label, sender, study, known, uuid4().hex)


def ask(store: Store, queries: list[Query], now: float = NOW) -> list[Sight]:
    async def run() -> list[Sight]:
        found = [await store.observe(one, now) for one in queries]
        await store.close()
        return found

    return asyncio.run(run())


def test_different_patients_are_strangers(make: Make) -> None:
    seen = ask(make(SIZE), [query(chest(patient)) for patient in range(60)])
    assert {sight.kind for sight in seen} == {Kind.NEW}


def test_repeats_weigh_nothing(make: Make) -> None:
    one, other = chest(1), noisy(chest(1), 1, 0.6)
    seen = ask(make(SIZE), [query(one), *(query(x) for x in 100 * [other, one])])
    assert [sight.kind for sight in seen[:2]] == [Kind.NEW, Kind.SAME]
    assert {sight.kind for sight in seen[2:]} == {Kind.REPEAT}
    assert seen[-1].points == POINT
    assert seen[-1].queries == 2


def test_a_growing_sequence_raises_one_incident_whoever_asks(make: Make) -> None:
    source = chest(2)
    queries = [query(noisy(source, i), sender=i) for i in range(20)]
    seen = ask(make(SIZE), queries)
    assert [sight.first for sight in seen].index(True) == ALARM // POINT
    assert sum(sight.first for sight in seen) == 1
    incident = queries[ALARM // POINT].incident
    assert [sight.incident for sight in seen[8:]] == 12 * [incident]
    assert (seen[-1].queries, seen[-1].senders, seen[-1].flips) == (20, 20, 0)
    assert [sight.attack for sight in seen] == 8 * [False] + 12 * [True]


def test_a_changed_diagnosis_raises_it_sooner(make: Make) -> None:
    source = chest(3)
    labels = [0, 0, 0, 1]
    seen = ask(make(SIZE), [query(noisy(source, i, 8), label) for i, label in enumerate(labels)])
    assert [sight.flip for sight in seen] == [False, False, False, True]
    assert seen[-1].first


def test_flips_between_encodings_or_windows_of_a_picture_are_no_attack(make: Make) -> None:
    """Its diagnosis lies on the boundary, and a hospital sends it five times."""
    source = chest(4)
    encodings = [noisy(source, i, 0.3) for i in range(5)]
    seen = ask(make(SIZE), [query(one, label=i % 2) for i, one in enumerate(encodings)])
    assert {sight.kind for sight in seen[1:]} == {Kind.SAME}
    assert seen[-1].flips >= 2
    assert seen[-1].points == 4 * POINT
    windows = [
        np.clip((source.astype(float) - 128) * gain + 128, 0, 255).astype(np.uint8)
        for gain in (1, 1.1, 0.9, 1.2)
    ]
    windows.append(noisy(windows[-1], 1, 8))
    seen = ask(make(SIZE), [query(one, label=i % 2) for i, one in enumerate(windows)])
    assert {sight.kind for sight in seen} == {Kind.NEW, Kind.TONE, Kind.NEAR}
    assert seen[-1].flips >= 2
    assert seen[-1].points <= 4 * POINT


def test_a_hint_links_what_the_store_cannot_and_an_incident_goes_first(make: Make) -> None:
    async def run() -> list[Sight]:
        store = make(SIZE)
        attack = [query(noisy(chest(10), i)) for i in range(9)]
        seen = [await store.observe(one, NOW) for one in attack]
        root = seen[-1].cluster

        def hinted(patient: int, link: Link) -> Query:
            return replace(query(chest(patient)), hint=link)

        known = Link(root, Kind.NEAR, flip=True, relieved=False, sender=1, wanted=True)
        seen.append(await store.observe(hinted(11, known), NOW))
        stranger = await store.observe(query(chest(12)), NOW)
        near = noisy(chest(12), 1)
        seen.append(await store.observe(replace(query(near), hint=known), NOW))
        near = noisy(chest(12), 2)
        other = replace(known, cluster=seen[0].cluster, wanted=False)
        seen.append(await store.observe(replace(query(near), hint=other), NOW))
        toned = Link(stranger.cluster, Kind.TONE, flip=True, relieved=True, sender=5, wanted=False)
        seen.append(await store.observe(hinted(13, toned), NOW))
        await store.close()
        return [*seen, stranger]

    *seen, stranger = asyncio.run(run())
    root = seen[8].cluster
    assert [sight.cluster == root for sight in seen] == [*11 * [True], True, False]
    assert [sight.attack for sight in seen[8:]] == [True, True, True, True, False]
    assert seen[9].flip
    assert (seen[12].cluster, seen[12].senders) == (stranger.cluster, 2)
    assert seen[12].points == POINT // 2 // RELIEF


def test_a_window_of_the_same_picture_weighs_less(make: Make) -> None:
    source = chest(4).astype(float)
    windows = [np.clip((source - 128) * g + 128, 0, 255).astype(np.uint8) for g in (1, 1.1, 0.9)]
    seen = ask(make(SIZE), [query(pixels) for pixels in windows])
    assert [sight.kind for sight in seen] == [Kind.NEW, Kind.TONE, Kind.TONE]
    assert seen[-1].points == POINT


def test_a_series_and_a_known_sender_are_relieved(make: Make) -> None:
    frames = [noisy(chest(5), i) for i in range(50)]
    for store, given in ((make(SIZE), {"study": 9}), (make(SIZE), {"known": True})):
        seen = ask(store, [query(frame, **given) for frame in frames])
        assert seen[-1].points == 49 * POINT // RELIEF
        assert not any(sight.attack for sight in seen)
    # another study, and another sender, are strangers
    seen = ask(make(SIZE), [query(frame, study=i + 1) for i, frame in enumerate(frames)])
    assert seen[-1].attack
    seen = ask(make(SIZE), [query(f, sender=i + 1, known=True) for i, f in enumerate(frames)])
    assert seen[-1].attack


def test_after_the_alarm_old_answers_may_be_had_again_and_new_ones_may_not(make: Make) -> None:
    queries = [query(noisy(chest(6), i)) for i in range(12)]
    seen = ask(make(SIZE), [*queries, queries[0], queries[11]])
    assert [sight.kind for sight in seen[-2:]] == 2 * [Kind.REPEAT]
    assert not seen[-2].attack
    assert seen[-1].attack


def test_an_incident_that_was_not_recorded_is_raised_again(make: Make) -> None:
    async def run() -> tuple[Sight, Sight]:
        store = make(SIZE)
        queries = [query(noisy(chest(7), i)) for i in range(10)]
        for one in queries[:9]:
            sight = await store.observe(one, NOW)
        await store.withdraw(sight.cluster)
        again = await store.observe(queries[9], NOW)
        await store.close()
        return sight, again

    sight, again = asyncio.run(run())
    assert sight.first
    assert again.first
    assert again.incident != sight.incident


def test_what_is_too_old_is_forgotten(make: Make) -> None:
    async def run() -> list[Sight]:
        store = make(Size(queries=1000, seconds=60))
        seen = [await store.observe(query(chest(8)), NOW)]
        seen.append(await store.observe(query(noisy(chest(8), 1)), NOW + 59))
        seen.append(await store.observe(query(chest(8)), NOW + 61))
        seen.append(await store.observe(query(noisy(chest(8), 2)), NOW + 1000))
        await store.close()
        return seen

    kinds = [sight.kind for sight in asyncio.run(run())]
    assert kinds == [Kind.NEW, Kind.SAME, Kind.SAME, Kind.NEW]


def test_the_ring_is_overwritten(make: Make) -> None:
    small = Size(queries=16, seconds=3600)
    others = [query(chest(patient)) for patient in range(20, 50)]
    first = query(chest(9))
    seen = ask(make(small), [first, *others[:10], first, *others, first])
    assert seen[11].kind is Kind.REPEAT
    assert seen[-1].kind is Kind.NEW


def test_both_stores_say_the_same(redis: RedisServer) -> None:
    """A mixed stream of attacks, repeats, windows, series and strangers."""
    rng = np.random.default_rng(3)
    stream = []
    for i in range(250):
        patient = int(rng.integers(60, 90))
        pixels = chest(patient)
        if rng.random() < 0.7:
            pixels = noisy(pixels, int(rng.integers(20)), float(rng.choice([0.6, 3, 12])))
        if rng.random() < 0.2:
            pixels = np.clip((pixels.astype(float) - 100) * 1.15 + 110, 0, 255).astype(np.uint8)
        stream.append(
            query(
                pixels,
                label=int(rng.random() < 0.2),
                sender=int(rng.integers(1, 4)),
                study=int(rng.choice([0, 0, patient])),
                known=bool(i % 3 == 0),
            )
        )
    size = Size(queries=300, seconds=3600)
    shared = RedisStore(redis.url, size, PATIENT)
    shared._prefix += uuid4().hex
    local = ask(LocalStore(size), stream)
    assert ask(shared, stream) == local
    assert any(sight.attack for sight in local)
    assert {sight.kind for sight in local} == set(Kind)


def test_a_query_takes_at_most_512_bytes(redis: RedisServer) -> None:
    size = Size(queries=2**11, seconds=3600)
    assert size.memory / size.queries <= 256
    connection = redis_client.Redis.from_url(redis.url)
    connection.flushall()
    before = connection.info("memory")["used_memory"]
    rng = np.random.default_rng(4)

    def stranger() -> Query:
        bands = tuple(int(band) for band in rng.integers(2**32, size=BANDS))
        fingerprint = Fingerprint(rng.bytes(SKETCH), bands, 50.0, 100.0, rng.bytes(8))
        return Query(fingerprint, 0, 1, 0, False, uuid4().hex)

    ask(RedisStore(redis.url, size, PATIENT), [stranger() for _ in range(size.queries)])
    used = connection.info("memory")["used_memory"] - before
    assert used / size.queries <= 512


def test_a_lost_redis_is_a_sentence(tmp_path: Path) -> None:
    async def run() -> None:
        with redis_server(tmp_path) as server:
            store = RedisStore(server.url, SIZE, timeout=0.2)
            await store.observe(query(chest(1)), NOW)
            server.process.terminate()
            server.process.wait()
            with pytest.raises(StoreProblem, match="Redis"):
                await store.observe(query(chest(1)), NOW)
            with pytest.raises(StoreProblem, match="Redis"):
                await store.withdraw(1)
            await store.close()

    asyncio.run(run())
