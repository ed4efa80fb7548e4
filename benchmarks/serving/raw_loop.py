"""The limit: ONNX Runtime on a graph in a loop, one thread a core, and no server.

OPENBLAS_NUM_THREADS=1 \\
  python -m benchmarks.serving.raw_loop MODEL.onnx SCAN.jpg SIDE SECONDS [decode] [mark] [together]

Prints images a second and the CPU milliseconds of each; with ``decode`` every image is first
decoded from the file, with ``mark`` it is marked for the query history too; ``together`` runs eight
at once.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from detectors.query_disguise import likeness_of
from detectors.query_fingerprint import Fingerprinter, cells_of
from models.imaging import Limits, RenderingPolicy
from models.imaging.decode import decode
from models.onnx_engine import OnnxEngine
from models.spec import Preprocessing

TOGETHER = 8


def main() -> None:
    """Measure and print."""
    model, file, side, seconds, *also = sys.argv[1:]
    engine = OnnxEngine(Path(model), threads=1)
    data, policy = Path(file).read_bytes(), RenderingPolicy(jpeg=(int(side), int(side)))
    first = decode(data, None, Limits(), policy)
    preprocessing, fingerprinter = Preprocessing(), Fingerprinter(b"benchmark")
    most = TOGETHER if "together" in also else 1
    counts: list[int] = []

    def loop(until: float) -> None:
        count = 0
        while time.perf_counter() < until:
            images = [
                decode(data, None, Limits(), policy) if "decode" in also else first
                for _ in range(most)
            ]
            for image in images if "mark" in also else ():
                cells = cells_of(image.pixels, preprocessing)
                fingerprinter.of_cells(cells, image.digest, "model")
                likeness_of(cells)
            pixels = [image.pixels for image in images]
            engine.run(pixels[0][None] if most == 1 else np.stack(pixels))
            count += most
        counts.append(count)

    engine.run(first.pixels[None])
    begun, cpu = time.perf_counter(), time.process_time()
    until = begun + float(seconds)
    threads = [threading.Thread(target=loop, args=(until,)) for _ in range(os.cpu_count() or 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - begun
    print(sum(counts) / spent, 1000 * (time.process_time() - cpu) / sum(counts))


if __name__ == "__main__":
    main()
