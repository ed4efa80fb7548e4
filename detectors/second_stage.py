"""The second stage: what a bundle holds of it, and its score. Torch-free: serving uses it.

Images that the first stage finds most suspicious are looked at again through several random views
(``detectors.draws``), and along the model's own gradient. Two things are asked: how far the
predicted class's margin in the views is, on average, from what it is in benign images' views
(``detectors.agreement``), and how far above benign images' is the correlation of the finest texture
with a step along the gradient (``detectors.alignment``); each in units of its spread, and the score
is the root of the sum of their squares. The first stage can only afford what is foretold of the
gradient (``detectors.synthetic_gradient``); for the few looked at here the network runs backwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from detectors.bundle import Bundle, SecondStageEntry
from detectors.draws import Draws
from detectors.manifest_file import BundleProblem, Refusal
from models.engine import Floats

SECOND_GRAPH = "second_stage.onnx"
SECOND = "second_stage.safetensors"
INPUTS = ("image", "rows", "columns", "noise")
OUTPUTS = ("view_logits", "view_change", "aligned")
WEIGHT = 4.0
"""Of its score beside the first stage's. What made triage pick a benign image is mostly its noise
or its blur; the second stage knows better. On the fit's own patients four raises 0.4 to 0.8 of the
shifted images that one raises, and holds the same attacks (docs/evidence.md)."""


def feeds(pixels: npt.NDArray[np.uint8], draws: Draws) -> dict[str, npt.NDArray[Any]]:
    """``INPUTS`` of one image ``uint8[H, W, C]`` and its views."""
    arrays: tuple[npt.NDArray[Any], ...] = (
        np.ascontiguousarray(pixels),
        draws.rows,
        draws.columns,
        draws.noise,
    )
    return {name: array[None] for name, array in zip(INPUTS, arrays, strict=True)}


_ARRAYS = ("expected", "spread", "smoothest", "along", "reach")


@dataclass(frozen=True, slots=True)
class SecondStage:
    """Fitted numbers of a bundle's second stage."""

    entry: SecondStageEntry
    expected: Floats
    """``float32[K, 4]``, ``Agreement``'s."""
    spread: Floats
    """``float32[K, 4]``, ``Agreement``'s."""
    smoothest: Floats
    """``float32[]``, ``Agreement``'s."""
    along: Floats
    """``float32[2, K, 4]``, ``Alignment``'s ``expected`` and ``spread``; ``[2, 0, 4]`` where the
    network does not run backwards."""
    reach: Floats
    """``float32[2]``, ``Alignment``'s."""

    @classmethod
    def of(cls, bundle: Bundle) -> Self | None:
        """None for a bundle without one. Raises ``BundleProblem``."""
        entry = bundle.manifest.second_stage
        if entry is None:
            return None
        try:
            arrays = load(bundle.read(SECOND))
            return cls(entry, *(arrays[name] for name in _ARRAYS))
        except (SafetensorError, KeyError) as error:
            raise BundleProblem(
                f"{bundle.directory / SECOND}: {error}; fit the bundle again", Refusal.SCHEMA
            ) from None

    def as_bytes(self) -> bytes:
        """The content of ``second_stage.safetensors``."""
        return save({name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS})

    def triaged(self, fused: Floats) -> npt.NDArray[np.bool_]:
        """``bool[N]``: who is looked at again, from first-stage scores ``float32[N]``."""
        chosen: npt.NDArray[np.bool_] = fused >= np.float32(self.entry.threshold)
        return chosen

    def score(self, plain: Floats, views: Floats, change: Floats, aligned: Floats) -> float:
        """Of one image: not negative; higher is more suspicious.

        Args:
            plain: ``float32[K]``, its class logits.
            views: ``float32[M, K]``, its views'.
            change: ``float32[M]``, root mean square of what each view moved.
            aligned: ``float32[2 or 0]``, the graph's.
        """
        second, first = np.argsort(plain)[-2:]
        margin = plain[first] - plain[second]
        moved = np.maximum(change, self.smoothest)
        known = np.stack(
            [np.ones_like(moved), np.full_like(moved, margin), moved, np.square(moved)], axis=1
        )
        rivals = np.delete(views, first, axis=1).max(axis=1)
        actual = views[:, first] - rivals
        z = (known @ self.expected[first] - actual) / (known @ self.spread[first])
        return float(np.hypot(z.mean(), self._along(int(first), aligned)))

    def _along(self, predicted: int, aligned: Floats) -> float:
        """How far above the benign images' the correlation lies; 0 below it."""
        if len(aligned) == 0:
            return 0.0
        correlation, height = aligned[0], np.clip(aligned[1], *self.reach)
        known = np.array([1, height, height**2, 1 / height], np.float32)
        expected, spread = self.along[:, predicted] @ known
        return max(0.0, float((correlation - expected) / spread))
