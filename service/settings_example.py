"""``deploy/lazaret.example.toml``: every option with what it means and its default.

Made by ``python -m service.settings_example > deploy/lazaret.example.toml`` from the one table of
options, so that it cannot go stale; a test holds the two together.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from service.settings import CONFIG_VARIABLE, Settings

WIDTH = 96
EXAMPLES = {
    "dicom_callers": '{ CR_ROOM_1 = "any" }',
    "bundles": '["/srv/bundles/chest-xray"]',
    "api_keys": '{ pacs = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b" }',
    "query_known_senders": '["pacs"]',
    "redis": '"redis://:PASSWORD@redis.example:6379/0"',
    "otlp_endpoint": '"http://collector:4318"',
    "policies": '{ chest-xray = { on_detector_failure = "closed", alphas = { flag = 0.02 } } }',
}
"""Where the default is empty, what one would write."""
BY_MACHINE = {"decode_threads": "4  # an example; the default is one per core"}
"""Where the default differs by machine."""


def as_toml() -> str:
    """The example file. Every setting in it is commented out, so it changes nothing as it is."""
    head = (
        f"Settings of the Lazaret service. Copy this file, name the copy in {CONFIG_VARIABLE}, and "
        "take the # from the lines that you change. An option of `lazaret serve` and an "
        "environment variable (LAZARET_PORT=9000) win over this file. Values are the defaults; "
        "where the default is nothing, one is shown as an example and the line says so."
    )
    lines = [*_comment(head), ""]
    for name, field in Settings.model_fields.items():
        lines += _entry(name, field)
    return "\n".join(lines).rstrip() + "\n"


def _entry(name: str, field: FieldInfo) -> Iterator[str]:
    yield from _comment(field.description or "")
    default = field.get_default(call_default_factory=True)
    if name in EXAMPLES:
        yield f"# {name} = {EXAMPLES[name]}  # an example; the default is empty"
    elif default in (None, PydanticUndefined, (), {}, ""):
        yield f"# {name} = {_example(name, field.annotation)}  # an example; there is no default"
    elif name in BY_MACHINE:
        yield f"# {name} = {BY_MACHINE[name]}"
    else:
        yield f"# {name} = {_value(default)}"
    yield ""


def _example(name: str, annotation: Any) -> str:
    """Something of the right type for an option without a default."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not NoneType)
    if get_origin(annotation) is Literal:
        return _value(get_args(annotation)[0])
    if get_origin(annotation) is dict:
        return "{}"
    if get_origin(annotation) is tuple:
        return "[]"
    if annotation is Path:
        return f'"/etc/lazaret/{name}"'
    return {int: "1", float: "1.0", bool: "true"}.get(annotation, '""')


def _value(value: Any) -> str:
    """A default as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:_}" if value > 99_999 else str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, BaseModel):
        inner = (f"{key} = {_value(entry)}" for key, entry in value if entry is not None)
        return "{ " + ", ".join(inner) + " }"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    if isinstance(value, str | Path):
        return json.dumps(str(value))
    raise TypeError(f"a default of type {type(value).__name__} has no TOML form here")


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH)]


if __name__ == "__main__":
    print(as_toml(), end="")
