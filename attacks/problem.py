"""What a user of the generator can mend."""

from __future__ import annotations


class AttackProblem(ValueError):
    """Images, model, container or attacks that do not go together. The message says which and what
    to do."""
