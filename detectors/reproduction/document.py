"""One page, written once: as Markdown with figures beside it, and as HTML that needs nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from detectors.wording import table

TEMPLATE = "reproduction.html"


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph, or one that must be seen."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows begin with their name."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG file and what it shows."""

    name: str
    caption: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Text | Items | Table | Picture, ...]
    level: int = 2


@dataclass(frozen=True, slots=True)
class Page:
    """A title and sections."""

    title: str
    sections: tuple[Section, ...]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Every picture, in order."""
        return tuple(b for s in self.sections for b in s.blocks if isinstance(b, Picture))


def write(page: Page, folder: Path, name: str) -> None:
    """Write ``name.md``, its pictures, and ``name.html``, which has them inside."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in page.pictures:
        (folder / picture.name).write_bytes(picture.png)
    (folder / f"{name}.md").write_text(markdown(page), encoding="utf-8")
    (folder / f"{name}.html").write_text(html(page), encoding="utf-8")


def markdown(page: Page) -> str:
    """The page for a repository; pictures are links."""
    lines = [f"# {page.title}", ""]
    for section in page.sections:
        if section.title:
            lines += [f"{'#' * section.level} {section.title}", ""]
        for block in section.blocks:
            lines += _markdown(block)
    return "\n".join(lines)


def _markdown(block: Text | Items | Table | Picture) -> Sequence[str]:
    match block:
        case Text(text, warning):
            return [f"**{text}**" if warning else text, ""]
        case Items(items):
            return [*(f"- {item}" for item in items), ""]
        case Table(caption, head, rows):
            return [f"*{caption}*", "", *table(list(head), [list(row) for row in rows])]
        case Picture(name, caption, _):
            return [f"![{caption}]({name})", "", f"*{caption}*", ""]


def html(page: Page) -> str:
    """The page for a browser; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["uri"] = lambda png: (
        f"data:image/png;base64,{base64.b64encode(png).decode()}"
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment.get_template(TEMPLATE).render(page=page)
