"""``python -m service`` is the ``lazaret`` command."""

from service.cli import app

app()
