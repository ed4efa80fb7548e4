"""An attack over DICOM is one attack; what hospitals send as a matter of course is none."""

import io
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from served_node import ServedNode, served_node
from servers.dcmtk import dcmtk
from sqlalchemy import select
from test_end_to_end_pacs import wait_for
from test_screening import RECEIVED, Site, put, site

from detectors.query_sequence import ALARM, POINT
from models.imaging.encode import dicom
from models.phantom import radiograph
from service.metrics import Metrics
from service.pacs.coding import REASONS
from service.pacs.part10 import take_apart
from service.pacs.queries import SERIES_LINKS
from service.query_history import QueryHistory
from service.query_store import Size
from service.tables import cases, outbox, requests

TOLERATED = ALARM // POINT
TABLE = {
    "peers": {"archive": {"kind": "dimse", "ae_title": "A", "host": "127.0.0.1", "port": 1}},
    "default": {"destinations": ["archive"]},
}


def question(i: int, patient: int = 1) -> np.ndarray:
    """The i-th of many noisy copies of a chest, which the tiny model accepts."""
    pixels = radiograph(patient, 0, opacities=False, size=64).astype(float) * 0.7
    noise = np.random.default_rng(i).normal(0, 2, pixels.shape)
    asked = np.clip(pixels + noise, 0, 255).round().astype(np.uint8)
    asked[0, 0] = 0  # decides the tiny model's class
    return asked


