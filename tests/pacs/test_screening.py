"""What waits in the spool is judged, recorded and sent, each once, whatever it is."""

import asyncio
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from sqlalchemy import func, select
from test_emitted_objects import CR, SC_MULTI, file_of, image

from models.imaging import Limits
from service.admission import Admission
from service.auth import Auth
from service.gateway import Gateway
from service.guard import onnx_engine, open_guards
from service.metrics import GatewayMetrics, Metrics
from service.pacs.part10 import take_apart
from service.pacs.received import Protocol, Received
from service.pacs.routes import RouteTable
from service.pacs.screening import Screening
from service.pacs.spool import Spool
from service.pacs.spool_entry import Entry
from service.records import Records
from service.settings import Settings, SettingsProblem
from service.tables import cases, instances, outbox, requests
from service.trace_context import TraceContext
from service.tracing import Span

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "models" / "zoo" / "phantom"
CLEAN, ATTACKED = ZOO / "demo" / "clean-2.dcm", ZOO / "demo" / "attacked-2.dcm"
RECEIVED = Received(
    protocol=Protocol.DIMSE,
    calling="ROOM1",
    called="LAZARET",
    address="127.0.0.1",
    association="a1",
    at=datetime(2026, 3, 1, tzinfo=UTC),
    transfer_syntax="1.2.840.10008.1.2.1",
    sop_class=CR,
    sop_instance="1.2.3.4",
)
TABLE = {
    "peers": {
        "archive": {"kind": "dimse", "ae_title": "A", "host": "127.0.0.1", "port": 1},
        "vna": {"kind": "dicomweb", "url": "http://127.0.0.1:1"},
    },
    "default": {"destinations": ["archive"]},
}


def put(spool: Spool, file: bytes) -> Entry:
    parts = take_apart(file)
    received = replace(
        RECEIVED,
        transfer_syntax=parts.transfer_syntax,
        sop_class=parts.sop_class,
        sop_instance=parts.sop_instance,
    )
    return spool.add(parts.dataset, received).entry


def frames(*brightness: int, **given: object) -> bytes:
    """A multi-frame image; the tiny bundle judges by mean brightness."""
    ds = pydicom.dcmread(io.BytesIO(image(SC_MULTI, NumberOfFrames=len(brightness), **given)))
    pixels = np.zeros((len(brightness), 64, 48), np.uint8)
    for i, value in enumerate(brightness):
        pixels[i] = value
        pixels[i, 0, 0] = value + 1  # a blank image is refused
    ds.PixelData = pixels.tobytes()
    return file_of(ds)


@dataclass
class Site:
    spool: Spool
    gateway: Gateway
    metrics: Metrics

    def screen(self, table: dict[str, Any] = TABLE, **given: Any) -> None:
        """Until nothing waits."""

        async def scenario() -> None:
            routes = RouteTable.model_validate(table)
            screening = Screening(self.spool, self.gateway, routes, **given)
            task = asyncio.create_task(screening.run())
            until = asyncio.get_running_loop().time() + 60
            while list(self.spool.waiting()):
                assert asyncio.get_running_loop().time() < until
                await asyncio.sleep(0.02)
            screening.close()
            await task

        asyncio.run(scenario())

    def rows(self, table: Any) -> list[dict[str, Any]]:
        with self.gateway.records.engine.connect() as connection:
            return [dict(row) for row in connection.execute(select(table)).mappings()]

    def sent(self) -> list[tuple[str, str]]:
        return [(row["destination"], row["object"]) for row in self.rows(outbox)]


@contextmanager
def site(bundle: Path, tmp_path: Path, database: str) -> Iterator[Site]:
    settings = Settings(bundles=(bundle,), database=database)
    records = Records(database)
    records.open()
    records.start()
    guards = open_guards(settings, onnx_engine)
    metrics = Metrics()
    admission = Admission(8, 2**30)
    told = GatewayMetrics(metrics, admission)
    for guard in guards.all:
        told.serves(guard)
        guard.batcher.start()
        guard.batcher.warmed()
    decoders = ThreadPoolExecutor(2)
    gateway = Gateway(
        guards=guards, auth=Auth({}, "127.0.0.1", "loopback"), admission=admission,
        records=records, metrics=told, limits=Limits(), request_images=1, request_bytes=1,
        body_seconds=1, decoders=decoders, history=None, response="flag",
    )  # fmt: skip
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    try:
        yield Site(spool, gateway, metrics)
    finally:
        for guard in guards.all:
            guard.batcher.close()
        decoders.shutdown()
        records.close()
        spool.close()


