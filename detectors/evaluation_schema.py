"""The JSON Schema of ``evaluation.json``: ``python -m detectors.evaluation_schema``."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

from detectors.evaluation import Evaluation


def schema() -> dict[str, Any]:
    """Derived from the dataclasses. Every number may be null: NaN, where nothing was counted."""
    document = _nullable(TypeAdapter(Evaluation).json_schema(mode="serialization"))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **document,
        "required": list(document["properties"]),
    }


def _nullable(node: Any) -> Any:
    if isinstance(node, list):
        return [_nullable(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {key: _nullable(value) for key, value in node.items()}
    return {**plain, "type": ["number", "null"]} if plain.get("type") == "number" else plain


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, ensure_ascii=False))
