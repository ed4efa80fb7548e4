"""Batching must never make one request pay for another's image."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from models.engine import Batch, Readings
from service.batcher import Batcher, EngineRefused, EngineUnavailable, Outcome
from service.guard import _batch_sizes
from service.settings import Settings

POISON = 13


class FakeEngine:
    """Answers the first pixel; breaks on a poisoned batch; can be held still or broken."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.going = threading.Event()
        self.going.set()
        self.entered = threading.Event()
        self.broken = False

    def run(self, images: Batch) -> Readings:
        self.entered.set()
        self.going.wait(5)
        self.batches.append(images.shape)
        first = images[:, 0, 0, 0]
        if self.broken or POISON in first:
            raise RuntimeError("the runtime fell over")
        values = first.astype(np.float32)
        column = values[:, None]
        return Readings(column, column, column, values, values)

    def warm_up(self) -> None:
        if self.broken:
            raise RuntimeError("still down")


def image(value: int, side: int = 4) -> np.ndarray:
    return np.full((side, side, 1), value, np.uint8)


@asynccontextmanager
async def batching(engine: FakeEngine, **given: object) -> AsyncIterator[Batcher]:
    options = {"batch_images": 8, "queue_images": 100, "queue_seconds": 5.0} | given
    batcher = Batcher(engine, **options)  # type: ignore[arg-type]  # by name
    batcher.start()
    assert await asyncio.to_thread(batcher.warmed)
    yield batcher
    engine.going.set()
    await asyncio.to_thread(batcher.close)


async def gathered(
    batcher: Batcher, engine: FakeEngine, images: list[np.ndarray]
) -> list[Outcome | BaseException]:
    """Read them all while the engine is busy with another one, so that they wait together."""
    engine.going.clear()
    engine.entered.clear()
    first = asyncio.create_task(batcher.read(image(1, side=2)))
    await asyncio.to_thread(engine.entered.wait, 5)
    tasks = [asyncio.create_task(batcher.read(pixels)) for pixels in images]
    await asyncio.sleep(0.02)
    engine.going.set()
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_only_the_poisoned_image_fails() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        async with batching(engine) as batcher:
            values = [20, 21, POISON, 23, 24]
            found = await gathered(batcher, engine, [image(v) for v in values])
            for value, outcome in zip(values, found, strict=True):
                if value == POISON:
                    assert isinstance(outcome, EngineRefused)
                else:
                    assert isinstance(outcome, Outcome)
                    assert outcome.readings.fused.tolist() == [value]

    asyncio.run(scenario())


def test_equal_shapes_run_together_and_an_idle_engine_does_not_wait() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        async with batching(engine) as batcher:
            sides = [4, 6, 4, 6, 4]
            found = await gathered(
                batcher, engine, [image(i, side) for i, side in enumerate(sides)]
            )
            fused = [o.readings.fused[0] for o in found if isinstance(o, Outcome)]
            assert fused == [0, 1, 2, 3, 4]
            assert engine.batches == [(1, 2, 2, 1), (3, 4, 4, 1), (2, 6, 6, 1)]
            alone = await batcher.read(image(5))
            assert alone.queued < 0.5
            assert alone.batch == 1

    asyncio.run(scenario())


def test_an_idle_engine_lets_what_is_being_decoded_catch_up_but_waits_for_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.batcher.GATHER_SECONDS", 30.0)

    async def scenario() -> None:
        engine = FakeEngine()
        async with batching(engine) as batcher:
            for _ in range(3):
                batcher.expect()
            loop = asyncio.get_running_loop()
            answers = [loop.create_future() for _ in range(2)]
            batcher.put(image(20), None, answers[0], expected=True)
            await asyncio.sleep(0.001)
            batcher.put(image(21), None, answers[1], expected=True)  # more wait than are expected
            outcomes = await asyncio.gather(*answers)
            assert [o.batch for o in outcomes] == [2, 2]
            alone = asyncio.create_task(batcher.read(image(22)))
            assert (await alone).batch == 1  # one waits, one is expected
            batcher.expect()
            waiting = asyncio.create_task(batcher.read(image(23)))
            await asyncio.sleep(0)
            batcher.nothing_to_expect()  # it was no image
            batcher.nothing_to_expect()
            assert (await waiting).queued < 30
            monkeypatch.setattr("service.batcher.GATHER_SECONDS", 0.01)
            for _ in range(8):
                batcher.expect()
            assert (await batcher.read(image(24))).batch == 1  # they never come

    asyncio.run(scenario())


