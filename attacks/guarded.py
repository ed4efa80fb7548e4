"""A guard as its attacker holds it: the bundle's graph, differentiable, with its thresholds."""

from __future__ import annotations

from torch import nn


class GuardedModel(nn.Module):
    """Filled in by the guard-aware attacks."""
