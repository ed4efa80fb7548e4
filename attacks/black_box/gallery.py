"""The attacker's own images, as places to start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from attacks.ball import Norm, size
from attacks.spec import Attacker


@dataclass(frozen=True, slots=True)
class Gallery:
    """Images of the same kind as those attacked, and their classes.

    A medical model may give all noise one class, and then noise starts no attack on an image of
    that class; a picture of another class does (HopSkipJump and its kin are run from one where a
    class is to be reached; Chen et al. 2020, arXiv 1904.02144, section V).
    """

    pixels: tuple[Tensor, ...]
    """``float32[H, W, C]`` each, in grey levels 0 to 255; sizes may differ."""
    labels: Tensor
    """``int64[M]`` or ``bool[M, L]``."""

    @classmethod
    def of(cls, attacker: Attacker) -> Self:
        return cls(attacker.pixels, attacker.labels)

    def starts(
        self, source: Tensor, labels: Tensor, norm: Norm, tries: int, *, targeted: bool
    ) -> list[list[Tensor]]:
        """For each of N images the ``tries`` nearest of another class, or of the wanted one, in
        its size, nearest first.

        Args:
            source: ``float32[N, H, W, C]``.
            labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        """
        fitting = [i for i, image in enumerate(self.pixels) if image.shape[2] == source.shape[3]]
        if not fitting:
            return [[] for _ in range(len(source))]
        shown = torch.stack([_sized(self.pixels[i], source) for i in fitting])
        answers = self.labels[fitting].to(labels.device)
        found = []
        for image, label in zip(source, labels, strict=True):
            same = (
                (answers == label).flatten(1).all(dim=1) if labels.ndim == 2 else answers == label
            )
            wanted = (same if targeted else ~same).nonzero()[:, 0]
            near = size(shown[wanted] - image, norm).argsort()[:tries]
            found.append(list(shown[wanted[near]]))
        return found


def _sized(image: Tensor, like: Tensor) -> Tensor:
    """``float32[H, W, C]`` in the height and width of ``like[0]``."""
    height, width = like.shape[1:3]
    if image.shape[:2] == (height, width):
        return image.to(like)
    planes = image.to(like).movedim(2, 0)[None]
    return functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)[
        0
    ].movedim(0, 2)