def test_an_engine_that_takes_its_time_for_an_image_does_not_wait_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.batcher.GATHER_SECONDS", 30.0)
    monkeypatch.setattr("service.batcher.COMPANY_SECONDS", 0.0)  # any run is longer

    async def scenario() -> None:
        async with batching(FakeEngine()) as batcher:
            await batcher.read(image(20))
            for _ in range(8):
                batcher.expect()
            assert (await batcher.read(image(21))).queued < 5

    asyncio.run(scenario())


def test_runs_at_once_do_not_wait_for_one_another() -> None:
    class Together(FakeEngine):
        inside = threading.Barrier(2, timeout=5)

        def run(self, images: Batch) -> Readings:
            self.inside.wait()
            return super().run(images)

    async def scenario() -> None:
        async with batching(Together(), runs=2, batch_images=1) as batcher:
            found = await asyncio.gather(*(batcher.read(image(20 + i)) for i in range(4)))
            assert [o.readings.fused[0] for o in found] == [20, 21, 22, 23]

    asyncio.run(scenario())


def test_a_batch_is_filled_up_to_a_size_that_the_engine_knows() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        async with batching(engine, sizes=(1, 2, 4, 8)) as batcher:
            found = await gathered(batcher, engine, [image(20 + i) for i in range(3)])
            assert [o.readings.fused.tolist() for o in found if isinstance(o, Outcome)] == [
                [20], [21], [22],
            ]  # fmt: skip
            assert {o.batch for o in found if isinstance(o, Outcome)} == {3}
            assert [shape[0] for shape in engine.batches] == [1, 4]

    asyncio.run(scenario())


def test_engines_that_prepare_themselves_for_a_size_are_given_few() -> None:
    def sizes(provider: str, most: int) -> tuple[int, ...]:
        return _batch_sizes(Settings(provider=provider, batch_images=most))

    assert sizes("cuda", 32) == (1, 4, 16, 32)
    assert sizes("cuda", 64) == (1, 4, 16, 64)
    assert sizes("tensorrt", 6) == (1, 2, 4, 6)
    assert sizes("cuda", 1) == (1,)
    assert sizes("cpu", 32) == ()


def test_a_full_queue_refuses_at_once() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        async with batching(engine, queue_images=2, batch_images=1) as batcher:
            found = await gathered(batcher, engine, [image(i) for i in range(4)])
            assert [type(o) for o in found] == [
                Outcome, Outcome, EngineUnavailable, EngineUnavailable,
            ]  # fmt: skip

    asyncio.run(scenario())


def test_a_broken_engine_blames_no_image_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.batcher.RECOVERY_SECONDS", 0.02)

    async def scenario() -> None:
        engine = FakeEngine()
        async with batching(engine) as batcher:
            engine.broken = True
            with pytest.raises(EngineUnavailable):
                await batcher.read(image(1))
            assert not batcher.ready
            engine.broken = False
            for _ in range(100):
                if batcher.ready:
                    break
                await asyncio.sleep(0.02)
            assert (await batcher.read(image(2))).readings.fused.tolist() == [2]

    asyncio.run(scenario())


def test_closing_answers_what_waits() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        async with batching(engine, batch_images=1) as batcher:
            engine.going.clear()
            tasks = [asyncio.create_task(batcher.read(image(i))) for i in range(5)]
            await asyncio.sleep(0.02)
            closing = asyncio.create_task(asyncio.to_thread(batcher.close))
            await asyncio.sleep(0.02)
            engine.going.set()
            await closing
            outcomes = await asyncio.gather(*tasks)
            assert [o.readings.fused[0] for o in outcomes] == [0, 1, 2, 3, 4]

    asyncio.run(scenario())
