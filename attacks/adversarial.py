"""A set of adversarial images with everything that fitting and evaluation ask about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attacks.deliver import Container, Pixels
from attacks.gradient import Ailment
from attacks.spec import AttackSpec

Classes = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Unguided:
    """Images on which the gradient could not guide the attack: their failures prove nothing."""

    ailment: Ailment
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AdversarialSet:
    """N adversarial images of one attack, whether or not they succeeded, in the order given.

    Predictions are the attacked model's. Those on ``pixels`` are on the pixels as stored: decoded
    from the delivered file, or float where there was no container.
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
    pixels: tuple[Pixels, ...]
    """``[H, W, C]`` each, uint8, or float32 without a container; sizes may differ."""
    labels: Classes
    """``int64[N]``, true classes."""
    targets: Classes | None
    """``int64[N]``, classes to reach, if the attack is targeted."""
    clean_predicted: Classes
    """``int64[N]``, classes predicted on the source images."""
    predicted: Classes
    """``int64[N]``, classes predicted on ``pixels``."""
    linf: Floats
    """``float32[N]``, largest change in grey levels; ``l2`` and ``mean_abs`` likewise."""
    l2: Floats
    mean_abs: Floats
    findings: tuple[Unguided, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def clean_correct(self) -> Flags:
        """``bool[N]``: diagnosed right before the attack."""
        return np.equal(self.clean_predicted, self.labels)

    @property
    def success(self) -> Flags:
        """``bool[N]``: diagnosed right before, and wrong (or as the target) after."""
        if self.targets is not None:
            return self.clean_correct & np.equal(self.predicted, self.targets)
        return self.clean_correct & np.not_equal(self.predicted, self.labels)

    @property
    def success_rate(self) -> float:
        """Share of the images diagnosed right when clean on which the attack succeeded; NaN if
        there are none."""
        right = int(self.clean_correct.sum())
        return float(self.success.sum() / right) if right else float("nan")

    def rows(self, index: npt.NDArray[np.intp] | Flags) -> AdversarialSet:
        """The images at ``index`` (integers or ``bool[N]``)."""
        chosen = np.arange(len(self))[index]
        keys = tuple(self.keys[i] for i in chosen)
        kept = set(keys)
        findings = (
            Unguided(finding.ailment, tuple(key for key in finding.keys if key in kept))
            for finding in self.findings
        )
        return AdversarialSet(
            spec=self.spec,
            seed=self.seed,
            container=self.container,
            keys=keys,
            groups=tuple(self.groups[i] for i in chosen),
            sources=tuple(self.sources[i] for i in chosen),
            pixels=tuple(self.pixels[i] for i in chosen),
            labels=self.labels[chosen],
            targets=None if self.targets is None else self.targets[chosen],
            clean_predicted=self.clean_predicted[chosen],
            predicted=self.predicted[chosen],
            linf=self.linf[chosen],
            l2=self.l2[chosen],
            mean_abs=self.mean_abs[chosen],
            findings=tuple(finding for finding in findings if finding.keys),
        )
