"""What the query history costs: milliseconds and bytes a query, by how much is remembered.

    OPENBLAS_NUM_THREADS=1 python benchmarks/query_history_cost.py [--out PAGE.md]

Stores are filled with strangers up to their size, then asked: of ten queries, eight are about other
pictures, one repeats and one is a near-duplicate. Redis is a private one on the loopback address
(``redis-server`` must be installed).
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from redis import Redis
from redis.exceptions import RedisError

from detectors.query_disguise import INCIDENTS, RECENT, Gallery, Known, likeness_of
from detectors.query_fingerprint import BANDS, GRID, SKETCH, Fingerprint, Fingerprinter, cells_of
from models.machine import describe
from models.phantom import radiograph
from models.spec import Preprocessing
from service.query_disguises import Disguises
from service.query_store import RECORD, LocalStore, Query, Size, Store
from service.query_store_redis import RedisStore

RECORDS, SLOTS = 4096, 65536
"""Of one key, as in ``query_store.lua``."""
SECONDS = 86_400


def filled(size: Size, rng: np.random.Generator) -> LocalStore:
    """A store that remembers ``size.queries`` strangers."""
    store = LocalStore(size)
    count = size.queries
    records = store._records
    records["seconds"] = int(time.time())
    numbers = np.arange(1, count + 1, dtype=np.uint32)
    places = numbers % count
    for name in ("number", "root"):
        records[name][places] = numbers
    records["contrast"], records["brightness"] = 3200, 6400
    for start in range(0, count, 2**20):
        part = records[start : start + 2**20]
        part["sketch"] = rng.integers(256, size=part["sketch"].shape, dtype=np.uint8)
        part["pixels"] = rng.integers(2**63, size=len(part)).view("V8")
    for table in store._tables:
        table[rng.integers(size.slots, size=count)] = numbers
    store._number = count
    return store


def copied(store: LocalStore, size: Size, client: Redis, prefix: str) -> None:
    """The same memory in Redis."""
    for i in range(0, size.queries, RECORDS):
        client.set(f"{prefix}:r:{i // RECORDS}", store._records[i : i + RECORDS].tobytes())
    for band, table in enumerate(store._tables):
        for i in range(0, size.slots, SLOTS):
            client.set(f"{prefix}:t:{band}:{i // SLOTS}", table[i : i + SLOTS].tobytes())
    client.set(f"{prefix}:n", size.queries)


def traffic(rng: np.random.Generator, count: int) -> list[Query]:
    """``count`` queries: strangers, repeats and near-duplicates."""
    made: list[Query] = []

    def one(sketch: bytes, bands: tuple[int, ...]) -> Query:
        mark = Fingerprint(sketch, bands, 50.0, 100.0, rng.bytes(8))
        return Query(mark, 0, 1, 0, False, "incident")

    for i in range(count):
        if i % 10 == 8:
            made.append(made[-3])
        elif i % 10 == 9:
            known = made[-7].fingerprint
            sketch = np.frombuffer(known.sketch, np.uint8) ^ rng.integers(2, size=SKETCH)
            near = one(sketch.astype(np.uint8).tobytes(), (*known.bands[:-1], i))
            made.append(near)
        else:
            bands = tuple(int(band) for band in rng.integers(2**32, size=BANDS))
            made.append(one(rng.bytes(SKETCH), bands))
    return made


async def timed(store: Store, queries: list[Query]) -> npt.NDArray[np.float64]:
    """Milliseconds of each, the first tenth left out."""
    spent = []
    for query in queries:
        started = time.perf_counter()
        await store.observe(query, time.time())
        spent.append(1000 * (time.perf_counter() - started))
    return np.array(spent[len(spent) // 10 :])


def quantiles(spent: npt.NDArray[np.float64]) -> str:
    """Median, 99th and 99.9th percentile, as cells."""
    return " | ".join(f"{value:.3f}" for value in np.quantile(spent, [0.5, 0.99, 0.999]))


def disguises(rounds: int) -> list[str]:
    """Rows of what it costs to know disguises."""
    rng = np.random.default_rng(1)
    images = [radiograph(patient, 0, opacities=False, size=128) for patient in range(100)]
    cells = [cells_of(image, Preprocessing()) for image in images]
    gallery = Gallery()
    made, compared = [], []
    for i in range(rounds + RECENT + INCIDENTS):
        noisy = cells[i % len(cells)] + rng.normal(0, 3, (GRID, GRID)).astype(np.float32)
        started = time.perf_counter()
        likeness = likeness_of(noisy)
        likened = time.perf_counter()
        gallery.find(likeness, 0.0)
        ended = time.perf_counter()
        gallery.keep(likeness, Known(i, 0, 0, 0, 1.0, 1.0, i % 5 == 0, 1.0))
        made.append(1000 * (likened - started))
        compared.append(1000 * (ended - likened))
    full = slice(RECENT + INCIDENTS, None)
    return [
        f"| all of it, 224 x 224 x 1: fingerprint, both of these, and linking in process "
        f"| {quantiles(whole(rounds))} |",
        f"| making what is compared | {quantiles(np.array(made[full]))} |",
        f"| comparing it with {RECENT} recent images and {INCIDENTS} of incidents "
        f"| {quantiles(np.array(compared[full]))} |",
    ]


def whole(rounds: int) -> npt.NDArray[np.float64]:
    """Milliseconds that the history adds to an image, all its memories full of strangers."""
    rng = np.random.default_rng(2)
    size = Size(1_000_000, SECONDS)
    store, known = filled(size, rng), Disguises(SECONDS)
    fingerprinter, spec = Fingerprinter(b"secret"), Preprocessing()
    images = [radiograph(patient, 0, opacities=False, size=224) for patient in range(60)]
    spent = []
    for i in range(rounds + 2 * RECENT):
        noise = rng.integers(0, 4, images[0].shape, dtype=np.uint8)
        pixels = np.minimum(images[i % len(images)], 250) + noise
        now = time.time()
        started = time.perf_counter()
        cells = cells_of(pixels, spec)
        mark = fingerprinter.of_cells(cells, str(i), "m")
        likeness = likeness_of(cells)
        assert mark is not None
        query = known.hinted(Query(mark, 0, 1, 0, False, "incident"), likeness, "m", now)
        known.keep(query, likeness, "m", store.link(query, now), now)
        spent.append(1000 * (time.perf_counter() - started))
    return np.array(spent[2 * RECENT :])


def marks(rounds: int) -> list[str]:
    """Rows of what a fingerprint costs."""
    fingerprinter, spec = Fingerprinter(b"secret"), Preprocessing()
    lines = []
    rng = np.random.default_rng(0)
    for shape in ((224, 224, 1), (224, 224, 3), (1024, 1024, 1), (2500, 2000, 1)):
        small = radiograph(1, 0, opacities=False, size=224)[..., 0]
        rows, columns = (np.arange(side) * 224 // side for side in shape[:2])
        pixels = np.repeat(small[rows][:, columns, None], shape[2], axis=2)
        noise = rng.integers(0, 4, shape, dtype=np.uint8)
        pixels = np.ascontiguousarray(np.minimum(pixels, 250) + noise)
        spent = []
        for _ in range(max(30, rounds * 224 * 224 // pixels.size)):
            started = time.perf_counter()
            fingerprinter.of(pixels, "sha256:0", spec, "m")
            spent.append(1000 * (time.perf_counter() - started))
        lines.append(f"| {' x '.join(map(str, shape))} | {quantiles(np.array(spent[5:]))} |")
    return lines


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--largest", type=int, default=10_000_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = []
    for count in (10_000, 100_000, 1_000_000, arguments.largest):
        size = Size(count, SECONDS)
        store = filled(size, rng)
        spent = asyncio.run(timed(store, traffic(rng, arguments.queries)))
        rows.append(f"| process | {count:,} | {quantiles(spent)} | {size.memory / count:.0f} |")
        print(rows[-1], flush=True)
        if count > 1_000_000:
            break
        with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            probe.close()
            command = ["redis-server", "--port", str(port), "--save", "", "--dir", folder]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
                rows.append(_redis(port, store, size, arguments.queries, rng))
                server.terminate()
        print(rows[-1], flush=True)
    page = "\n".join(
        [
            "# What the query history costs",
            "",
            f"`OPENBLAS_NUM_THREADS=1 python benchmarks/query_history_cost.py`; {describe()}.",
            "",
            "Milliseconds. A fingerprint, made on the thread that decodes:",
            "",
            "| image | median | 99 % | 99.9 % |",
            "|---|---|---|---|",
            *marks(2000),
            "",
            "Knowing disguises, and what the history adds in all:",
            "",
            "| | median | 99 % | 99.9 % |",
            "|---|---|---|---|",
            *disguises(2000),
            "",
            f"Linking one query and keeping it, {arguments.queries} queries one after the other, "
            "of ten eight about other pictures, one repeat and one near-duplicate:",
            "",
            "| store | remembered | median | 99 % | 99.9 % | bytes a query |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"A record takes {RECORD.itemsize} bytes, its places in {BANDS} tables 4 bytes each in "
            "tables of the next power of two; for Redis `used_memory` was measured. The work of a "
            "query does not depend on how many are remembered; what grows is the share of memory "
            "that no cache holds. Redis at 10 million was not measured: by the same rule its time "
            "is that at 1 million, and its memory ten times as much.",
            "",
        ]
    )
    print(page)
    if arguments.out:
        arguments.out.write_text(page)


def _redis(port: int, store: LocalStore, size: Size, queries: int, rng: np.random.Generator) -> str:
    client = Redis(port=port)
    for _ in range(200):
        try:
            client.ping()
            break
        except RedisError:
            time.sleep(0.05)

    async def run() -> npt.NDArray[np.float64]:
        shared = RedisStore(f"redis://127.0.0.1:{port}/0", size, timeout=5)
        copied(store, size, client, shared._prefix)
        found = await timed(shared, traffic(rng, queries))
        await shared.close()
        return found

    before = client.info("memory")["used_memory"]
    spent = asyncio.run(run())
    used = client.info("memory")["used_memory"] - before
    count = size.queries
    return f"| Redis | {count:,} | {quantiles(spent)} | {used / count:.0f} |"


if __name__ == "__main__":
    main()
