"""What every attack's spec shares: a name, a budget, whose labels, and how to run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from attacks.gradient import OnFinding, refuse
from attacks.objective import Model


class Labels(StrEnum):
    """Whose classes an untargeted attack leaves."""

    TRUE = "true"
    PREDICTED = "predicted"
    """The model's own answer on the clean image: all that an attacker without labels has."""


Fraction = Annotated[float, Field(gt=0, le=1)]
Steps = Annotated[int, Field(gt=0, le=10_000)]


class AttackSpec(BaseModel, ABC):
    """An attack with its parameters: frozen, hashable, JSON both ways."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    epsilon: Annotated[float, Field(ge=0, le=255)]
    """L-inf budget in grey levels; 1.0 is the literature's 1/255."""
    targeted: bool = False
    labels: Labels = Labels.TRUE

    @property
    def title(self) -> str:
        """``pgd-0.5``: what folders and tables call it."""
        return f"{self.name}-{self.epsilon:g}"

    @abstractmethod
    def attack(
        self,
        model: Model,
        pixels: Tensor,
        labels: Tensor,
        seeds: Sequence[int],
        on_finding: OnFinding = refuse,
    ) -> Tensor:
        """Attack one batch. ``labels`` are the classes to leave or, if ``targeted``, to reach;
        ``seeds`` holds one per image. Returns ``float32[N, H, W, C]`` in the box."""
