"""Pictures of the dashboards from real series, where no Grafana can run.

``python -m deploy.grafana.pictures --out docs/images`` starts the service on the zoo's phantom and a
private Prometheus with the shipped rules, sends the demonstration's images for some minutes, asks
Prometheus for every panel's expressions, and draws them with matplotlib as Grafana would lay them
out. Needs ``prometheus`` on the PATH.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from deploy.grafana.__main__ import BOARDS
from deploy.grafana.board import Board, Panel

mpl.use("Agg")
ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "zoo" / "phantom" / "demo"
BUNDLE = ROOT / "models" / "zoo" / "phantom" / "bundle"
KINDS = {".png": "image/png", ".dcm": "application/dicom"}
STEP = 2.0
HEIGHT = {"number": 1.1, "lines": 2.4, "stacked": 2.4, "heat": 2.4, "table": 2.2}
INK, PAPER, FAINT = "#ccccdc", "#181b1f", "#2c3235"


def main() -> None:
    """Draw every dashboard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=180, help="how long traffic is sent")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lazaret-pictures-"))
    try:
        with serving(folder) as service, prometheus(folder, service) as url:
            send(service, given.seconds)
            for board in BOARDS:
                picture = given.out / f"{board.name.replace('-', '_')}.png"
                draw(board, url, given.seconds, picture)
                print(picture)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The service on the phantom at ``host:port``."""
    address = f"127.0.0.1:{free_port()}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LAZARET_")} | {
        "LAZARET_PORT": address.rpartition(":")[2],
        "LAZARET_BUNDLES": str(BUNDLE),
        "LAZARET_DATABASE": f"sqlite:///{folder}/records.sqlite3",
        "LAZARET_CANARY_SECONDS": "10",
        "LAZARET_LOG_LEVEL": "error",
    }
    with running(
        [sys.executable, "-m", "service", "serve"], f"http://{address}/readyz", environment
    ):
        yield address


@contextmanager
def prometheus(folder: Path, service: str) -> Iterator[str]:
    """A private Prometheus with the shipped rules, at its address."""
    rules = sorted(str(path) for path in (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
    configuration = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"},
        "rule_files": rules,
        "scrape_configs": [{"job_name": "lazaret", "static_configs": [{"targets": [service]}]}],
    }
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(configuration))
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        "prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'series'}",
        f"--web.listen-address={url.removeprefix('http://')}", "--log.level=error",
    ]  # fmt: skip
    with running(command, f"{url}/-/ready", dict(os.environ)):
        yield url


@contextmanager
def running(command: list[str], ready: str, environment: dict[str, str]) -> Iterator[None]:
    """A server, once ``ready`` answers 200."""
    process = subprocess.Popen(command, env=environment)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                if httpx.get(ready).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"{command[0]} did not start")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


def send(service: str, seconds: float) -> None:
    """A morning's mix in minutes: mostly ordinary images, some attacked, some that are none; a
    reviewer decides on most of what is held."""
    entries = json.loads((DEMO / "demo.json").read_text())["images"]
    files = {kind: [DEMO / e["file"] for e in entries if e["kind"] == kind]
             for kind in ("clean", "degraded", "attacked")}  # fmt: skip
    until = time.monotonic() + seconds
    with httpx.Client(base_url=f"http://{service}", timeout=30) as client:
        for i in itertools.count():
            left = until - time.monotonic()
            if left < 0:
                return
            kind = "attacked" if i % 40 == 39 else "degraded" if i % 5 == 4 else "clean"
            file = files[kind][i % len(files[kind])]
            content = b"no image" if i % 60 == 59 else file.read_bytes()
            kind_of_file = {"Content-Type": KINDS[file.suffix]}
            answer = client.post("/diagnose", content=content, headers=kind_of_file).json()
            if (case := answer.get("case_id")) and i % 3:  # two in three are reviewed at once
                step = "confirm" if kind == "attacked" else "release"
                client.post(f"/cases/{case}/{step}")
            time.sleep(0.05 + 0.04 * np.sin(i / 60))


def draw(board: Board, url: str, seconds: float, picture: Path) -> None:
    """One dashboard as one picture."""
    lines = [line for row in board.rows for line in layout(row.panels)]
    heights = [HEIGHT[line[0].kind] + 0.5 for line in lines]
    with plt.rc_context({
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.edgecolor": FAINT, "axes.facecolor": PAPER, "figure.facecolor": "#111217",
        "font.size": 8, "grid.color": FAINT,
    }):  # fmt: skip
        figure = plt.figure(figsize=(14, sum(heights) + 0.6), layout="constrained")
        figure.suptitle(f"Lazaret: {board.title}", fontsize=14, x=0.01, ha="left")
        subfigures = np.atleast_1d(figure.subfigures(len(lines), 1, height_ratios=heights))
        for subfigure, line in zip(subfigures, lines, strict=True):
            axes = subfigure.subplots(1, len(line), width_ratios=[panel.width for panel in line])
            for ax, panel in zip(np.atleast_1d(axes), line, strict=True):
                ax.set_title(panel.title, loc="left", fontsize=9)
                paint(ax, panel, url, seconds)
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture, dpi=80)
        plt.close(figure)


def layout(panels: tuple[Panel, ...]) -> list[list[Panel]]:
    """Panels in lines of at most 24 wide, as Grafana flows them."""
    lines: list[list[Panel]] = [[]]
    for panel in panels:
        if sum(p.width for p in lines[-1]) + panel.width > 24:
            lines.append([])
        lines[-1].append(panel)
    return lines


def paint(ax: Any, panel: Panel, url: str, seconds: float) -> None:
    """One panel on one pair of axes."""
    instant = panel.kind in ("number", "table")
    series = [
        (query.legend, found)
        for query in panel.queries
        for found in ask(url, query.expr, seconds, instant=instant)
    ]
    if not series:
        ax.axis("off")
        text = f"empty until {panel.needs}" if panel.needs else "no data"
        ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, alpha=0.6)
    elif panel.kind == "number":
        number(ax, panel, series)
    elif panel.kind == "table":
        rows(ax, series)
    elif panel.kind == "heat":
        heat(ax, series)
    else:
        curves(ax, panel, series)


def ask(url: str, expression: str, seconds: float, *, instant: bool) -> list[dict[str, Any]]:
    """What Prometheus has for an expression; Grafana's variables as Grafana would fill them."""
    expression = expression.replace("$model", ".*").replace("$__rate_interval", "10s")
    now = time.time()
    where, parameters = ("query", {"query": expression})
    if not instant:
        where = "query_range"
        parameters |= {"start": str(now - seconds), "end": str(now), "step": str(STEP)}
    answer = httpx.get(f"{url}/api/v1/{where}", params=parameters, timeout=30).json()
    if answer["status"] != "success":
        sys.exit(f"{expression}: {answer}")
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def number(ax: Any, panel: Panel, series: list[tuple[str, dict[str, Any]]]) -> None:
    """Big numbers on the colour that their threshold gives them."""
    ax.axis("off")
    values = [(name(legend, found), float(found["value"][1])) for legend, found in series]
    worst = max(value for _, value in values)
    lowest = min(value for _, value in values)
    bad = (panel.bad is not None and worst >= panel.bad) or (
        panel.good is not None and lowest < panel.good
    )
    ax.add_patch(mpl.patches.Rectangle((0, 0), 1, 1, transform=ax.transAxes,
                 color="#c4162a" if bad else "#37872d"))  # fmt: skip
    if len(values) == 1:
        ax.text(0.5, 0.5, shown(values[0][1], panel.unit), ha="center", va="center", fontsize=18,
                color="white", transform=ax.transAxes)  # fmt: skip
        return
    text = "\n".join(f"{label}: {shown(value, panel.unit)}" for label, value in values)
    ax.text(0.5, 0.5, text, ha="center", va="center", color="white", fontsize=7,
            transform=ax.transAxes)  # fmt: skip


