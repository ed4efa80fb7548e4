"""The limit: ONNX Runtime on the bare model in a loop, one thread a core, and no server.

python -m benchmarks.serving.raw_loop MODEL.onnx SCAN.jpg SIDE SECONDS [decode]

Prints images a second and the CPU milliseconds of each; with ``decode`` every image is first
decoded from the file.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from models.imaging import Limits, RenderingPolicy
from models.imaging.decode import decode
from models.onnx_engine import OnnxEngine


def main() -> None:
    """Measure and print."""
    model, file, side, seconds, *rest = sys.argv[1:]
    engine = OnnxEngine(Path(model), threads=1)
    data, policy = Path(file).read_bytes(), RenderingPolicy(jpeg=(int(side), int(side)))
    first = decode(data, None, Limits(), policy).pixels
    counts: list[int] = []

    def loop(until: float) -> None:
        count = 0
        while time.perf_counter() < until:
            pixels = decode(data, None, Limits(), policy).pixels if rest else first
            engine.run(pixels[None])
            count += 1
        counts.append(count)

    engine.run(first[None])
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
