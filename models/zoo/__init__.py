"""The models we ship, one folder each: ``model.json``, ``weights.safetensors``, ``model.onnx`` and
``card.md``. They are demonstrations, never medical devices."""

from __future__ import annotations

from pathlib import Path

ZOO = Path(__file__).parent


def names() -> list[str]:
    """Names that ``--model`` accepts, sorted."""
    return sorted(path.parent.name for path in ZOO.glob("*/model.json"))


def folder(name: str) -> Path | None:
    """The folder of a zoo model, or None."""
    return ZOO / name if name in names() else None
