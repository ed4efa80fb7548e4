"""What the protocol's metadata say of the server and its models."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from service.guard import Guard, Guards
from service.inference.images import INPUT
from service.inference.outputs import OUTPUTS
from service.problems import ServiceProblem

SERVER = "lazaret"
EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "lazaret_onnx"


def server_version() -> str:
    """Ours."""
    return version("lazaret")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A declared input or output; -1 is an axis of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def inputs() -> tuple[Tensor, ...]:
    """``uint8[N, H, W, C]``; files as BYTES ``[N]`` are taken in its place."""
    return (Tensor(INPUT, "UINT8", (-1, -1, -1, -1)),)


def outputs(guard: Guard) -> tuple[Tensor, ...]:
    """The diagnosis and the guard's verdict."""
    return tuple(
        Tensor(entry.name, entry.datatype, (-1, entry.width(guard)) if entry.width else (-1,))
        for entry in OUTPUTS
    )


def named(guards: Guards, name: str, version: str | None) -> Guard:
    """The guard of a model and version. Raises ``ServiceProblem`` 404 or 503."""
    guard = guards.choose(name)
    if version and version != guard.model.version:
        raise ServiceProblem(404, f"That version is not loaded; loaded: {guard.model.version}.")
    return guard
