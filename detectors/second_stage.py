"""The second stage: what a bundle holds of it, and its score. Torch-free: serving uses it.

Images that the first stage finds most suspicious are looked at again through several random views
(``detectors.draws``). The score is how far the predicted class's margin in them is, on average,
from what it is in benign images' views, in units of their spread (``detectors.agreement``).
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
OUTPUTS = ("view_logits", "view_change")


def feeds(pixels: npt.NDArray[np.uint8], draws: Draws) -> dict[str, npt.NDArray[Any]]:
    """``INPUTS`` of one image ``uint8[H, W, C]`` and its views."""
    arrays: tuple[npt.NDArray[Any], ...] = (
        np.ascontiguousarray(pixels),
        draws.rows,
        draws.columns,
        draws.noise,
    )
    return {name: array[None] for name, array in zip(INPUTS, arrays, strict=True)}


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

    @classmethod
    def of(cls, bundle: Bundle) -> Self | None:
        """None for a bundle without one. Raises ``BundleProblem``."""
        entry = bundle.manifest.second_stage
        if entry is None:
            return None
        try:
            arrays = load(bundle.read(SECOND))
            return cls(entry, arrays["expected"], arrays["spread"], arrays["smoothest"])
        except (SafetensorError, KeyError) as error:
            raise BundleProblem(
                f"{bundle.directory / SECOND}: {error}; fit the bundle again", Refusal.SCHEMA
            ) from None

    def as_bytes(self) -> bytes:
        """The content of ``second_stage.safetensors``."""
        return save(
            {
                "expected": np.ascontiguousarray(self.expected),
                "spread": np.ascontiguousarray(self.spread),
                "smoothest": np.ascontiguousarray(self.smoothest),
            }
        )

    def triaged(self, fused: Floats) -> npt.NDArray[np.bool_]:
        """``bool[N]``: who is looked at again, from first-stage scores ``float32[N]``."""
        chosen: npt.NDArray[np.bool_] = fused >= np.float32(self.entry.threshold)
        return chosen

    def score(self, plain: Floats, views: Floats, change: Floats) -> float:
        """Of one image: not negative; higher is more suspicious.

        Args:
            plain: ``float32[K]``, its class logits.
            views: ``float32[M, K]``, its views'.
            change: ``float32[M]``, root mean square of what each view moved.
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
        return float(abs(z.mean()))