def rows(ax: Any, series: list[tuple[str, dict[str, Any]]]) -> None:
    """Labels and value, a row each."""
    ax.axis("off")
    hidden = {"__name__", "job", "instance"}
    columns = sorted({key for _, found in series for key in found["metric"]} - hidden)
    cells = [
        [short(found["metric"].get(key, "")) for key in columns]
        + [f"{float(found['value'][1]):.4g}"]
        for _, found in series[:8]
    ]
    table = ax.table(cells, colLabels=[*columns, "value"], loc="upper left", cellLoc="left")
    for cell in table.get_celld().values():
        cell.set(facecolor=PAPER, edgecolor=FAINT)
        cell.get_text().set_color(INK)


def heat(ax: Any, series: list[tuple[str, dict[str, Any]]]) -> None:
    """A histogram over time, one row a bucket."""
    buckets = sorted(series, key=lambda one: float(one[1]["metric"]["le"]))
    times = sorted({float(t) for _, found in buckets for t, _ in found["values"]})
    counts = np.zeros((len(buckets), len(times)))
    for i, (_, found) in enumerate(buckets):
        for t, value in found["values"]:
            counts[i, times.index(float(t))] = float(value)
    counts = np.diff(counts, axis=0, prepend=0)
    ax.imshow(counts, aspect="auto", origin="lower", cmap="Blues_r", interpolation="nearest")
    ax.set_yticks(range(len(buckets)), [found["metric"]["le"] for _, found in buckets], fontsize=6)
    ax.set_xticks([])


