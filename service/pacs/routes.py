"""The route table: which model judges an instance, and who is told what.

Data only. ``choose`` reads the routes in order and takes the first that matches; an instance
that none matches takes the default, so there is always an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from service.decide import Verdict
from service.pacs.peers import AeTitle, DicomwebPeer, DimsePeer, FhirPeer, Peer, PeerName
from service.pacs.peers import SyslogPeer as _Syslog
from service.settings import PolicyOverrides

RouteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
DEFAULT = "default"
"""The name of the route that takes what no other does."""


class Emitted(StrEnum):
    """The DICOM objects that can tell of a verdict."""

    SR = "sr"
    """Comprehensive 3D SR, TID 1500: scores, p-values, thresholds."""
    GSPS = "gsps"
    """Presentation state: a banner over the image."""
    KOS = "kos"
    """Key object, 113010 "Quality Issue"."""
    SC = "sc"
    """Secondary capture: the image with the banner burned in."""


class Original(StrEnum):
    """What becomes of the instance itself."""

    FORWARD = "forward"
    """Sent on to every destination whatever the verdict: we stand in the way to the archive."""
    WITHHOLD_REJECTED = "withhold-rejected"
    """Sent on unless rejected: we stand in the way to another AI."""
    JUDGE_ONLY = "judge-only"
    """Not sent on: the archive has it already and we stand on a branch."""


class Unjudged(StrEnum):
    """What becomes of an original that cannot be judged, where originals are sent on."""

    FORWARD = "forward"
    HOLD = "hold"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Match(_Frozen):
    """What an instance must be. An empty entry matches anything; several entries must all match.
    Code strings are compared without regard to case and outer spaces."""

    calling_ae: tuple[AeTitle, ...] = ()
    """Who sent it: AE title, API client (STOW-RS) or archive (pull)."""
    called_ae: tuple[AeTitle, ...] = ()
    modality: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    sop_class: tuple[str, ...] = ()
    """UIDs, or the standard's keywords such as ``CTImageStorage``."""

    @field_validator("sop_class")
    @classmethod
    def _resolve(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_sop_class(name) for name in value)


class Emissions(_Frozen):
    """Which objects tell of which verdict."""

    accept: tuple[Emitted, ...] = (Emitted.SR,)
    flag: tuple[Emitted, ...] = (Emitted.SR, Emitted.GSPS, Emitted.KOS)
    reject: tuple[Emitted, ...] = (Emitted.SR, Emitted.GSPS, Emitted.KOS)

    @field_validator("accept")
    @classmethod
    def _no_warning_on_accepted(cls, value: tuple[Emitted, ...]) -> tuple[Emitted, ...]:
        if set(value) - {Emitted.SR}:
            raise ValueError("an accepted image is told of by sr only")
        return value

    def of(self, verdict: Verdict) -> tuple[Emitted, ...]:
        """The objects for a verdict."""
        chosen: tuple[Emitted, ...] = getattr(self, verdict.value)
        return chosen


class Handling(_Frozen):
    """What is done with an instance."""

    model: str | None = None
    """Which model judges; None takes the only one."""
    policy: PolicyOverrides | None = None
    """In place of the setting ``policies``."""
    destinations: tuple[PeerName, ...] = ()
    """Peers of kind ``dimse`` or ``dicomweb``: get objects and originals."""
    emit: Emissions = Emissions()
    original: Original = Original.JUDGE_ONLY
    unjudged: Unjudged = Unjudged.FORWARD
    fhir: PeerName | None = None
    """A peer of kind ``fhir``: gets a DetectedIssue for what is held, an AuditEvent for all."""


class Route(Handling):
    """A handling, its name, and when it is chosen."""

    name: RouteName
    match: Match

    @field_validator("name")
    @classmethod
    def _not_default(cls, value: str) -> str:
        if value == DEFAULT:
            raise ValueError("that is the name of the route that takes the rest")
        return value


