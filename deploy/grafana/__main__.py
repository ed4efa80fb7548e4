"""Writes ``dashboards/``."""

from __future__ import annotations

from pathlib import Path

from deploy.grafana import detectors, dicom, host, latency, review, safe_now
from deploy.grafana.render import as_json

FOLDER = Path(__file__).parent / "dashboards"
BOARDS = tuple(module.BOARD for module in (safe_now, latency, detectors, dicom, review, host))


def files() -> dict[str, str]:
    """Name to content."""
    return {f"{board.name.replace('-', '_')}.json": as_json(board) for board in BOARDS}


if __name__ == "__main__":
    for name, content in files().items():
        (FOLDER / name).write_text(content)
