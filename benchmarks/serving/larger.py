"""Guarded serving of ResNet-18 and ResNet-50 beside the limit and unguarded servers.

    python -m benchmarks.serving.larger [--peers runs/peers] [--out docs/results/serving_larger.md]

The limit is ONNX Runtime in a loop on the bare model, without a server. The models are untrained
and their guards stand-ins (``benchmarks.stand_in``): both cost what real ones cost.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from benchmarks.serving.__main__ import picture
from benchmarks.serving.contestants import Contestant, lazaret, peers
from benchmarks.serving.measure import load, looped, started, write_script
from benchmarks.stand_in import resnet, write_stand_in
from detectors.bundle import GRAPH
from detectors.guard import IN_FULL, TRIAGE
from models.export import export_bare
from models.imaging.decode import decode
from models.imaging.rendering import RenderingPolicy
from models.machine import describe

PORT = 18_200
AT_ONCE = 8
SIDE = 224
FIRST, FULL = "first-stage", "in-full"
GUARDS = {FIRST: TRIAGE, FULL: IN_FULL}
PEERS = ("mosec", "FastAPI on uvicorn")


def contestants(folder: Path, name: str, environments: Path) -> list[Contestant]:
    """Us under each guard, then the unguarded servers that are installed."""
    cores = os.cpu_count() or 1
    ours = []
    for number, (guard, workers, threads) in enumerate(
        [
            (FIRST, 1, cores),
            (FIRST, 1, 1),
            (FIRST, cores, 1),
            (FULL, 1, 1),
        ]
    ):
        place = folder / str(number)
        place.mkdir(exist_ok=True)
        bundle = folder / guard
        one = lazaret(bundle, PORT, workers, place, threads)
        runs = cores // workers // threads
        said = guard.replace("-", " ")
        what = f"lazaret, {said}: workers {workers}, runs at once {runs}, threads {threads}"
        ours.append(replace(one, name=what))
        if guard == FIRST and runs > 1:
            path, pixels = f"/v2/models/{name}/infer", f"{what}, pixels for a file"
            ours.append(replace(one, name=pixels, path=path, form="tensor"))
    return [*ours, *(one for one in peers(environments, PORT) if one.name in PEERS)]


def main() -> None:
    """Measure, print, and write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=Path("runs/peers"))
    parser.add_argument("--models", default="resnet18,resnet50")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--work", type=Path, default=Path("runs/serving_larger"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    lines = [
        "# Serving larger models",
        "",
        f"`python -m benchmarks.serving.larger --models {arguments.models} --rounds "
        f"{arguments.rounds} --seconds {arguments.seconds:g}`; {describe()}.",
        "",
        f"Untrained ResNets at {SIDE} x {SIDE} under guards of the size that `lazaret fit` makes "
        "with `--second-stage 3`, the first of the two stages, and by default, which looks at "
        "every image in full; they accept everything (`benchmarks/stand_in.py`); the JPEG of "
        f"[serving.md](serving.md), decoded at a quarter of its size; {AT_ONCE} requests at once. "
        "The limit is ONNX Runtime in a loop on the bare model, one thread a core, with and "
        "without decoding; the same of the first stage's graph, with decoding and the marks of "
        "the query history, is what a server of it can come near. `pixels for a file`: what was "
        "decoded, sent as a tensor of the inference protocol. What is in flight when a load ends "
        f"counts for nothing, {AT_ONCE} images a load. Medians over interleaved rounds; "
        "rates over the limit's are of the same round. CPU an image is the number to trust on a "
        "busy machine.",
        "",
        "| model | what | CPU ms an image | over the limit's | images/s | over the limit's |",
        "|---|---|---|---|---|---|",
    ]
    busy = [os.getloadavg()[0]]
    for name in arguments.models.split(","):
        folder = work / name
        folder.mkdir(parents=True)
        model = resnet(name, SIDE)
        (folder / "model.onnx").write_bytes(export_bare(model))
        for guard, detectors in GUARDS.items():
            write_stand_in(folder / guard, model, detectors)
        del model
        lines += measured(folder, name, arguments, busy)
    lines += [
        "",
        f"Load average of the machine during the run: {min(busy):.1f} to {max(busy):.1f} on "
        f"{os.cpu_count()} cores, of which this benchmark itself makes two to three.",
        "",
    ]
    page = "\n".join(lines)
    print(page)
    if arguments.out:
        arguments.out.write_text(page)


def measured(
    folder: Path, name: str, arguments: argparse.Namespace, busy: list[float]
) -> list[str]:
    """The rows of one model."""
    image = picture()
    pixels = decode(image, policy=RenderingPolicy(jpeg=(SIDE, SIDE))).pixels.tobytes()
    environment = {
        "BENCH_MODEL": str(folder / "model.onnx"), "BENCH_SIDE": str(SIDE),
        "BENCH_PORT": str(PORT), "BENCH_WORKERS": str(os.cpu_count() or 1),
    }  # fmt: skip
    scan = folder / "scan.jpg"
    scan.write_bytes(image)
    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)

    def keep(what: str, rate: float, cpu: float) -> None:
        rates[what].append(rate)
        costs[what].append(cpu)
        print(name, what, f"{rate:.1f}/s {cpu:.1f} ms", flush=True)

    limit = "limit: the bare model in a loop"
    for _ in range(arguments.rounds):
        keep(limit, *looped(folder / "model.onnx", scan, SIDE, arguments.seconds))
        for what, graph, *also in (
            ("the same with decoding", "model.onnx", "decode"),
            ("the first stage in a loop, with decoding", f"{FIRST}/{GRAPH}", "decode", "mark"),
        ):
            keep(what, *looped(folder / graph, scan, SIDE, arguments.seconds, *also))
        for one in contestants(folder, name, arguments.peers.absolute()):
            body = one.body(pixels if one.form == "tensor" else image)
            script = write_script(folder / "post.lua", body)
            url = f"http://127.0.0.1:{PORT}{one.path}"
            threads = {} if one.guarded else {"OMP_NUM_THREADS": "1"}
            with started(one, PORT, body, {**environment, **threads}, folder / "log") as (pid, _):
                load(url, script, pid, AT_ONCE, 2.0)  # warm
                found = load(url, script, pid, AT_ONCE, arguments.seconds)
                if found.failures:
                    raise RuntimeError(f"{one.name}: {found.failures} failures, see {folder}/log")
                keep(one.name, found.per_second, found.cpu_ms)
            busy.append(os.getloadavg()[0])
    rows = []
    for what, found in rates.items():
        share = statistics.median(a / b for a, b in zip(found, rates[limit], strict=True))
        cost = statistics.median(a / b for a, b in zip(costs[what], costs[limit], strict=True))
        rows.append(
            f"| {name} | {what} | {statistics.median(costs[what]):.1f} | {cost:.2f} "
            f"| {statistics.median(found):.1f} | {share:.2f} |"
        )
    return rows


if __name__ == "__main__":
    main()
