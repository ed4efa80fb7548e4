"""An attacker's own model, to make images on that are sent to another."""

from __future__ import annotations

from collections.abc import Callable

from attacks.objective import Model
from models.datasets import DatasetProblem
from models.load import load_model, victim_of
from models.spec import ModelSpec


def surrogate_loader(spec: ModelSpec, device: str) -> Callable[[str], Model]:
    """From anything ``--model`` takes to that model, which must have the classes of ``spec`` in
    their order, or ``DatasetProblem`` is raised."""

    def load_surrogate(name: str) -> Model:
        loaded = load_model(name)
        if loaded.spec.classes != spec.classes:
            raise DatasetProblem(
                f"{name}: its classes are {', '.join(loaded.spec.classes)}, the attacked model's "
                f"are {', '.join(spec.classes)}; a surrogate needs the same, in order"
            )
        return victim_of(loaded, device)

    return load_surrogate
