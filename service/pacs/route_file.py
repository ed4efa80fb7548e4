"""The route table's file: YAML, in which every key is given once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from service.pacs.routes import RouteTable
from service.settings import SettingsProblem


def load(path: Path) -> RouteTable:
    """Read and check a route table.

    Raises:
        SettingsProblem: it cannot be read, is no YAML, or an entry does not fit; says where.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_repeated_keys(yaml.compose(text, yaml.SafeLoader))
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsProblem(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise SettingsProblem(f"{path}: {' '.join(str(error).split())}") from None
    try:
        return RouteTable.model_validate({} if found is None else found)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SettingsProblem(
            f"{path}: {where}: {first['msg']}; see deploy/pacs.example.yaml"
        ) from None


def _refuse_repeated_keys(node: Any) -> None:
    """YAML would take the second and say nothing."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value} is given twice")
            seen.add(key.value)
            _refuse_repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_repeated_keys(value)
