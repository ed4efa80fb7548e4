"""The service notices that its traffic is not what it was calibrated on, and says what to do."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from conftest import serving
from tiny_bundle import encode

from detectors.bundle import Bundle
from service.drift import ADVICE, DriftWatch, chances
from service.drift_records import DriftRecords
from service.guard import Guards, open_guards
from service.metrics import Metrics
from service.metrics import catalogue as c
from service.metrics import labels as by
from service.records import Record, Records
from service.settings import AlphaOverrides, PolicyOverrides, Settings

PNG = {"Content-Type": "image/png"}


class Silent:
    """An engine that is never asked."""

    def run(self, images: object) -> object: ...

    def warm_up(self) -> None: ...


@pytest.fixture
def guards(settings: Settings) -> Guards:
    return open_guards(settings, lambda graph, chosen: Silent())


@pytest.fixture
def records(database: str) -> Iterator[Records]:
    opened = Records(database)
    opened.open()
    opened.start()
    yield opened
    opened.close()


def watch(guards: Guards, records: Records, metrics: Metrics | None = None) -> DriftWatch:
    metrics = metrics or Metrics()
    metrics.allow(by.MODEL, ["tiny"])
    metrics.allow(by.SOURCE, ["ward", "clinic"])
    watching = DriftWatch(
        guards, DriftRecords(records.engine), metrics, 0.001, settle=timedelta(seconds=-60)
    )
    watching.begin()
    return watching


def write(
    records: Records, bundle: Bundle, client: str, scores: Sequence[float], prefix: str = "r"
) -> None:
    async def all_of_them() -> None:
        for i, score in enumerate(scores):
            await records.write(
                Record(
                    f"{prefix}{client}{i}", client, 200, model="tiny", bundle=bundle.digest,
                    verdict="accept", label="dark", fused_score=float(np.float32(score)),
                    pixels=f"sha256:{prefix}{client}{i:030d}",
                )
            )  # fmt: skip

    asyncio.run(all_of_them())


def drifted(metrics: Metrics, source: str) -> float:
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.name == c.DRIFT.name and sample.labels["source"] == source:
                return sample.value
    raise AssertionError(f"nothing is said of {source}")


def benign(images: int, seed: int = 0) -> np.ndarray:
    """Scores like the tiny bundle's calibration: uniform up to 0.5."""
    return np.random.default_rng(seed).uniform(0, 0.495, images)


def test_only_the_source_that_drifts_is_told(guards: Guards, records: Records) -> None:
    metrics = Metrics()
    watching = watch(guards, records, metrics)
    bundle = guards.all[0].bundle
    write(records, bundle, "clinic", benign(150))
    write(records, bundle, "ward", 0.3 + 0.4 * benign(150, 1))
    watching.advance()
    assert (drifted(metrics, "ward"), drifted(metrics, "clinic")) == (1, 0)
    clinic, ward = sorted(watching.state(), key=lambda one: one.source)
    assert ward.drifted_at is not None
    assert ward.advice == ADVICE
    assert ward.mean_p < 0.4
    assert (clinic.drifted_at, clinic.advice, clinic.images) == (None, None, 150)


def test_the_tests_survive_a_restart_and_are_shared(guards: Guards, records: Records) -> None:
    first, metrics = watch(guards, records), Metrics()
    scores = 0.3 + 0.4 * benign(150, 1)
    write(records, guards.all[0].bundle, "ward", scores[:75], "a")
    first.advance()
    before = first.state()
    second = watch(guards, records, metrics)
    assert second.state() == before
    write(records, guards.all[0].bundle, "ward", scores[75:], "b")
    second.advance()
    first.advance()
    assert first.state() == second.state()
    assert first.state()[0].drifted_at is not None
    assert drifted(metrics, "ward") == 1


def test_two_processes_count_an_image_once(guards: Guards, records: Records) -> None:
    first, second = watch(guards, records), watch(guards, records)
    write(records, guards.all[0].bundle, "ward", benign(20))
    for watching in (first, second, first):
        watching.advance()
    assert [one.images for one in first.state()] == [20]
    lost = DriftRecords(records.engine).advance("nobody's", 0, 1, [])
    assert lost is False


