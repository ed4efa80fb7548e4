"""Every attack by name: found in the packages' files, written as ``pgd:eps=1/255,steps=20``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, PlainSerializer, ValidationError

import attacks.beyond_noise
import attacks.black_box
import attacks.guard_aware
import attacks.third_party
import attacks.white_box
from attacks.ball import Norm
from attacks.spec import AttackSpec, Labels

PACKAGES = (attacks.white_box, attacks.black_box, attacks.beyond_noise, attacks.guard_aware)


class UnknownAttack(ValueError):
    """No such attack, parameter or value. The message says what there is."""


@cache
def methods() -> Mapping[str, type[AttackSpec]]:
    """Every spec by its method, in the packages' order. A file dropped into one of the packages is
    an attack; nothing else has to be told."""
    return _found_in(PACKAGES)


@cache
def adapters() -> Mapping[str, type[AttackSpec]]:
    """Specs that run an attack of another library, by their method; in no preset."""
    return _found_in((attacks.third_party,))


def every_method() -> Mapping[str, type[AttackSpec]]:
    """``methods`` and ``adapters``."""
    return {**methods(), **adapters()}


def _found_in(packages: Sequence[ModuleType]) -> Mapping[str, type[AttackSpec]]:
    found: dict[str, type[AttackSpec]] = {}
    for package in packages:
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for member in vars(importlib.import_module(module.name)).values():
                if (
                    isinstance(member, type)
                    and issubclass(member, AttackSpec)
                    and member.__module__ == module.name
                    and "method" in member.__annotations__
                ):
                    found[member.model_fields["method"].default] = member
    return found


def smoke(name: str, epsilon: float | None = None) -> AttackSpec:
    """The named attack with its cheapest parameters."""
    method = methods()[VARIANTS.get(name, {}).get("method", name)]
    return named(name, epsilon, method.smoke)


def category(spec: type[AttackSpec]) -> str:
    """``white_box``, ``black_box``, ``beyond_noise``, ``guard_aware`` or ``third_party``."""
    return spec.__module__.split(".")[-2]


def from_document(document: Any) -> AttackSpec:
    """A spec from its JSON form."""
    if isinstance(document, AttackSpec):
        return document
    if not isinstance(document, dict) or document.get("method") not in every_method():
        raise ValueError("not an attack's document: its `method` is none of the registry's")
    return every_method()[document["method"]].model_validate(document)


AnySpec = Annotated[
    AttackSpec,
    BeforeValidator(from_document),
    PlainSerializer(lambda spec: spec.model_dump(mode="json")),
]
"""Every spec, told apart by ``method``: the type to use in a document."""

# Ma et al. (2021), arXiv 1907.10456, as in the authors' released code, where FGSM, BIM and PGD
# leave the *predicted* class (cleverhans without labels) and CW-Linf the true one.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "fgsm": {"labels": Labels.PREDICTED},
    "bim": {"labels": Labels.PREDICTED},
    "pgd": {"labels": Labels.PREDICTED},
    "cw_linf_released": {"method": "cw_linf", "masked": False},
}
"""Names with parameters that differ from their method's defaults."""


def names() -> tuple[str, ...]:
    """Everything that ``parse`` knows."""
    return tuple(dict.fromkeys((*methods(), *VARIANTS, *adapters())))


def named(
    name: str, epsilon: float | None = None, parameters: Mapping[str, Any] | None = None
) -> AttackSpec:
    """The named attack. Raises ``UnknownAttack``.

    Args:
        epsilon: grey levels, for attacks that need a budget; ignored by those without one.
    """
    if name not in names():
        raise UnknownAttack(f"no attack is called {name!r}; choose from {', '.join(names())}")
    values = {"name": name, **VARIANTS.get(name, {}), **(parameters or {})}
    method = every_method()[values.get("method", name)]
    if needs_epsilon(method) and epsilon is not None and "epsilon" not in values:
        values["epsilon"] = epsilon
    try:
        return method.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "missing" and first["loc"] == ("epsilon",):
            raise UnknownAttack(f"{name} needs a budget; write {name}:eps=1/255") from None
        field = ".".join(str(part) for part in first["loc"]) or "the parameters"
        if first["type"] == "extra_forbidden":
            known = ", ".join(field for field in method.model_fields if field not in _HIDDEN)
            raise UnknownAttack(f"{name} has no parameter {field!r}; it has {known}") from None
        raise UnknownAttack(f"{name}: {field}: {first['msg']}") from None


_HIDDEN = ("method", "name")
_SHORT = {"eps": "epsilon", "alpha": "step_fraction"}


def needs_epsilon(method: type[AttackSpec]) -> bool:
    """Whether a budget must be given."""
    return method.model_fields["epsilon"].is_required()


def parse(text: str, epsilon: float | None = None) -> AttackSpec:
    """``pgd``, ``pgd:eps=1/255,steps=20`` or ``pgd:norm=l2,epsilon=200``: a name, then parameters.
    ``1/255`` is one grey level, as is ``1``. Raises ``UnknownAttack``."""
    name, _, rest = text.partition(":")
    parameters: dict[str, Any] = {}
    for part in rest.split(",") if rest else []:
        key, equals, value = part.partition("=")
        if not equals:
            raise UnknownAttack(f"{text!r}: write parameters as name=value, by comma")
        key = _SHORT.get(key.strip(), key.strip())
        parameters[key] = _value(value.strip(), text)
    return named(name.strip(), epsilon, parameters)


def split(text: str) -> tuple[str, ...]:
    """``a,b:eps=1,steps=2,c`` to ``a``, ``b:eps=1,steps=2`` and ``c``: a part that has no ``=`` or
    has a ``:`` before it begins an attack."""
    parts: list[str] = []
    for part in text.split(","):
        head, equals, _ = part.partition("=")
        if equals and ":" not in head and parts:
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return tuple(part.strip() for part in parts)


def _value(value: str, text: str) -> Any:
    if value.endswith("/255"):
        value = value.removesuffix("/255")
        try:
            return float(value)
        except ValueError:
            raise UnknownAttack(f"{text!r}: {value}/255 is not a number") from None
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for convert in (int, float):
        try:
            return convert(value)
        except ValueError:
            continue
    return value


def norms(method: type[AttackSpec]) -> Sequence[Norm]:
    """The norms a method knows, its default first."""
    field = method.model_fields["norm"]
    return get_args(field.annotation) or (field.default,)
