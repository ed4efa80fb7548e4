"""The answers to one request as the protocol's outputs: the diagnosis and the guard's verdict.

A withheld or missing number is NaN (null in JSON), a missing word is empty.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.answers import Answer
from service.decide import Verdict
from service.guard import Guard
from service.inference.images import malformed
from service.problems import ServiceProblem

Answered = Answer | ServiceProblem
Parameter = str | int | float
REFUSED = "refused"
"""The verdict of an image that could not be judged; ``problem`` says why."""
_GRAVITY = (Verdict.ACCEPT, Verdict.FLAG, Verdict.REJECT, REFUSED)


@dataclass(frozen=True, slots=True)
class Output:
    """One output tensor."""

    name: str
    values: npt.NDArray[np.float32] | tuple[str, ...]
    """FP32 of any shape, or BYTES of shape ``[N]``."""

    @property
    def datatype(self) -> str:
        """The protocol's word."""
        return "BYTES" if isinstance(self.values, tuple) else "FP32"

    @property
    def shape(self) -> list[int]:
        """Its first axis counts images."""
        if isinstance(self.values, tuple):
            return [len(self.values)]
        return list(self.values.shape)

    def raw(self) -> bytes:
        """Little-endian, row by row; BYTES each after its length in a uint32."""
        if isinstance(self.values, tuple):
            words = [word.encode() for word in self.values]
            return b"".join(struct.pack("<I", len(word)) + word for word in words)
        return self.values.astype("<f4").tobytes()

    def listed(self) -> list[str] | list[float | None]:
        """Flat, for JSON."""
        if isinstance(self.values, tuple):
            return list(self.values)
        flat: list[float] = self.values.reshape(-1).tolist()
        return [value if math.isfinite(value) else None for value in flat]


@dataclass(frozen=True, slots=True)
class Declared:
    """An output that every model has."""

    name: str
    datatype: str
    width: Callable[[Guard], int] | None
    """Of its second axis; None: it has one axis."""
    make: Callable[[Answered, Guard], str | Sequence[float | None]]


def _probabilities(answered: Answered, guard: Guard) -> Sequence[float | None]:
    if isinstance(answered, Answer) and answered.diagnosis is not None:
        return list(answered.diagnosis.probabilities.values())
    return [None] * len(guard.model.classes)


def _detectors(field: str) -> Callable[[Answered, Guard], Sequence[float | None]]:
    def make(answered: Answered, guard: Guard) -> Sequence[float | None]:
        if isinstance(answered, Answer):
            return [getattr(entry, field) for entry in answered.guard.detectors]
        return [None] * len(guard.bundle.manifest.detectors)

    return make


def _number(
    read: Callable[[Answer], float | None],
) -> Callable[[Answered, Guard], list[float | None]]:
    return lambda answered, _: [read(answered) if isinstance(answered, Answer) else None]


def _word(
    read: Callable[[Answer], str | None], otherwise: str = ""
) -> Callable[[Answered, Guard], str]:
    return lambda answered, _: (read(answered) or "") if isinstance(answered, Answer) else otherwise


def _classes(guard: Guard) -> int:
    return len(guard.model.classes)


def _count(guard: Guard) -> int:
    return len(guard.bundle.manifest.detectors)


OUTPUTS = (
    Declared("probabilities", "FP32", _classes, _probabilities),
    Declared("label", "BYTES", None, _word(lambda a: a.diagnosis.label if a.diagnosis else None)),
    Declared("verdict", "BYTES", None, _word(lambda a: a.verdict, REFUSED)),
    Declared("route", "BYTES", None, _word(lambda a: a.route)),
    Declared("p_value", "FP32", None, _number(lambda a: a.guard.p_value)),
    Declared("quality_p_value", "FP32", None, _number(lambda a: a.guard.quality_p_value)),
    Declared("scores", "FP32", _count, _detectors("score")),
    Declared("detector_p_values", "FP32", _count, _detectors("p_value")),
    Declared("case_id", "BYTES", None, _word(lambda a: a.case_id)),
    Declared(
        "problem", "BYTES", None, lambda a, _: a.detail if isinstance(a, ServiceProblem) else ""
    ),
)
_BY_NAME = {declared.name: declared for declared in OUTPUTS}


def check_names(names: Sequence[str]) -> None:
    """Raises ``ServiceProblem`` 400 for a name that is no output, or asked for twice."""
    if len(set(names)) != len(names):
        raise malformed("An output is asked for twice.")
    if not set(names) <= set(_BY_NAME):
        raise malformed(f"The model has no output by that name; it has {', '.join(_BY_NAME)}.")


def outputs_of(answers: Sequence[Answered], guard: Guard, names: Iterable[str]) -> list[Output]:
    """The named outputs (all, if none is named) of one answer an image, in that order.

    Raises:
        ServiceProblem: the first image's, where no image could be judged.
    """
    refused = [answered for answered in answers if isinstance(answered, ServiceProblem)]
    if len(refused) == len(answers):
        raise refused[0]
    return [_output(declared, answers, guard) for declared in map(_BY_NAME.get, names) if declared]


def _output(declared: Declared, answers: Sequence[Answered], guard: Guard) -> Output:
    made = [declared.make(answered, guard) for answered in answers]
    if declared.datatype == "BYTES":
        return Output(declared.name, tuple(str(word) for word in made))
    values = np.array(made, np.float32)  # None becomes NaN
    return Output(declared.name, values if declared.width else values[:, 0])


def names_or_all(names: Sequence[str]) -> Sequence[str]:
    """What to answer with: what was asked for, or everything."""
    return names or tuple(_BY_NAME)


def parameters_of(answers: Sequence[Answered], guard: Guard) -> dict[str, Parameter]:
    """What holds of the whole request: the bundle, the gravest verdict, how many were held, and
    for a single image its route, p-value and case."""
    verdicts = [a.verdict if isinstance(a, Answer) else REFUSED for a in answers]
    parameters: dict[str, Parameter] = {
        "bundle": guard.bundle.digest,
        "verdict": str(max(verdicts, key=_GRAVITY.index)),
        "held": sum(verdict in (Verdict.FLAG, Verdict.REJECT) for verdict in verdicts),
    }
    if len(answers) == 1 and isinstance(answers[0], Answer):
        one = answers[0]
        found = {"route": one.route, "p_value": one.guard.p_value, "case_id": one.case_id}
        parameters |= {name: value for name, value in found.items() if value is not None}
    return parameters
