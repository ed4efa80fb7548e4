"""How fast instances are received, and at what cost, beside other receivers.

    python benchmarks/dicom_receive.py [--out docs/results/dicom_receive.md]

Every receiver gets the same files from dcmtk's storescu: on one association, then on four at
once. Rounds are interleaved, so that a busy machine slows all of them alike. CPU is the
receiver's alone (with its children), user and system. Needs dcmtk and Orthanc.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dicom_instances import write_instances
from dicom_receivers import AE_TITLE

from models.machine import describe

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Receiver:
    """One contestant and what was measured of it."""

    name: str
    durable: str
    """When the sender's answer may come: after what the receiver waits for."""
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    rates: dict[int, list[float]] = field(default_factory=dict)
    cpu: dict[int, list[float]] = field(default_factory=dict)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def contestants(folder: Path, port: int) -> list[Receiver]:
    """All receivers, each with a folder of its own, on one port in turn."""
    script = Path(__file__).with_name("dicom_receivers.py")
    python = [sys.executable, str(script)]

    def ours(kind: str) -> list[str]:
        return [*python, kind, str(port), str(folder / kind)]

    store = [
        "storescp",
        "-aet",
        AE_TITLE,
        "-pdu",
        "131072",
        "-od",
        str(folder / "dcmtk"),
        str(port),
    ]
    return [
        Receiver("Lazaret, flush behind", "the operating system; release waits for the disk",
                 ours("lazaret-behind")),
        Receiver("Lazaret, flush each (default)", "the disk", ours("lazaret")),
        Receiver("pynetdicom, 16 KB PDU (its default)", "the operating system", ours("plain-16k")),
        Receiver("pynetdicom, 128 KB PDU", "the operating system", ours("plain-128k")),
        Receiver("pynetdicom, 128 KB PDU, fsync", "the disk", ours("plain-128k-fsync")),
        Receiver("dcmtk storescp", "the operating system", store, {"TCP_NODELAY": "0"}),
        Receiver("dcmtk storescp, TCP_NODELAY=1", "the operating system", store,
                 {"TCP_NODELAY": "1"}),
        Receiver("Orthanc", "the disk", orthanc(folder / "orthanc", port), {"TCP_NODELAY": "0"}),
        Receiver("Orthanc, TCP_NODELAY=1", "the disk", orthanc(folder / "orthanc", port),
                 {"TCP_NODELAY": "1"}),
    ]  # fmt: skip


def orthanc(folder: Path, port: int) -> list[str]:
    """Orthanc as it comes, SQLite and its own folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder.parent / "orthanc.json"
    config.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder),
                "IndexDirectory": str(folder),
                "DicomAet": AE_TITLE,
                "DicomPort": port,
                "HttpServerEnabled": False,
                "Plugins": [],
            }
        )
    )
    return [
        shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin") or "Orthanc",
        str(config),
    ]


@contextmanager
def running(receiver: Receiver, folder: Path, port: int) -> Iterator[int]:
    """Start it on empty folders, until it listens; yields its process id."""
    for name in ("lazaret", "lazaret-behind", "plain-16k", "plain-128k", "plain-128k-fsync",
                 "dcmtk", "orthanc"):  # fmt: skip
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    process = subprocess.Popen(
        receiver.command,
        env={**os.environ, **receiver.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if time.monotonic() > until or process.poll() is not None:
                raise SystemExit(f"{receiver.name} does not listen")
            time.sleep(0.05)
        time.sleep(0.5)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time so far, of the process and of children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:15]) / TICKS


def send(receiver: Receiver, port: int, folders: list[Path]) -> float:
    """Send every folder on an association of its own, at once; seconds."""
    started = time.perf_counter()
    senders = [
        subprocess.Popen(
            ["storescu", "-aec", AE_TITLE, "-pdu", "131072", "+sd", "127.0.0.1", str(port),
             str(folder)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for folder in folders
    ]  # fmt: skip
    for sender in senders:
        _, errors = sender.communicate()
        if sender.returncode != 0:
            raise SystemExit(f"{receiver.name}: {errors.decode(errors='replace')}")
    return time.perf_counter() - started


def measure(rounds: int, count: int, work: Path) -> list[Receiver]:
    """Every receiver, every round, on 1 and on 4 associations."""
    port = free_port()
    files = work / "files"
    write_instances(files, count, studies=4)
    quarters = [work / f"quarter{i}" for i in range(4)]
    for i, quarter in enumerate(quarters):
        quarter.mkdir()
        for path in sorted(files.iterdir())[i::4]:
            os.link(path, quarter / path.name)
    receivers = contestants(work / "received", port)
    for _ in range(rounds):
        for receiver in receivers:
            for associations, folders in ((1, [files]), (4, quarters)):
                with running(receiver, work / "received", port) as pid:
                    before = cpu_seconds(pid)
                    seconds = send(receiver, port, folders)
                    spent = cpu_seconds(pid) - before
                receiver.rates.setdefault(associations, []).append(count / seconds)
                receiver.cpu.setdefault(associations, []).append(1000 * spent / count)
            print(
                f"{receiver.name}: {receiver.rates[1][-1]:.0f}/s, {receiver.rates[4][-1]:.0f}/s",
                file=sys.stderr,
            )
    return receivers


def page(receivers: list[Receiver], rounds: int, count: int, size: int) -> str:
    """The results as Markdown."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    lines = [
        "# Receiving DICOM",
        "",
        f"`python benchmarks/dicom_receive.py --rounds {rounds} --count {count}` at `{commit}`; "
        f"{count} radiographs of 512 x 512 x 16 bit, {size} bytes each, sent by dcmtk's storescu "
        f"(128 KB PDUs) over loopback; medians of {rounds} interleaved rounds; {describe()}; load "
        f"average {os.getloadavg()[2]:.1f} over the last quarter of an hour.",
        "",
        "| receiver | answers once it is with | 1 association | 4 associations | CPU each, 1 "
        "| CPU each, 4 |",
        "|---|---|---|---|---|---|",
    ]
    for receiver in receivers:
        rate = {k: statistics.median(v) for k, v in receiver.rates.items()}
        cpu = {k: statistics.median(v) for k, v in receiver.cpu.items()}
        lines.append(
            f"| {receiver.name} | {receiver.durable} | {rate[1]:.0f}/s | {rate[4]:.0f}/s "
            f"| {cpu[1]:.1f} ms | {cpu[4]:.1f} ms |"
        )
    ours, plain = receivers[0], max(
        statistics.median(r.rates[1]) for r in receivers if r.name.startswith("pynetdicom")
    )  # fmt: skip
    best = statistics.median(ours.rates[1])
    lines += [
        "",
        f"Targets: 150/s on one association with batched flushes: {best:.0f}/s, "
        f"{'met' if best >= 150 else 'missed'}. No slower than plain pynetdicom "
        f"({plain:.0f}/s at best): {'met' if best >= plain else 'missed'}.",
        "",
        "`TCP_NODELAY` is dcmtk's environment variable. Without it every answer of a receiver that",
        "is built on dcmtk waits about 40 ms for a delayed acknowledgement; set it on the",
        "receiving side.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as work:
        receivers = measure(arguments.rounds, arguments.count, Path(work))
        size = next((Path(work) / "files").iterdir()).stat().st_size
    text = page(receivers, arguments.rounds, arguments.count, size)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
