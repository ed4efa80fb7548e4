"""A set of adversarial images with everything that fitting and evaluation ask about them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from attacks.container import Container
from attacks.gradient import Ailment
from attacks.judge import Answers, agree
from attacks.spec import AttackSpec

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Unguided:
    """Images on which the gradient could not guide the attack: their failures prove nothing."""

    ailment: Ailment
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attack did to N images, pixels aside.

    Predictions are the judge's: on the pixels as stored, decoded from the delivered file, or float
    where there was no container.
    """

    spec: AttackSpec
    seed: int
    container: Container | None
    """None: not rounded, which no file can carry. Report such a set apart."""
    keys: tuple[str, ...]
    """Names of the source images, unique."""
    groups: tuple[str, ...]
    """Patient or source of each image: what must not straddle splits."""
    sources: tuple[str, ...]
    """``sha256:`` digest of each source image's shape and pixels."""
    labels: Answers
    """``int64[N]``, true classes; of a multi-label model ``bool[N, L]``."""
    targets: Answers | None
    """Classes to reach, if the attack is targeted."""
    clean_predicted: Answers
    """Answers on the source images in the same container."""
    predicted: Answers
    """Answers on the result."""
    accepted: Flags | None
    """``bool[N]``: the guard let the result by; None without one."""
    linf: Floats
    """``float32[N]``, largest change in grey levels; ``l2`` and ``mean_abs`` likewise, ``l0`` in
    pixels."""
    l2: Floats
    mean_abs: Floats
    l0: Floats
    forwards: Counts
    """``int64[N]``: forward passes, which are a black-box attack's queries."""
    backwards: Counts
    findings: tuple[Unguided, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def clean_correct(self) -> Flags:
        """``bool[N]``: diagnosed right before the attack."""
        return agree(self.clean_predicted, self.labels)

    @property
    def success(self) -> Flags:
        """``bool[N]``: diagnosed right before, and wrong (or as the target) after."""
        if self.targets is not None:
            return self.clean_correct & agree(self.predicted, self.targets)
        return self.clean_correct & ~agree(self.predicted, self.labels)

    @property
    def harm(self) -> Flags | None:
        """``bool[N]``: succeeded and accepted by the guard; None without one."""
        return None if self.accepted is None else self.success & self.accepted

    @property
    def success_rate(self) -> float:
        """Share of the images diagnosed right when clean on which the attack succeeded; NaN if
        there are none."""
        return share(self.success, self.clean_correct)


@dataclass(frozen=True, slots=True)
class AdversarialSet(Outcome):
    """An outcome with its pixels, in the order given."""

    pixels: tuple[Pixels, ...] = ()
    """``[H, W, C]`` each, uint8, or float32 without a container; sizes may differ."""

    def rows(self, index: npt.NDArray[np.intp] | Flags) -> AdversarialSet:
        """The images at ``index`` (integers or ``bool[N]``)."""
        chosen = np.arange(len(self))[index]
        kept = {self.keys[i] for i in chosen}
        changes: dict[str, object] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                changes[item.name] = value[chosen]
            elif item.name in ("keys", "groups", "sources", "pixels"):
                changes[item.name] = tuple(value[i] for i in chosen)
        findings = (
            Unguided(finding.ailment, tuple(key for key in finding.keys if key in kept))
            for finding in self.findings
        )
        changes["findings"] = tuple(finding for finding in findings if finding.keys)
        return replace(self, **changes)  # type: ignore[arg-type]  # by name, checked above


def share(of: Flags, among: Flags) -> float:
    """``#(of and among) / #among``; NaN if there are none."""
    count = int(among.sum())
    return float((of & among).sum() / count) if count else float("nan")
