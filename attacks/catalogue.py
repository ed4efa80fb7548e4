"""Every attack with what it needs, its norms, parameters and source: for ``--list`` and the docs.

``python -m attacks.catalogue > docs/attack_list.md`` writes the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from attacks.registry import category, every_method, norms
from attacks.spec import AttackSpec

_SHARED = ("method", "name", "norm", "targeted", "labels")


@dataclass(frozen=True, slots=True)
class Entry:
    """One attack."""

    name: str
    category: str
    """``white box``, ``black box``, ``beyond noise``, ``guard aware`` or ``third party``."""
    needs: str
    norms: str
    parameters: tuple[str, ...]
    """``steps=20 [1..100000]``: default, unit, bounds."""
    citation: str


def entries() -> Iterator[Entry]:
    """By category, then by name."""
    for name, method in sorted(
        every_method().items(), key=lambda item: (category(item[1]), item[0])
    ):
        yield Entry(
            name,
            category(method).replace("_", " "),
            ", ".join(
                [
                    *sorted(need.value for need in method.needs),
                    *sorted(f"{need.value} if there are some" for need in method.uses),
                ]
            ),
            ", ".join(norm.value for norm in norms(method)),
            tuple(_parameters(method)),
            method.citation,
        )


def _parameters(method: type[AttackSpec]) -> Iterator[str]:
    schema: dict[str, Any] = method.model_json_schema(by_alias=False)["properties"]
    for name, field in method.model_fields.items():
        if name in _SHARED:
            continue
        unit = f" {schema[name]['unit']}" if "unit" in schema[name] else ""
        if field.is_required():
            yield f"{field.alias or name} (required){unit}"
        elif field.default is None:
            yield f"{name} (no limit){unit}" if name == "epsilon" else f"{name} (optional){unit}"
        else:
            shown = f"{field.default:.4g}" if isinstance(field.default, float) else field.default
            yield f"{name}={shown}{unit}{_bounds(schema[name])}"


def _bounds(described: dict[str, Any]) -> str:
    low = described.get("minimum", described.get("exclusiveMinimum"))
    high = described.get("maximum", described.get("exclusiveMaximum"))
    if low is None and high is None:
        return ""
    return f" [{'' if low is None else f'{low:g}'}..{'' if high is None else f'{high:g}'}]"


def markdown() -> str:
    """The page."""
    lines = [
        "# Every attack",
        "",
        "Written by `make docs` from the code, as `lazaret attack --list` shows it. Epsilons and",
        "steps are grey levels. `targeted` (by `--target`), `norm` and `labels` (`true` or",
        "`predicted`: whose class is left) are parameters of every attack that knows them.",
    ]
    last = ""
    for entry in entries():
        if entry.category != last:
            last = entry.category
            lines += ["", f"## {last.capitalize()}", "", "| attack | needs | norms | parameters |"]
            lines += ["|---|---|---|---|"]
        lines.append(
            f"| **{entry.name}**: {entry.citation} | {entry.needs} | {entry.norms} "
            f"| {', '.join(entry.parameters)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
