"""Whether killed processes lose, duplicate or leave out anything between receipt and archive.

    python benchmarks/pacs_kills.py [--instances 10000] [--kills 20] [--life 10]
        [--out PAGE]

dcmtk's storescu sends copies of two phantom images, one in ten attacked, under UIDs of their own;
`lazaret serve` screens them and forwards them with what it found to a real Orthanc. The node is
killed (SIGKILL) at random moments and started again; the archive is stopped once in between. A
group of files whose sending failed is sent again, as modalities do. At the end everything is
counted. Needs dcmtk and Orthanc.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import generate_uid

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "pacs")]

from served_node import DEMO, served_node  # noqa: E402  # found by the path above
from servers.dcmtk import dcmtk  # noqa: E402  # found by the path above
from servers.orthanc import AE_TITLE, Orthanc  # noqa: E402  # found by the path above

from models.machine import describe  # noqa: E402  # found by the path above

GROUP = 20
"""Files of one association."""


PAGE = """# Killed between receipt and archive

`python benchmarks/pacs_kills.py --instances {instances} --kills {kills} --life {life:g}`,
commit `{commit}`, {machine}, {seconds:.0f} s.

{instances} instances ({attacked} attacked) from dcmtk's storescu, screened, and forwarded with what
was found to Orthanc. The node was killed {kills} times, each at a random moment of the
first {life:g} s of a life: {while_receiving} times while files were still being sent to it,
{while_sending} times while it was sending. The archive was
stopped for one life of the node. Groups of {group} files whose sending had failed were sent again,
{sent_again} times in all.

| what | found |
|---|---|
| instances that the archive lacks | {lost} |
| objects that the archive lacks, of {expected} | {objects_missing} |
| objects that the archive has twice | {duplicated} |
| instances that are not on record | {unrecorded} |
| instances that are on record twice | {recorded_twice} |
| cases, of {attacked} attacked | {cases} |
| dead letters | {dead} |
"""


@dataclass
class Sending:
    """Sends groups of files until each has been acknowledged once."""

    groups: list[list[Path]]
    again: int = 0

    def run(self, port: int, stop: threading.Event) -> None:
        """Send to a node that may vanish."""
        while self.groups and not stop.is_set():
            group = self.groups[0]
            where = ("-aec", "LAZARET", "127.0.0.1", port)
            sent = dcmtk("storescu", "-v", *where, *group, seconds=600)
            # Its exit status is 0 at times although it was cut off: what counts are the answers.
            if sent.stdout.count("Received Store Response (Success)") == len(group):
                self.groups.pop(0)
            else:
                self.again += 1
                time.sleep(0.2)


def write_files(folder: Path, count: int) -> tuple[list[Path], int]:
    """The files, and how many are attacked."""
    sources = [pydicom.dcmread(DEMO / f"{name}-2.dcm") for name in ("attacked", "clean")]
    paths, attacked = [], 0
    for number in range(count):
        ds = sources[0 if number % 10 == 0 else 1]
        attacked += number % 10 == 0
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.InstanceNumber = number + 1
        paths.append(folder / f"{number:06d}.dcm")
        ds.save_as(paths[-1])
    return paths, attacked


def counted(database: Path) -> Counter[str]:
    """Outbox rows by state, requests and instances."""
    with sqlite3.connect(database, timeout=60) as connection:
        found = Counter(dict(connection.execute("SELECT state, count(*) FROM outbox GROUP BY 1")))
        for table in ("requests", "instances", "cases"):
            (found[table],) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return found


def run(folder: Path, instances: int, kills: int, life: float, seed: int) -> dict[str, Any]:
    """The whole experiment; what was found."""
    dice = random.Random(seed)
    files = folder / "files"
    files.mkdir()
    paths, attacked = write_files(files, instances)
    sending = Sending([paths[i : i + GROUP] for i in range(0, len(paths), GROUP)])
    orthanc, database = Orthanc(folder / "orthanc"), folder / "records.sqlite3"
    routes = {
        "peers": {
            "archive": {
                "kind": "dimse", "ae_title": AE_TITLE, "host": "127.0.0.1", "port": orthanc.port,
            }
        },
        "default": {"destinations": ["archive"], "original": "forward"},
        "delivery": {"first_wait_seconds": 0.5, "longest_wait_seconds": 5, "lease_seconds": 10},
    }  # fmt: skip
    expected = 2 * instances + 2 * attacked  # image and SR; a state and a key object on a flag
    begun, moments = time.monotonic(), Counter({"while receiving": 0, "while sending": 0})
    with ExitStack() as archive:
        archive.enter_context(orthanc.up())
        for kill in range(kills + 1):
            if kill == kills // 2:
                archive.close()  # down for one life of the node
            elif kill == kills // 2 + 1:
                archive.enter_context(orthanc.up())
            stop = threading.Event()
            with served_node(folder, routes) as node:
                sender = threading.Thread(target=sending.run, args=(node.port, stop))
                sender.start()
                if kill < kills:
                    time.sleep(dice.uniform(0, life))
                    now = counted(database)
                    moments["while receiving"] += bool(sending.groups)
                    moments["while sending"] += bool(now["sending"])
                else:
                    while sending.groups or counted(database)["delivered"] < expected:
                        time.sleep(1)
                        if counted(database)["dead"]:
                            break
            stop.set()
            sender.join()
        stored = orthanc.instances()
    sent = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths}
    now = counted(database)
    return {
        "instances": instances,
        "attacked": attacked,
        "kills": kills,
        "life": life,
        "seconds": time.monotonic() - begun,
        "sent_again": sending.again,
        "moments": moments,
        "lost": len(sent - set(stored)),
        "objects_missing": expected - len(set(stored)),
        "duplicated": len(stored) - len(set(stored)),
        "unrecorded": instances - now["instances"],
        "recorded_twice": now["requests"] - now["instances"],
        "dead": now["dead"],
        "cases": now["cases"],
        "stored": len(stored),
        "expected": expected,
    }


def page(found: dict[str, Any], commit: str) -> str:
    """The result as Markdown."""
    told = {**found, **{name.replace(" ", "_"): n for name, n in found["moments"].items()}}
    return PAGE.format_map({"commit": commit, "machine": describe(), "group": GROUP, **told})


def main() -> None:
    """Run and print, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--life", type=float, default=10.0, help="seconds; longest of a node")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        text = page(run(Path(folder), given.instances, given.kills, given.life, given.seed), commit)
    print(text)
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