@pytest.fixture
def tiny(bundle: Path, tmp_path: Path) -> Iterator[Site]:
    with site(bundle, tmp_path, f"sqlite:///{tmp_path}/r.sqlite3") as found:
        yield found


def test_a_clean_and_an_attacked_phantom_are_judged_recorded_and_told(
    tmp_path: Path, database: str
) -> None:
    with site(ZOO / "bundle", tmp_path, database) as found:
        for path in (CLEAN, ATTACKED):
            put(found.spool, path.read_bytes())
        found.screen()
        assert [row["verdict"] for row in found.rows(requests)] in (
            ["accept", "reject"],
            ["reject", "accept"],
        )
        (case,) = found.rows(cases)
        assert pydicom.dcmread(io.BytesIO(case["image"])).Rows == 128
        assert case["evidence"]["pacs_route"] == "default"
        assert sorted(found.sent()) == sorted(
            [("archive", kind) for kind in ("sr", "sr", "gsps", "kos")]
        )
        assert len(found.rows(instances)) == 2
        assert found.spool.held().waiting == found.spool.held().aside == 0


def test_an_instance_that_is_on_record_is_not_judged_again(tiny: Site) -> None:
    """As after a kill between the commit and the spool's own note."""
    forgotten = tiny.spool.done
    tiny.spool.done = lambda *_: None  # type: ignore[method-assign]  # the fault
    put(tiny.spool, frames(200))

    async def until_recorded() -> None:
        screening = Screening(tiny.spool, tiny.gateway, RouteTable.model_validate(TABLE))
        task = asyncio.create_task(screening.run())
        while not tiny.rows(requests):
            await asyncio.sleep(0.02)
        screening.close()
        await task

    asyncio.run(until_recorded())
    tiny.spool.done = forgotten  # type: ignore[method-assign]  # the fault
    before = tiny.sent()
    tiny.screen()
    assert tiny.sent() == before
    assert len(tiny.rows(requests)) == len(tiny.rows(instances)) == 1


def test_two_processes_on_one_spool_record_once(tiny: Site) -> None:
    put(tiny.spool, frames(200))

    async def both() -> None:
        table = RouteTable.model_validate(TABLE)
        screenings = [Screening(tiny.spool, tiny.gateway, table) for _ in range(2)]
        tasks = [asyncio.create_task(screening.run()) for screening in screenings]
        while list(tiny.spool.waiting()):
            await asyncio.sleep(0.02)
        for screening, task in zip(screenings, tasks, strict=True):
            screening.close()
            await task

    asyncio.run(both())
    assert len(tiny.rows(requests)) == 1
    assert sorted(kind for _, kind in tiny.sent()) == ["gsps", "kos", "sr"]


def test_the_gravest_frame_decides_and_the_case_names_the_held_ones(tiny: Site) -> None:
    put(tiny.spool, frames(100, 200, 100, 127))
    tiny.screen()
    (row,) = tiny.rows(requests)
    assert row["verdict"] == "reject"
    (case,) = tiny.rows(cases)
    assert case["evidence"]["frames"] == 4
    held = {f["frame"]: f["verdict"] for f in case["evidence"]["held_frames"]}
    assert held[2] == "reject"
    assert 1 not in held


@pytest.mark.parametrize(
    ("original", "brightness", "forwarded"),
    [
        ("forward", 100, True),
        ("forward", 200, True),
        ("withhold-rejected", 100, True),
        ("withhold-rejected", 200, False),
        ("judge-only", 100, False),
    ],
)
def test_originals_go_where_the_route_says(
    tiny: Site, original: str, brightness: int, forwarded: bool
) -> None:
    default = {"destinations": ["archive", "vna"], "original": original}
    file = frames(brightness)
    put(tiny.spool, file)
    tiny.screen({**TABLE, "default": default})
    images = [row for row in tiny.rows(outbox) if row["object"] == "image"]
    assert [row["destination"] for row in images] == (["archive", "vna"] if forwarded else [])
    for row in images:
        assert bytes(take_apart(row["content"]).dataset) == bytes(take_apart(file).dataset)


def report_without_pixels() -> bytes:
    ds = pydicom.dcmread(io.BytesIO(image("1.2.840.10008.5.1.4.1.1.88.11", Modality="SR")))
    del ds.PixelData
    return file_of(ds)


