"""What every attack declares: name, norm, parameters, needs, source, and how to run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from attacks.access import at
from attacks.ball import Norm
from attacks.gradient import GradientFinding, OnFinding, refuse
from attacks.objective import Model

if TYPE_CHECKING:
    from attacks.guarded import GuardedModel


class Labels(StrEnum):
    """Whose classes an untargeted attack leaves."""

    TRUE = "true"
    PREDICTED = "predicted"
    """The model's own answer on the clean image: all that an attacker without labels has."""


class Need(StrEnum):
    """What an attacker must have."""

    GRADIENTS = "gradients"
    LOGITS = "logits"
    """Scores or probabilities for every query."""
    DECISIONS = "decisions"
    """The answered class alone."""
    IMAGES = "images"
    """Images of the same kind, for what is learned once and used on all."""
    SURROGATE = "surrogate"
    """A model of the attacker's own."""
    GUARD = "guard"
    """The bundle: every detector, its parameters and thresholds."""


class Kind(StrEnum):
    """What an attack promises."""

    BUDGET = "budget"
    """The strongest image it finds within epsilon, whether or not it fools the model."""
    MINIMUM = "minimum"
    """The smallest change it finds that fools the model; the source where it finds none."""


GreyLevels = Annotated[float, Field(ge=0, json_schema_extra={"unit": "grey levels"})]
Fraction = Annotated[float, Field(gt=0, le=1)]
Steps = Annotated[int, Field(gt=0, le=100_000)]
Count = Annotated[int, Field(gt=0, le=100_000)]


@dataclass(frozen=True, slots=True)
class Scene:
    """What an attack is given for one batch of N images."""

    model: Model
    """Counts its passes: take ``at(model, rows)`` for some of the images."""
    pixels: Tensor
    """``float32[N, H, W, C]``, whole grey levels 0 to 255."""
    labels: Tensor
    """``int64[N]`` or ``bool[N, L]``: to leave, or if the spec is targeted to reach."""
    seeds: Sequence[int]
    """One non-negative integer an image; all its randomness follows from it."""
    on_finding: OnFinding = refuse
    guard: GuardedModel | None = None
    """For specs that need ``Need.GUARD``; never None there."""
    prepared: Any = None
    """What the spec's ``prepare`` returned."""

    def rows(self, index: Tensor) -> Scene:
        """The images at ``index``, ``int64[M]``; findings are reported by their place here."""
        places = index.tolist()

        def on_finding(finding: GradientFinding) -> None:
            self.on_finding(replace(finding, rows=tuple(places[row] for row in finding.rows)))

        return replace(
            self,
            model=at(self.model, index),
            pixels=self.pixels[index],
            labels=self.labels[index],
            seeds=[self.seeds[place] for place in places],
            on_finding=on_finding,
        )


@dataclass(frozen=True, slots=True)
class Attacker:
    """What an attacker has before the first image is attacked, for ``prepare``."""

    model: Model
    pixels: tuple[Tensor, ...]
    """The attacker's own images, ``float32[H, W, C]`` each: of the same kind as those attacked,
    and none of them."""
    labels: Tensor
    """Their classes, ``int64[M]`` or ``bool[M, L]``."""
    seed: int
    guard: GuardedModel | None = None
    load: Callable[[str], Model] | None = None
    """Loads a surrogate: anything ``--model`` takes to a model of the same classes."""


class AttackSpec(BaseModel, ABC):
    """An attack with its parameters: frozen, hashable, JSON both ways.

    A subclass is declared in a file of its own below ``attacks``, with ``method`` as a literal,
    parameters with units and bounds as fields, and these class variables.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[Kind] = Kind.BUDGET
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})
    uses: ClassVar[frozenset[Need]] = frozenset()
    """What makes the attacker stronger who has it."""
    citation: ClassVar[str]
    """Authors, year and where to read it."""
    smoke: ClassVar[Mapping[str, Any]] = {}
    """Parameters that make it cheap enough to try, for the ``smoke`` preset and the tests."""

    method: str
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] = ""
    """What tables call it; the method's name if not given."""
    norm: Norm = Norm.LINF
    """What epsilon measures; a subclass that knows one norm only narrows the type."""
    epsilon: GreyLevels | None = None
    """Budget in grey levels in ``norm`` (L-inf: 1.0 is the literature's 1/255; L0: pixels).
    None, for attacks of ``Kind.MINIMUM`` and those that no norm bounds: no limit."""
    targeted: bool = False
    labels: Labels = Labels.TRUE

    @model_validator(mode="before")
    @classmethod
    def _named_for_its_method(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("name"):
            values = {**values, "name": values.get("method", cls.model_fields["method"].default)}
        return values

    @model_validator(mode="after")
    def _epsilon_fits(self) -> Self:
        if self.norm is Norm.LINF and self.epsilon is not None and self.epsilon > 255:
            raise ValueError(f"epsilon {self.epsilon:g} is above 255 grey levels")
        return self

    @property
    def title(self) -> str:
        """``pgd-0.5``, ``pgd-l2-100``: what folders and tables call it."""
        parts = [self.name]
        if self.norm is not type(self).model_fields["norm"].default:
            parts.append(self.norm.value)
        if self.epsilon is not None:
            parts.append(f"{self.epsilon:g}")
        if self.targeted:
            parts.append("targeted")
        return "-".join(parts)

    @property
    def budget(self) -> float:
        """Epsilon of an attack that must have one."""
        if self.epsilon is None:
            raise ValueError(f"{self.name} needs an epsilon; write {self.name}:eps=1/255")
        return self.epsilon

    def prepare(self, attacker: Attacker) -> Any:
        """What is learned once, before any image is attacked; by default nothing."""
        del attacker

    @abstractmethod
    def attack(self, scene: Scene) -> Tensor:
        """Attack one batch.

        Returns ``float32[N, H, W, C]`` within the grey range, and within epsilon of the source if
        there is one. An image that an attack of ``Kind.MINIMUM`` could not turn comes back as it
        was. Never NaN.
        """


def carry_out(spec: AttackSpec, scene: Scene, *, predicted: Tensor | None = None) -> Tensor:
    """``spec.attack``, against the predicted labels if the spec leaves those.

    Args:
        predicted: the model's answers on the clean images if the caller already has them; saves a
            forward pass.
    """
    if spec.labels is Labels.PREDICTED and not spec.targeted:
        if predicted is None:
            with torch.no_grad():
                logits = scene.model(scene.pixels)
            predicted = logits > 0 if scene.labels.ndim == 2 else logits.argmax(dim=1)
        scene = replace(scene, labels=predicted)
    return spec.attack(scene)