def curves(ax: Any, panel: Panel, series: list[tuple[str, dict[str, Any]]]) -> None:
    """Lines, or areas on one another."""
    series = sorted(series, key=lambda one: -float(one[1]["values"][-1][1]))[:10]
    start = min(float(found["values"][0][0]) for _, found in series)
    if panel.kind == "stacked":
        times = sorted({float(t) for _, found in series for t, _ in found["values"]})
        by_time = [{float(t): float(v) for t, v in found["values"]} for _, found in series]
        stacked = [[np.nan_to_num(one.get(t, 0.0)) for t in times] for one in by_time]
        labels = [name(legend, found) for legend, found in series]
        ax.stackplot([t - start for t in times], stacked, labels=labels, alpha=0.75)
    else:
        for legend, found in series:
            t, v = np.array(found["values"], float).T
            ax.plot(t - start, v, label=name(legend, found), linewidth=1)
        if panel.bad is not None and ax.get_ylim()[1] > panel.bad / 4:
            ax.axhline(panel.bad, color="#e02f44", linestyle="--", linewidth=0.8)
    bottom, top = ax.get_ylim()
    ax.set_ylim(min(0, bottom), 1.05 * top)
    ax.yaxis.set_major_formatter(lambda value, _: shown(value, panel.unit))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} s")
    ax.grid(linewidth=0.5)
    ax.legend(loc="upper left", fontsize=6, frameon=False, ncols=2)


def name(legend: str, found: dict[str, Any]) -> str:
    """A legend with its labels filled in."""
    for key, value in found["metric"].items():
        legend = legend.replace("{{" + key + "}}", value)
    return legend or short(" ".join(found["metric"].values()))


def short(text: str) -> str:
    """A digest's beginning says enough."""
    return f"{text[:18]}..." if len(text) > 24 else text


def shown(value: float, unit: str) -> str:
    """A value with its unit."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MB"
    if unit == "reqps":
        return f"{value:.3g}/s"
    if unit == "dateTimeFromNow":
        return f"{time.time() - value / 1000:.0f} s ago" if value else "never"
    return f"{value:.3g}"


def free_port() -> int:
    """A port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