@pytest.mark.parametrize(
    ("file", "unjudged", "forwarded", "case"),
    [
        (report_without_pixels(), "forward", True, False),
        (report_without_pixels(), "hold", True, False),
        (image(), "forward", True, False),  # blank: it cannot be judged
        (image(), "hold", False, True),
    ],
)
def test_what_cannot_be_judged_is_passed_on_or_held_and_counted(
    tiny: Site, file: bytes, unjudged: str, forwarded: bool, case: bool
) -> None:
    default = {"destinations": ["archive"], "original": "forward", "unjudged": unjudged}
    put(tiny.spool, file)
    tiny.screen({**TABLE, "default": default})
    assert tiny.sent() == ([("archive", "image")] if forwarded else [])
    assert [row["route"] for row in tiny.rows(cases)] == (["malformed"] if case else [])
    (row,) = tiny.rows(requests)
    assert row["status"] in (415, 422)
    counted = tiny.metrics.registry.get_sample_value(
        "lazaret_requests_total", {"interface": "dicom", "outcome": "refused"}
    )
    assert counted == 1
    assert tiny.spool.held().waiting == tiny.spool.held().aside == 0


def test_an_instance_without_a_study_gets_a_verdict_and_no_object(tiny: Site) -> None:
    put(tiny.spool, frames(200, StudyInstanceUID=None))
    tiny.screen()
    assert [row["verdict"] for row in tiny.rows(requests)] == ["reject"]
    assert tiny.sent() == []


def test_a_route_chooses_policy_and_objects(tiny: Site) -> None:
    ct = {
        "name": "ct",
        "match": {"modality": ["CT"], "calling_ae": ["room1"]},
        "destinations": ["vna"],
        "policy": {"alphas": {"flag": 0.5, "reject": 0.0011}},
        "emit": {"flag": ["sc"]},
    }
    put(tiny.spool, frames(100, Modality="CT", SOPInstanceUID="1.2.3.5"))
    tiny.screen({**TABLE, "routes": [ct]})
    assert [row["verdict"] for row in tiny.rows(requests)] == ["flag"]
    assert tiny.sent() == [("vna", "sc")]


def test_a_route_to_a_model_that_is_not_loaded_is_a_sentence(tiny: Site) -> None:
    table = RouteTable.model_validate({"default": {"model": "elsewhere"}})
    with pytest.raises(SettingsProblem, match=r"route default needs .* tiny"):
        Screening(tiny.spool, tiny.gateway, table)


class Kept:
    """Spans, here."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def wanted(self, _: TraceContext) -> bool:
        return True

    def send(self, span: Span) -> None:
        self.spans.append(span)

    def close(self) -> None: ...


def test_a_screened_instance_is_traced_to_its_record(tiny: Site) -> None:
    kept = Kept()
    tiny.gateway = replace(tiny.gateway, spans=kept)
    put(tiny.spool, frames(100))
    tiny.screen()
    whole = next(span for span in kept.spans if span.name == "diagnosis")
    assert dict(whole.attributes)["lazaret.interface"] == "dicom"
    stages = [span.name for span in kept.spans if span.parent_id == whole.span_id]
    assert set(stages) >= {"decode", "queue", "infer", "decide", "record"}
    assert len({span.trace_id for span in kept.spans}) == 1


def test_an_object_that_cannot_be_built_is_told_of(
    tiny: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a library's")

    monkeypatch.setattr("service.pacs.objects.key_object", fails)
    lost: list[str] = []
    put(tiny.spool, frames(200))
    tiny.screen(failed=lost.append)
    assert lost == ["kos"]
    assert sorted(kind for _, kind in tiny.sent()) == ["gsps", "sr"]
    put(tiny.spool, frames(200, StudyInstanceUID=None, SOPInstanceUID="1.2.3.5"))
    tiny.screen(failed=lost.append)
    assert lost == ["kos", "sr", "gsps", "kos"]
    assert [row["verdict"] for row in tiny.rows(requests)] == 2 * ["reject"]


def test_a_damaged_file_in_the_spool_is_set_aside_and_the_rest_goes_on(tiny: Site) -> None:
    bad = put(tiny.spool, frames(100))
    bad.path.write_bytes(b"rot")
    put(tiny.spool, frames(101, SOPInstanceUID="1.2.3.5"))
    tiny.screen()
    assert [entry.reason for entry in tiny.spool.set_aside_entries()] == ["damaged"]
    with tiny.gateway.records.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(requests)) == 1
