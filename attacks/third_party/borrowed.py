"""What the adapters of all libraries share: options, one image at a time, faults mended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn

from attacks.access import at
from attacks.ball import WHITE, Ball
from attacks.objective import Model, reached
from attacks.problem import AttackProblem
from attacks.spec import AttackSpec, Scene

Option = str | int | float | bool
OneImage = Callable[[nn.Module, Tensor, int], Tensor]
"""The network, an image ``float32[1, C, H, W]`` in 0 to 1 and its label or target, to the attacked
image of the same shape."""

# The libraries draw from torch's and numpy's global generators, which all threads share.
_ALONE = threading.Lock()


class BorrowedSpec(AttackSpec):
    """An attack of a library by its class's name; parameters that are none of ours are the
    library's own and in its own units, in which pixels run from 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    attack_class: Annotated[str, Field(alias="attack", pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
    """The class in the library."""
    options: Annotated[tuple[tuple[str, Option], ...], Field(max_length=32)] = ()
    """Arguments of the class; any parameter that is not one of the others is one of these."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        own = {*cls.model_fields, "attack"}
        given = dict(values.get("options", ()))
        given |= {key: value for key, value in values.items() if key not in own}
        kept = {key: value for key, value in values.items() if key in own}
        return {**kept, "options": tuple(sorted(given.items()))}

    @property
    def title(self) -> str:
        """``foolbox-LinfDeepFoolAttack-1``."""
        own = super().title.removeprefix(self.name)
        return f"{self.name}-{self.attack_class}{own}"


def chosen(module: ModuleType, name: str, kind: type) -> type:
    """The attack class ``name`` of a library's ``module``. Raises ``AttackProblem``."""
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, kind)):
        known = [key for key, item in vars(module).items() if _is_attack(item, kind)]
        raise AttackProblem(
            f"{module.__name__} has no attack {name}; it has {', '.join(sorted(known))}"
        )
    return found


def _is_attack(item: object, kind: type) -> bool:
    return isinstance(item, type) and issubclass(item, kind) and item is not kind


def made(cls: type, arguments: dict[str, Any]) -> Any:
    """``cls(**arguments)``. Raises ``AttackProblem`` for arguments that it does not take."""
    try:
        return cls(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise AttackProblem(f"{cls.__name__} refuses its options: {error}") from None


def one_by_one(scene: Scene, spec: BorrowedSpec, attack: OneImage) -> Tensor:
    """``attack`` on every image alone, with random generators of the image's own seed.

    Faults that libraries have are mended: what is not finite or did not reach its goal is the
    source again, an attempt within a budget is brought back into the ball.

    Returns ``float32[N, H, W, C]`` in grey levels.

    Raises:
        AttackProblem: the model has findings in place of classes, or the library failed.
    """
    if scene.labels.ndim == 2:
        raise AttackProblem(f"{spec.name} knows classes, not the findings of a multi-label model")
    found = []
    for row, seed in enumerate(scene.seeds):
        index = torch.tensor([row])
        source, label = scene.pixels[index], scene.labels[index]
        network = _Unit(at(scene.model, index))
        unit = source.permute(0, 3, 1, 2).contiguous() / WHITE
        with _ALONE, _seeded(seed):
            try:
                attacked = attack(network, unit, int(label))
            except AttackProblem:
                raise
            except Exception as error:  # whatever a library raises
                raise AttackProblem(
                    f"{spec.title}: the library failed ({type(error).__name__}: {error})"
                ) from None
        pixels = attacked.detach().to(source).permute(0, 2, 3, 1) * WHITE
        found.append(_mended(scene.model, index, pixels, source, label, spec))
    return torch.cat(found) if found else scene.pixels.clone()


def _mended(
    model: Model, index: Tensor, pixels: Tensor, source: Tensor, label: Tensor, spec: BorrowedSpec
) -> Tensor:
    # foolbox's CW, EAD and others give a black image where they fail
    if not pixels.isfinite().all() or not pixels.any():
        return source.clone()
    if spec.epsilon is not None:
        return Ball.around(source, spec.epsilon, spec.norm).project(pixels)
    pixels = pixels.clamp(0, WHITE)
    with torch.no_grad():
        turned = reached(at(model, index)(pixels), label, targeted=spec.targeted)
    return pixels if bool(turned) else source.clone()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)


class _Unit(nn.Module):
    """The model as the libraries take it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        # some send several candidates for one image, which count as as many passes
        return self.model(x.permute(0, 2, 3, 1).float() * WHITE).float()


def missing(library: str) -> AttackProblem:
    """What to raise where the library is not installed."""
    return AttackProblem(f"{library} is not installed: pip install 'lazaret[third-party]'")
