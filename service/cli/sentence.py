"""A known problem is told as one sentence with exit status 2, not as a stack trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console

from detectors.manifest_file import BundleProblem
from detectors.signature import KeyProblem
from models.engine import EngineProblem
from service.records import RecordsProblem
from service.settings import SettingsProblem

EXIT_REFUSED = 2


@contextmanager
def told() -> Iterator[None]:
    """Turn the problems that a user can mend into a sentence and exit status 2."""
    try:
        yield
    except (BundleProblem, EngineProblem, KeyProblem, RecordsProblem, SettingsProblem) as problem:
        refuse(str(problem))


def refuse(sentence: str) -> NoReturn:
    """Print the sentence on standard error and exit."""
    Console(stderr=True).print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_REFUSED)