class Delivery(_Frozen):
    """How hard it is tried. Waits double from the first to the longest."""

    first_wait_seconds: Annotated[float, Field(gt=0)] = 5
    longest_wait_seconds: Annotated[float, Field(gt=0)] = 600
    give_up_seconds: Annotated[float, Field(gt=0)] = 3 * 86_400
    """Since it was written; then it is a dead letter, which ``lazaret pacs redrive`` revives."""
    lease_seconds: Annotated[float, Field(gt=0)] = 120
    """How long one process may take over what it has begun to send; then another may."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.first_wait_seconds > self.longest_wait_seconds:
            raise ValueError("first_wait_seconds is longer than longest_wait_seconds")
        return self


class RouteTable(_Frozen):
    """The whole file."""

    peers: dict[PeerName, Peer] = {}
    routes: tuple[Route, ...] = ()
    default: Handling = Handling()
    delivery: Delivery = Delivery()
    audit: PeerName | None = None
    """A peer of kind ``syslog``: gets DICOM audit messages."""

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = [route.name for route in self.routes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two routes are named {name}")
        for name, handling in self.handlings():
            for peer in handling.destinations:
                self._expect(peer, (DimsePeer, DicomwebPeer), f"route {name}, destinations")
            if handling.fhir is not None:
                self._expect(handling.fhir, (FhirPeer,), f"route {name}, fhir")
        if self.audit is not None:
            self._expect(self.audit, (_Syslog,), "audit")
        return self

    def handlings(self) -> list[tuple[str, Handling]]:
        """Every handling by its route's name, the default last."""
        return [*((route.name, route) for route in self.routes), (DEFAULT, self.default)]

    def _expect(self, name: str, kinds: tuple[type[BaseModel], ...], where: str) -> None:
        peer = self.peers.get(name)
        if peer is None:
            raise ValueError(f"{where}: there is no peer {name}; peers: {', '.join(self.peers)}")
        if not isinstance(peer, kinds):
            raise ValueError(f"{where}: peer {name} is of kind {peer.kind}, which does not fit")


@dataclass(frozen=True, slots=True)
class Traits:
    """What routes look at. Empty where the instance does not say."""

    calling_ae: str = ""
    called_ae: str = ""
    modality: str = ""
    body_part: str = ""
    sop_class: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """Why one route was or was not taken."""

    route: str
    taken: bool
    why: str
    """Names the entry of the route that decided; never quotes the instance."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The route that takes an instance."""

    name: str
    handling: Handling
    looks: Sequence[Look]
    """In the order in which the routes were asked; the last is the one that was taken."""


def choose(table: RouteTable, traits: Traits) -> Choice:
    """The first route that matches, else the default. Never fails."""
    looks: list[Look] = []
    for route in table.routes:
        differs = _difference(route.match, traits)
        if differs is None:
            asked = [name for name in Match.model_fields if getattr(route.match, name)]
            why = f"matches {', '.join(asked)}" if asked else "matches anything"
            return Choice(route.name, route, (*looks, Look(route.name, True, why)))
        looks.append(Look(route.name, False, f"{differs} differs"))
    return Choice(
        DEFAULT, table.default, (*looks, Look(DEFAULT, True, "no route above matches"))
    )  # fmt: skip


def _difference(match: Match, traits: Traits) -> str | None:
    """The first entry that does not match."""
    for name in Match.model_fields:
        wanted: tuple[str, ...] = getattr(match, name)
        if wanted and _plain(getattr(traits, name)) not in {_plain(entry) for entry in wanted}:
            return name
    return None


def _plain(value: str) -> str:
    return value.strip().upper()


def _sop_class(name: str) -> str:
    """The UID of a keyword or UID."""
    from pydicom._uid_dict import UID_dictionary

    if name and all(part.isdigit() for part in name.split(".")):
        return name
    for uid, (_, kind, _, _, keyword) in UID_dictionary.items():
        if keyword == name and kind == "SOP Class":
            return uid
    raise ValueError(f"{name} is neither a UID nor the keyword of a SOP class")
