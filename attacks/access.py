"""An attack's way to the model: every pass is counted, a query can be rounded, judged and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attacks.objective import Model, reached

Judge = Callable[[Tensor, Tensor, bool], Tensor]
"""Pixels, labels and whether they are targets to ``bool[N]``: this image is what the attacker
wants. With a guard: misdiagnosed *and* accepted."""


class Access:
    """Wraps a model for one batch of N images.

    Call it on pixels of all N images, in order, or take ``at(rows)`` for some of them. A batch of
    r pixels an image (an expectation over transformations, say) counts r passes each.
    """

    def __init__(
        self,
        model: Model,
        images: int,
        *,
        round_queries: Callable[[Tensor], Tensor] | None = None,
        judge: Judge | None = None,
        keep_queries: bool = False,
    ) -> None:
        """
        Args:
            round_queries: what a file does to the pixels of a query; black-box attacks send files.
            judge: what counts as success; by default the model's answer alone.
            keep_queries: keep every query's pixels, rounded to uint8, by image.
        """
        self._model = model
        self._rows = torch.arange(images)
        self._round = round_queries
        self._judge = judge
        self.forwards = torch.zeros(images, dtype=torch.int64)
        """Forward passes, and so queries, of each image."""
        self.backwards = torch.zeros(images, dtype=torch.int64)
        self.queries: list[list[npt.NDArray[np.uint8]]] | None = (
            [[] for _ in range(images)] if keep_queries else None
        )

    def at(self, rows: Tensor) -> Access:
        """The same access for the images at ``rows`` (``int64`` or ``bool``) of this one."""
        view = object.__new__(Access)
        view.__dict__.update(self.__dict__)
        view._rows = self._rows[rows.cpu()]
        return view

    def through(self, model: Model) -> Access:
        """The same meter before another function of the pixels (a guard's readings): its passes
        count as this model's."""
        view = object.__new__(Access)
        view.__dict__.update(self.__dict__)
        view._model = model
        return view

    def __call__(self, pixels: Tensor) -> Tensor:
        pixels = self._sent(pixels)
        logits = self._model(pixels)
        if logits.requires_grad:
            rows, passes = self._rows, len(pixels) // max(len(self._rows), 1)

            def count(_: Tensor) -> None:
                self.backwards[rows] += passes

            logits.register_hook(count)  # type: ignore[no-untyped-call]  # untyped in torch
        return logits

    def fooled(self, pixels: Tensor, labels: Tensor, *, targeted: bool) -> Tensor:
        """``bool[N]``, one query each: is this image what the attacker wants?"""
        if self._judge is None:
            return reached(self(pixels), labels, targeted=targeted)
        return self._judge(self._sent(pixels), labels, targeted)

    def scored(self, pixels: Tensor, labels: Tensor, *, targeted: bool) -> tuple[Tensor, Tensor]:
        """Logits and what ``fooled`` says, one query each: a service answers both at once."""
        pixels = self._sent(pixels)
        logits = self._model(pixels)
        if self._judge is None:
            return logits, reached(logits, labels, targeted=targeted)
        return logits, self._judge(pixels, labels, targeted)

    def _sent(self, pixels: Tensor) -> Tensor:
        if not len(self._rows):
            return pixels
        if len(pixels) % len(self._rows):
            raise ValueError(f"{len(pixels)} pixels for {len(self._rows)} images; use at(rows)")
        passes = len(pixels) // len(self._rows)
        self.forwards[self._rows] += passes
        if self._round is not None:
            pixels = self._round(pixels)
        if self.queries is not None and passes == 1:
            grid = pixels.detach().round().clamp(0, 255).to(torch.uint8).cpu().numpy()
            for row, query in zip(self._rows.tolist(), grid, strict=True):
                self.queries[row].append(query)
        return pixels

    def __getattr__(self, name: str) -> Any:
        """What the wrapped model declares about itself (its ``spec``)."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._model, name)


def at(model: Model, rows: Tensor) -> Model:
    """``model`` for some images of the batch: where it counts, it counts on them."""
    return model.at(rows) if isinstance(model, Access) else model


def fooled(model: Model, pixels: Tensor, labels: Tensor, *, targeted: bool) -> Tensor:
    """``bool[N]``: is this image what the attacker wants? Asks the access's judge if it has one."""
    if isinstance(model, Access):
        return model.fooled(pixels, labels, targeted=targeted)
    return reached(model(pixels), labels, targeted=targeted)


def scored(
    model: Model, pixels: Tensor, labels: Tensor, *, targeted: bool
) -> tuple[Tensor, Tensor]:
    """Logits and ``bool[N]``, whether each image is what the attacker wants, in one query each."""
    if isinstance(model, Access):
        return model.scored(pixels, labels, targeted=targeted)
    logits = model(pixels)
    return logits, reached(logits, labels, targeted=targeted)
