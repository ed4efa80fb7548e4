"""Reads deploy/Dockerfile, as far as checks and the rehearsal need it."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

DOCKERFILE = Path(__file__).with_name("Dockerfile")


@dataclass
class Stage:
    """One FROM with what follows it; a stage built on another starts as that one's copy."""

    name: str
    base: str
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    workdir: str = "/"
    health: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    instructions: list[tuple[str, str]] = field(default_factory=list)
    """Of this stage alone, in order."""


def stages(path: Path = DOCKERFILE) -> dict[str, Stage]:
    """The stages by name, in order."""
    found: dict[str, Stage] = {}
    stage: Stage | None = None
    for word, rest in _instructions(path):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            inherited = found.get(base)
            stage = Stage(name, base)
            if inherited is not None:
                stage.environment = dict(inherited.environment)
                stage.user, stage.workdir = inherited.user, inherited.workdir
                stage.health = inherited.health
                stage.entrypoint, stage.command = inherited.entrypoint, inherited.command
            found[name] = stage
        elif stage is not None:
            stage.instructions.append((word, rest))
            _apply(stage, word, rest)
    return found


def _apply(stage: Stage, word: str, rest: str) -> None:
    if word == "ENV":
        stage.environment |= dict(entry.split("=", 1) for entry in shlex.split(rest))
    elif word == "USER":
        stage.user = rest
    elif word == "WORKDIR":
        stage.workdir = rest
    elif word == "HEALTHCHECK":
        stage.health = json.loads(rest.partition("CMD ")[2])
    elif word == "ENTRYPOINT":
        stage.entrypoint = json.loads(rest)
    elif word == "CMD":
        stage.command = json.loads(rest)


def _instructions(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (word, rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]