def file(i: int, **attributes: Any) -> bytes:
    ds = pydicom.dcmread(io.BytesIO(dicom(question(i))))
    given = {"SOPInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()} | attributes
    for name, value in given.items():
        setattr(ds, name, value)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    out = io.BytesIO()
    ds.save_as(out)
    return out.getvalue()


def attack(count: int) -> list[bytes]:
    """Every question under a study of its own, so that nothing is excused."""
    return [file(i, StudyInstanceUID=generate_uid()) for i in range(count)]


def cine(frames: int) -> bytes:
    ds = pydicom.dcmread(io.BytesIO(file(0)))
    ds.NumberOfFrames = frames
    ds.PixelData = b"".join(question(i).tobytes() for i in range(frames))
    out = io.BytesIO()
    ds.save_as(out)
    return out.getvalue()


def routes_on_record(database: Path) -> Counter[str | None]:
    with sqlite3.connect(database) as connection:
        return Counter(route for (route,) in connection.execute("SELECT route FROM requests"))


def send(node: ServedNode, folder: Path, files: list[bytes], title: str = "ROOM1") -> None:
    folder.mkdir()
    paths = [folder / f"{i:03d}.dcm" for i in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    sent = dcmtk("storescu", "-aet", title, "-aec", "LAZARET", "127.0.0.1", node.port, *paths)
    assert sent.returncode == 0, sent.stdout


def test_through_the_real_door(bundle: Path, tmp_path: Path) -> None:
    database = tmp_path / "records.sqlite3"
    with served_node(tmp_path, {}, bundle=bundle) as node:
        study, series = generate_uid(), generate_uid()
        ordinary = [
            *(file(100 + i, StudyInstanceUID=study, SeriesInstanceUID=series) for i in range(40)),
            *(file(200 + i, StudyInstanceUID=study) for i in range(4)),  # other reconstructions
            cine(40),
        ]
        send(node, tmp_path / "ordinary", ordinary)
        send(node, tmp_path / "again", ordinary[:10])  # archives do send a study twice
        wait_for(lambda: routes_on_record(database).total() == len(ordinary))
        assert routes_on_record(database) == {None: len(ordinary)}
        page = httpx.get(f"{node.url}/metrics").text
        assert 'lazaret_incidents_total{kind="query_attack"} 0.0' in page

    with served_node(tmp_path, {}, bundle=bundle) as node:  # with an empty history
        before = routes_on_record(database).total()
        # split over two peers, one attack all the same
        send(node, tmp_path / "half", attack(TOLERATED + 4)[: TOLERATED - 2])
        send(node, tmp_path / "rest", attack(TOLERATED + 4)[TOLERATED - 2 :], "ROOM2")
        wait_for(lambda: routes_on_record(database).total() == before + TOLERATED + 4)
        assert routes_on_record(database)["query_attack"] == 4
        (case,) = httpx.get(f"{node.url}/cases").json()
        assert case["route"] == "query_attack"
        assert case["evidence"]["queries"]["senders"] == 2
        page = httpx.get(f"{node.url}/metrics").text
        assert 'lazaret_incidents_total{kind="query_attack"} 1.0' in page


@pytest.fixture
def tiny(bundle: Path, tmp_path: Path) -> Iterator[Site]:
    with site(bundle, tmp_path, f"sqlite:///{tmp_path}/r.sqlite3") as found:
        yield found


def watched(found: Site, response: str, history: QueryHistory | None = None) -> QueryHistory:
    history = history or QueryHistory(b"s" * 32, Size(1000, 3600), Metrics())
    found.gateway = with_fields(found.gateway, history=history, response=response)
    return history


@pytest.mark.parametrize(
    ("response", "verdict"), [("flag", "flag"), ("reject", "reject"), ("throttle", "reject")]
)
def test_what_the_archive_is_told(tiny: Site, response: str, verdict: str) -> None:
    watched(tiny, response)
    for data in attack(TOLERATED + 3):
        put(tiny.spool, data)
        tiny.screen(TABLE)
    held = [row for row in tiny.rows(requests) if row["route"] == "query_attack"]
    assert [row["verdict"] for row in held] == 3 * [verdict]
    (case,) = tiny.rows(cases)
    assert {row["case_id"] for row in held} == {case["case_id"]}
    assert case["evidence"]["pacs_route"] == "default"
    kinds = Counter(kind for _, kind in tiny.sent())
    assert kinds == {"sr": TOLERATED + 3, "gsps": 3, "kos": 3}
    reports = [row["content"] for row in tiny.rows(outbox) if row["object"] == "sr"]
    told = [REASONS["query_attack"].value.encode() in content for content in reports]
    assert told == TOLERATED * [False] + 3 * [True]


def test_silence_tells_the_archive_nothing(tiny: Site) -> None:
    watched(tiny, "silent")
    for data in attack(TOLERATED + 3):
        put(tiny.spool, data)
        tiny.screen(TABLE)
    assert Counter(kind for _, kind in tiny.sent()) == {"sr": TOLERATED + 3}
    assert sum(row["route"] == "query_attack" for row in tiny.rows(requests)) == 3
    assert len(tiny.rows(cases)) == 1


def test_many_slices_of_one_series_are_not_an_attack(tiny: Site) -> None:
    watched(tiny, "flag")
    for series in range(4):
        same = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": f"1.2.3.{series}"}
        for i in range(SERIES_LINKS + 4):
            data = file(1000 * series + i, **same)
            parts = take_apart(data)
            came = with_fields(
                RECEIVED, series=same["SeriesInstanceUID"], study="1.2.3",
                sop_instance=parts.sop_instance, sop_class=parts.sop_class,
                transfer_syntax=parts.transfer_syntax,
            )  # fmt: skip
            tiny.spool.add(parts.dataset, came)
    tiny.screen(TABLE)
    assert {row["route"] for row in tiny.rows(requests)} == {None}


def test_an_incident_whose_case_was_lost_gets_one(tiny: Site) -> None:
    """As after a kill between the look at a shared history and the record."""
    history = watched(tiny, "flag")
    files = attack(TOLERATED + 4)
    for data in files[: TOLERATED + 2]:
        put(tiny.spool, data)
    tiny.screen(TABLE)
    with tiny.gateway.records.engine.begin() as connection:
        connection.execute(cases.delete())
    watched(tiny, "flag", history)
    for data in files[TOLERATED + 2 :]:
        put(tiny.spool, data)
    tiny.screen(TABLE)  # another screening: it has raised nothing itself
    (case,) = tiny.rows(cases)
    with tiny.gateway.records.engine.connect() as connection:
        query = select(requests.c.case_id).where(requests.c.route == "query_attack")
        assert set(connection.scalars(query)) == {case["case_id"]}
        assert len(tiny.rows(requests)) == TOLERATED + 4
