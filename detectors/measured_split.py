"""A split as the feature graph sees it: what detectors and their fusion are fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detectors.features import Features
from detectors.samples import (
    FIELDS,
    Classes,
    Measured,
    Samples,
    group_numbers,
    joined,
    measured_of,
)


@dataclass(frozen=True, slots=True)
class MeasuredSplit:
    """Benign images (clean ones first, then shifted) and successful attacks on the same patients.

    Attacks that failed are left out: they harm nobody, and a detector that learns from them
    learns noise.
    """

    benign: Measured
    benign_labels: Classes
    benign_groups: tuple[str, ...]
    clean: int
    """How many of the benign rows, the first ones, are clean."""
    attacked: Measured
    attacked_groups: tuple[str, ...]
    origins: tuple[str, ...]
    """Attack of each attacked row."""
    levels: npt.NDArray[np.float32]
    """``float32[M]``, its epsilon in grey levels."""

    @classmethod
    def build(
        cls,
        benign: Sequence[tuple[Samples, Measured]],
        attacked: Sequence[tuple[Samples, Measured]],
    ) -> Self:
        """From measured samples; the first benign ones are the clean originals of all others."""
        rows: list[Measured] = []
        groups: list[str] = []
        origins: list[str] = []
        levels: list[float] = []
        for (samples, measured), index in zip(
            attacked, successful(benign[0], attacked), strict=True
        ):
            rows.append(measured.rows(index))
            groups += [samples.groups[i] for i in index]
            origins += [samples.origin] * len(index)
            levels += [samples.level] * len(index)
        return cls(
            benign=joined([measured for _, measured in benign]),
            benign_labels=np.concatenate([samples.labels for samples, _ in benign]),
            benign_groups=tuple(g for samples, _ in benign for g in samples.groups),
            clean=len(benign[0][0]),
            attacked=joined(rows),
            attacked_groups=tuple(groups),
            origins=tuple(origins),
            levels=np.array(levels, dtype=np.float32),
        )

    def keep(self, rows: npt.NDArray[np.bool_]) -> MeasuredSplit:
        """The same with only the attacked ``rows``, ``bool[M]``."""
        index = np.flatnonzero(rows)
        return MeasuredSplit(
            self.benign,
            self.benign_labels,
            self.benign_groups,
            self.clean,
            self.attacked.rows(index),
            tuple(self.attacked_groups[i] for i in index),
            tuple(self.origins[i] for i in index),
            self.levels[index],
        )

    @property
    def group_numbers(self) -> Tensor:
        """``int64[N + M]``: benign rows, then attacked ones."""
        return group_numbers((*self.benign_groups, *self.attacked_groups))

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """For a safetensors file. Groups become numbers: a bundle names no patient."""
        numbers = self.group_numbers.numpy()
        stored: dict[str, npt.NDArray[Any]] = {
            f"{prefix}.benign_labels": self.benign_labels,
            f"{prefix}.groups": numbers,
            f"{prefix}.clean": np.array([self.clean], dtype=np.int64),
            f"{prefix}.levels": self.levels,
        }
        for name in sorted(set(self.origins)):
            stored[f"{prefix}.origin.{name}"] = np.array(
                [origin == name for origin in self.origins], dtype=np.bool_
            )
        for kind, measured in (("benign", self.benign), ("attacked", self.attacked)):
            for field in FIELDS:
                stored[f"{prefix}.{kind}.{field}"] = getattr(measured, field).astype(np.float16)
        return stored

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]], prefix: str) -> Self:
        """The inverse of ``arrays``, with features in half precision and groups as numbers."""

        def measured(kind: str) -> Measured:
            names = [field for field in FIELDS if f"{prefix}.{kind}.{field}" in arrays]
            return measured_of(
                names, [arrays[f"{prefix}.{kind}.{field}"].astype(np.float32) for field in names]
            )

        benign = measured("benign")
        groups = [str(number) for number in arrays[f"{prefix}.groups"]]
        origins = np.empty(len(groups) - len(benign.taps), dtype=object)
        marker = f"{prefix}.origin."
        for name, rows in arrays.items():
            if name.startswith(marker):
                origins[rows] = name.removeprefix(marker)
        return cls(
            benign=benign,
            benign_labels=arrays[f"{prefix}.benign_labels"],
            benign_groups=tuple(groups[: len(benign.taps)]),
            clean=int(arrays[f"{prefix}.clean"][0]),
            attacked=measured("attacked"),
            attacked_groups=tuple(groups[len(benign.taps) :]),
            origins=tuple(origins),
            levels=arrays[f"{prefix}.levels"],
        )


def successful(
    clean: tuple[Samples, Measured], attacked: Sequence[tuple[Samples, Measured]]
) -> list[npt.NDArray[np.intp]]:
    """Of each of ``attacked`` the rows whose diagnosis was right before and is not any more.

    Args:
        clean: the images that they were made from.
    """
    originals, measured = clean
    right = {
        key: bool(ok)
        for key, ok in zip(originals.keys, measured.predicted == originals.labels, strict=True)
    }
    return [
        np.flatnonzero(
            (found.predicted != samples.labels) & np.array([right[key] for key in samples.keys])
        )
        for samples, found in attacked
    ]


def fit_arguments(
    split: MeasuredSplit, widths: Sequence[int]
) -> tuple[Features, Tensor, Features, Tensor]:
    """The four arguments of ``Detector.fit``."""
    return (
        split.benign.features(widths),
        torch.from_numpy(split.benign_labels),
        split.attacked.features(widths),
        split.group_numbers,
    )
