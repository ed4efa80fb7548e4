"""A torch model's answers and activations, for float pixels too, which no served graph takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detectors.samples import Measured
from models.diagnostic import DiagnosticModel
from models.head import class_logits, probabilities

Image = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


def read(
    model: DiagnosticModel,
    images: Sequence[Image],
    progress: Callable[[int], None] = lambda _: None,
    batch: int = 16,
) -> Measured:
    """Logits, probabilities and taps of ``[H, W, C]`` images in grey levels, in their order, with
    no squeezed view."""
    device = next(model.network.parameters()).device
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        by_shape[image.shape].append(i)
    order: list[int] = []
    parts: list[tuple[npt.NDArray[Any], ...]] = []
    for rows in by_shape.values():
        for start in range(0, len(rows), batch):
            chosen = rows[start : start + batch]
            pixels = torch.from_numpy(np.stack([images[i] for i in chosen])).to(device)
            with torch.no_grad():
                logits, taps = model.activations(model.preprocess(pixels))
            head = model.spec.head
            columns = (probabilities(logits, head), torch.cat(taps, 1), class_logits(logits, head))
            parts.append(tuple(column.float().cpu().numpy() for column in columns))
            order += chosen
            progress(len(chosen))
    back = np.argsort(np.array(order, dtype=np.intp))
    said, taps_, logits_ = (np.concatenate(columns)[back] for columns in zip(*parts, strict=True))
    n = len(images)
    nothing = np.zeros((n, 0), np.float32)
    return Measured(said, taps_, logits_, nothing, np.zeros(n, np.float32), *[nothing] * 5)
