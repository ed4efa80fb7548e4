"""Images with what fitting and evaluation must know about them, and what a graph said of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detectors.features import Features
from models.onnx_engine import OnnxEngine

Pixels = npt.NDArray[np.uint8]
Classes = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class Samples:
    """N images of one origin: clean, one benign shift, or one attack."""

    images: tuple[Pixels, ...]
    """``uint8[H, W, C]`` each, as decoded from the delivered file; sizes may differ."""
    labels: Classes
    """``int64[N]``, true classes."""
    groups: tuple[str, ...]
    """Patient or source of each image."""
    keys: tuple[str, ...]
    """Name of the image each one was made from."""
    origin: str
    """``clean``, or the name of the corruption or attack."""
    level: float = 0.0
    """A corruption's severity or an attack's epsilon in grey levels."""
    attacked: bool = False
    sources: tuple[str, ...] = ()
    """Who sent each image, "" where that is not known; empty when nobody says."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def title(self) -> str:
        """``pgd 1``: for tables."""
        return self.origin if self.origin == CLEAN else f"{self.origin} {self.level:g}"

    def rows(self, index: npt.NDArray[np.intp]) -> Samples:
        """The images at ``index``."""
        return Samples(
            tuple(self.images[i] for i in index),
            self.labels[index],
            tuple(self.groups[i] for i in index),
            tuple(self.keys[i] for i in index),
            self.origin,
            self.level,
            self.attacked,
            tuple(self.sources[i] for i in index) if self.sources else (),
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """What the feature graph said of some samples, row by row."""

    probabilities: Floats
    taps: Floats
    """``float32[N, sum d]``."""
    class_logits: Floats
    squeezed_logits: Floats
    squeeze_change: Floats
    witness_logits: Floats
    residual: Floats
    picture: Floats
    grain: Floats
    aligned: Floats

    @property
    def predicted(self) -> Classes:
        """``int64[N]``."""
        predicted: Classes = np.argmax(self.class_logits, axis=1).astype(np.int64)
        return predicted

    def features(self, widths: Sequence[int]) -> Features:
        """The same as the detectors take it."""
        taps = torch.split(torch.from_numpy(self.taps), list(widths), dim=1)
        return Features(
            tuple(tap.contiguous() for tap in taps),
            torch.from_numpy(self.class_logits),
            torch.from_numpy(self.squeezed_logits),
            torch.from_numpy(self.squeeze_change),
            torch.from_numpy(self.witness_logits),
            torch.from_numpy(self.residual),
            torch.from_numpy(self.picture),
            torch.from_numpy(self.grain),
            torch.from_numpy(self.aligned),
        )

    def rows(self, index: npt.NDArray[np.intp] | Flags) -> Measured:
        """The rows at ``index``."""
        return Measured(
            self.probabilities[index],
            self.taps[index],
            self.class_logits[index],
            self.squeezed_logits[index],
            self.squeeze_change[index],
            self.witness_logits[index],
            self.residual[index],
            self.picture[index],
            self.grain[index],
            self.aligned[index],
        )


FIELDS = (
    "probabilities",
    "taps",
    "class_logits",
    "squeezed_logits",
    "squeeze_change",
    "witness_logits",
    "residual",
    "picture",
    "grain",
    "aligned",
)
ADDED = FIELDS[5:]
"""Outputs that graphs lack which have no student or no residual network, or were fitted before
there were statistics of the picture (grain among them) or the model's gradient: empty there."""
_MAY_LACK = ("squeeze_change", *ADDED)


def run_graph(
    engine: OnnxEngine,
    images: Sequence[Pixels],
    outputs: Sequence[str],
    progress: Callable[[int], None] = lambda _: None,
    batch: int = 32,
) -> tuple[Floats, ...]:
    """The named outputs for every image, in order. Images of one size share batches."""
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        by_shape[image.shape].append(i)
    order: list[int] = []
    parts: list[tuple[Floats, ...]] = []
    for rows in by_shape.values():
        for start in range(0, len(rows), batch):
            chosen = rows[start : start + batch]
            parts.append(engine.outputs(np.stack([images[i] for i in chosen]), outputs))
            order += chosen
            progress(len(chosen))
    back = np.argsort(np.array(order, dtype=np.intp))
    return tuple(np.concatenate(columns)[back] for columns in zip(*parts, strict=True))


def measure(
    engine: OnnxEngine,
    samples: Samples,
    progress: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Run the feature graph (or a fused one, which has its outputs too) over ``samples``."""
    names = fields_of(engine)
    return measured_of(names, run_graph(engine, samples.images, names, progress))


def fields_of(engine: OnnxEngine) -> list[str]:
    """Those of ``FIELDS`` that the engine's graph gives."""
    return [name for name in FIELDS if name not in _MAY_LACK or name in engine.output_names]


def measured_of(names: Sequence[str], values: Sequence[Floats]) -> Measured:
    """From outputs by name. One of ``ADDED`` that is missing is empty, and without a squeezed view
    squeezing changed nothing."""
    found = dict(zip(names, values, strict=True))
    nothing = np.zeros((len(found["taps"]), 0), np.float32)
    found.setdefault("squeeze_change", np.zeros(len(nothing), np.float32))
    return Measured(*(found.get(name, nothing) for name in FIELDS))


def joined(parts: Sequence[Measured]) -> Measured:
    """Rows of all parts, in order."""
    return Measured(*(np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS))


def group_numbers(groups: Sequence[str]) -> Tensor:
    """``int64[N]``: equal groups get equal numbers."""
    return torch.from_numpy(np.unique(np.array(groups), return_inverse=True)[1].astype(np.int64))
