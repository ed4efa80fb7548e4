"""A picture of what an attack did: clean, what was added, what was sent, and what was answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attacks.adversarial import Pixels
from attacks.judge import Grid

MOST = 6


@dataclass(frozen=True, slots=True)
class Contact:
    """One row of the sheet."""

    source: Grid
    result: Pixels
    before: str
    """Answer on the source."""
    after: str
    """Answer on the result."""
    success: bool


def contact_sheet(title: str, contacts: Sequence[Contact], path: Path) -> None:
    """Write a PNG with one row an image: source, amplified perturbation (gray is none), result."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 2.6 * len(contacts) + 0.4), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(contacts), 3, squeeze=False)
    for row, contact in zip(grid, contacts, strict=True):
        change = contact.result.astype(np.float32) - contact.source
        largest = float(np.abs(change).max())
        amplified = np.clip(0.5 + change / (2 * largest if largest else 1), 0, 1)
        shown = (
            (contact.source / 255, contact.before),
            (amplified, f"added, at most {largest:g}" if largest else "nothing added"),
            (
                np.clip(contact.result / 255, 0, 1),
                f"{contact.after}{'' if contact.success else ' (not fooled)'}",
            ),
        )
        for axes, (image, label) in zip(row, shown, strict=True):
            axes.imshow(_rgb(image), vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(label, fontsize=9)
            axes.set_axis_off()
    figure.savefig(path, dpi=80, metadata={"Software": None})


def _rgb(image: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
