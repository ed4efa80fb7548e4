"""A caller that has given up must cost nothing more, and must be told where the time went."""

import asyncio
import time

import numpy as np
import pytest
from conftest import serving
from fastapi.testclient import TestClient
from test_batcher import FakeEngine, batching, image
from test_diagnose_api import assert_problem
from tiny_bundle import ACCEPTED, flat

from models.engine import Batch, Readings
from service.batcher import EngineLate, Outcome
from service.guard import onnx_engine
from service.question import Question
from service.settings import Settings

IMAGE = {"content": flat(ACCEPTED)}


class SlowEngine:
    """Takes a fifth of a second."""

    def __init__(self, graph: bytes, settings: Settings) -> None:
        self._engine = onnx_engine(graph, settings)
        self.runs = 0

    def run(self, images: Batch) -> Readings:
        self.runs += 1
        time.sleep(0.2)
        return self._engine.run(images)

    def warm_up(self) -> None:
        self._engine.warm_up()


def test_a_passed_deadline_names_the_stage(settings: Settings) -> None:
    with serving(settings, load_engine=SlowEngine) as client:
        late = client.post("/diagnose", headers={"X-Request-Timeout": "0.1"}, **IMAGE)
        assert_problem(late, 504)
        assert "running the model" in late.json()["detail"]
        later = client.post("/diagnose", headers={"X-Request-Timeout": "1e-6"}, **IMAGE)
        assert_problem(later, 504)
        assert client.post("/diagnose", headers={"X-Request-Timeout": "5"}, **IMAGE).is_success


def test_an_image_that_comes_while_the_service_closes_is_to_ask_again(settings: Settings) -> None:
    with serving(settings) as client:
        assert client.post("/diagnose", **IMAGE).is_success
    late = client.post("/diagnose", **IMAGE)  # its threads and engine have gone
    assert_problem(late, 503)
    assert "closing" in late.json()["detail"]
    assert int(late.headers["Retry-After"]) > 0


@pytest.mark.parametrize("header", ["", "soon", "0", "-1", "nan", "inf", "1e9", "1" * 99])
def test_a_timeout_that_is_no_time_is_refused(client: TestClient, header: str) -> None:
    assert_problem(client.post("/diagnose", headers={"X-Request-Timeout": header}, **IMAGE), 400)


def test_an_image_whose_caller_has_gone_is_not_run() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        async with batching(engine) as batcher:
            engine.going.clear()
            busy = asyncio.create_task(batcher.read(image(1)))
            await asyncio.to_thread(engine.entered.wait, 5)
            soon = time.perf_counter() + 0.02
            late = asyncio.create_task(batcher.read(image(2, side=6), soon))
            patient = asyncio.create_task(batcher.read(image(3, side=6), soon + 60))
            await asyncio.sleep(0.05)
            engine.going.set()
            assert isinstance(await busy, Outcome)
            with pytest.raises(EngineLate):
                await late
            assert np.array_equal((await patient).readings.fused, [3])
            assert engine.batches[1:] == [(1, 6, 6, 1)]

    asyncio.run(scenario())


def test_the_earlier_deadline_counts_and_parts_keep_ids_short() -> None:
    question = Question("r", "anyone", started=10.0)
    assert question.within(None).deadline is None
    assert question.within(5).within(9).deadline == 15
    assert question.within(5).within(2).deadline == 12
    assert question.part(3).request_id == "r.3"
    assert len(Question("r" * 128, "anyone", 0.0).part(3).request_id) <= 128
