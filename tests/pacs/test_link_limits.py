"""Every bound of a connection is a row: who breaks it is cut off at the bound, counted by why, and
the node takes the next instance as if nothing had been."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import pytest
from pynetdicom import AE
from receiving import receiving, write_image
from test_receiver import REFUSED, eventually, storescu

from service.pacs.link_limits import COMMAND_BYTES, REQUEST_BYTES, LinkLimits

MEBIBYTE = bytes(2**20)
MOST_GROWN = 48 * 2**10
"""Kibibytes that receiving any of these may take, dcmtk's next instance included."""


def pdu(kind: int, body: bytes, claims: int | None = None) -> bytes:
    """A PDU (PS3.8 section 9.3), with a length that may be a lie."""
    return struct.pack(">BBL", kind, 0, len(body) if claims is None else claims) + body


def item(control: int, value: bytes, claims: int | None = None) -> bytes:
    """A presentation data value; control 3 ends a command, 1 begins one, 0 is a data set's."""
    length = len(value) + 2 if claims is None else claims
    return struct.pack(">LBB", length, 1, control) + value


def store_request() -> bytes:
    """A C-STORE-RQ that a data set follows (PS3.7 section 9.3.1.1)."""
    elements = b"".join(
        struct.pack("<HHI", 0, element, len(value)) + value
        for element, value in (
            (0x0002, b"1.2.840.10008.5.1.4.1.1.1\0"), (0x0100, b"\1\0"), (0x0110, b"\1\0"),
            (0x0700, b"\0\0"), (0x0800, b"\1\0"), (0x1000, b"1.2.3.40"),
        )
    )  # fmt: skip
    return pdu(4, item(3, struct.pack("<HHII", 0, 0, 4, len(elements)) + elements))


def fragments(of: int, total: int) -> Iterator[bytes]:
    """A data set without end, a small PDU at a time."""
    yield store_request()
    yield from repeat(pdu(4, item(0, bytes(of))), total // of)


@dataclass(frozen=True)
class Row:
    """What is sent, within an association or before one, and what it counts as."""

    name: str
    reason: str
    sent: Callable[[], Iterator[bytes]]
    established: bool = True
    limits: LinkLimits = field(default_factory=LinkLimits)


ROWS = (
    Row("a request that claims 4 GiB", "structure",
        lambda: iter([pdu(1, b"", 2**32 - 1), *repeat(MEBIBYTE, 256)]), established=False),
    Row("a request over 64 KiB", "structure",
        lambda: iter([pdu(1, bytes(REQUEST_BYTES + 1))]), established=False),
    Row("a request of nothing", "structure",
        lambda: iter([pdu(1, bytes(REQUEST_BYTES))]), established=False),
    Row("data before a request", "structure",
        lambda: iter([pdu(9, b"data")]), established=False),
    Row("a P-DATA that claims 4 GiB", "size",
        lambda: iter([pdu(4, b"", 2**32 - 1), *repeat(MEBIBYTE, 256)])),
    Row("a P-DATA one byte over what was announced", "size",
        lambda: iter([pdu(4, bytes(2**18 + 1))])),
    Row("an unknown PDU", "structure", lambda: iter([pdu(9, b"data")])),
    Row("an item that does not fit", "structure", lambda: iter([pdu(4, item(0, b"x", 2**31))])),
    Row("an item of one byte", "structure", lambda: iter([pdu(4, item(0, b"", 1))])),
    Row("a P-DATA without items", "structure", lambda: iter([pdu(4, b"")])),
    Row("a command over 16 KiB", "structure",
        lambda: repeat(pdu(4, item(1, bytes(1000))), COMMAND_BYTES // 1000 + 2)),
    Row("a command that is none", "structure", lambda: iter([pdu(4, item(3, bytes(1000)))])),
    Row("a data set over the bound, in small pieces", "size",
        lambda: fragments(8192, 2**20), limits=LinkLimits(instance_bytes=2**19)),
    Row("more than all may hold together", "limit",
        lambda: fragments(8192, 2**20), limits=LinkLimits(held_bytes=2**19)),
    Row("half a PDU, then silence", "limit",
        lambda: iter([pdu(4, b"half", 1000)]), limits=LinkLimits(idle_seconds=3)),
    Row("half a data set, then silence", "limit",
        lambda: fragments(8192, 8192), limits=LinkLimits(idle_seconds=3)),
)  # fmt: skip


def connection(port: int, established: bool) -> socket.socket:
    """A plain socket, before an association or within one."""
    if not established:
        return socket.create_connection(("127.0.0.1", port), 10)
    ae = AE("CR1")
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.2.1")
    association = ae.associate("127.0.0.1", port, ae_title="LAZARET")
    assert association.is_established
    association.dul.kill_dul()
    association.dul.join(10)  # it would answer, or hang up
    found: socket.socket = association.dul.socket.socket
    found.settimeout(10)
    return found


def peak_kibibytes() -> int:
    """The largest resident size since ``forget_peak``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise AssertionError


def forget_peak() -> int:
    """Start anew; the size now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kibibytes()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_bound_holds(row: Row, tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.dcm")
    with receiving(tmp_path, limits=row.limits) as node:
        before = forget_peak()
        with connection(node.port, row.established) as link:
            try:
                for part in row.sent():
                    link.sendall(part)
                while link.recv(2**16):  # until it is hung up on; a hang is a time-out here
                    pass
            except (ConnectionResetError, BrokenPipeError):
                pass
        eventually(lambda: node.counted(REFUSED, reason=row.reason) == 1)
        assert node.uids == []
        assert "(Success)" in storescu(node, image)
        assert peak_kibibytes() - before < MOST_GROWN
        assert len(node.uids) == 1