def test_an_image_sent_again_counts_once(guards: Guards, records: Records) -> None:
    watching = watch(guards, records)
    for _ in range(10):
        write(records, guards.all[0].bundle, "ward", [0.49])
    watching.advance()
    assert [one.images for one in watching.state()] == [1]


def test_other_levels_begin_another_test(settings: Settings, records: Records) -> None:
    first = open_guards(settings, lambda graph, chosen: Silent())
    write(records, first.all[0].bundle, "ward", benign(30), "early")
    watching = watch(first, records)
    watching.advance()
    assert watching.state() == []  # it begins where the records end
    write(records, first.all[0].bundle, "ward", benign(30))
    watching.advance()
    chosen = PolicyOverrides(alphas=AlphaOverrides(flag=0.3))
    other = open_guards(
        settings.model_copy(update={"policies": {"tiny": chosen}}), lambda graph, _: Silent()
    )
    metrics = Metrics()
    metrics.allow(by.SOURCE, ["ward"])
    assert [one.images for one in watching.state()] == [30]
    assert watch(other, records, metrics).state() == []


def test_chances_look_random_and_repeat() -> None:
    found = np.array([chances("basis", f"request-{i}") for i in range(4000)])
    assert found.mean(axis=0) == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.05
    assert chances("basis", "x") == chances("basis", "x") != chances("other", "x")


def test_a_scanner_change_is_told_by_the_running_service(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(5)
    quick = settings.model_copy(update={"drift_seconds": 0.2})
    with serving(quick) as client:
        for gray in rng.integers(80, 126, 70):
            pixels = np.full((32, 32), gray, np.uint8)
            pixels[1, 1:3] = rng.integers(1, 120, 2)
            client.post("/diagnose", content=encode(pixels), headers=PNG)
        wanted = 'lazaret_drift{model="tiny",source="anonymous"} 1.0'
        until = time.monotonic() + 20
        while wanted not in client.get("/metrics").text:
            assert time.monotonic() < until, client.get("/drift").text
            time.sleep(0.2)
        (told,) = client.get("/drift").json()
        assert told["advice"] == ADVICE
        opened = 'lazaret_incidents_open{kind="calibration_drift"} 1.0'
        while opened not in (text := client.get("/metrics").text):
            assert time.monotonic() < until
            time.sleep(0.1)
        assert 'lazaret_incidents_total{kind="calibration_drift"} 1.0' in text


@pytest.fixture(scope="module")
def phantoms() -> np.ndarray:
    """Images of patients that the phantom's guard has never met."""
    from models.phantom import radiograph

    return np.stack(
        [radiograph(88_000_000 + i, 0, opacities=bool(i % 2), size=128) for i in range(160)]
    )


@pytest.mark.parametrize("scenario", ["nothing", "scanner change", "new site", "slow gain drift"])
def test_scenarios_on_the_phantom(scenario: str, phantoms: np.ndarray) -> None:
    from attacks.corruptions import corrupt
    from detectors.drift import DriftTest
    from models.onnx_engine import OnnxEngine
    from service.drift import gaps_of

    bundle = Path(__file__).parents[2] / "models/zoo/phantom/bundle"
    guard = open_guards(Settings(bundles=(bundle,)), lambda graph, _: Silent()).all[0]
    images = phantoms.copy()
    for i, pixels in enumerate(images):
        match scenario:
            case "scanner change" if i >= 60:
                images[i] = corrupt("contrast_down", pixels, 4, i)
            case "new site":
                seen = corrupt("contrast_down", corrupt("defocus_blur", pixels, 2, i), 2, i)
                images[i] = corrupt("collimation", seen, 2, i)
            case "slow gain drift":
                gain = 1 - 0.9 * i / len(images)
                images[i] = np.round(pixels * gain).astype(np.uint8)
    readings = OnnxEngine(guard.bundle.graph).run(images)
    test, gaps = DriftTest(), gaps_of(guard)
    for i, p in enumerate(guard.bundle.calibration.p_values(readings)):
        tie, place = chances("basis", str(i))
        test.see(p.predicted, gaps[p.predicted], float(readings.fused[i]), tie, place)
    assert (test.drifted_after is not None) == (scenario != "nothing")
