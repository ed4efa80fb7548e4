"""Yes-or-no questions to a model: a budget of them for each image, and the best answer so far.

What decision-based attacks share: where they start, and the search along a line for the boundary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from attacks.access import at, fooled
from attacks.ball import WHITE, Norm, size
from attacks.black_box.gallery import Gallery
from attacks.black_box.noise import Noise
from attacks.objective import Model

RESOLUTION = 0.05
"""Grey levels. A search ends once no pixel differs by more between its two ends: a file shows
nothing finer."""


class Questions:
    """Asks about images and remembers, for each source, the closest one that won."""

    def __init__(
        self,
        model: Model,
        source: Tensor,
        labels: Tensor,
        *,
        norm: Norm,
        queries: int,
        targeted: bool,
    ) -> None:
        self._model, self._labels, self._targeted = model, labels, targeted
        self.source, self.norm = source, norm
        count = len(source)
        self.left = torch.full((count,), queries, dtype=torch.int64, device=source.device)
        """``[N]``: queries that each image may still ask."""
        self.best = source.clone()
        """``[N, H, W, C]``: the closest winner; the source where there is none yet."""
        self.distance = torch.full((count,), float("inf"), device=source.device)
        """``[N]``: its distance, infinite where there is none yet."""

    def ask(self, candidates: Tensor, rows: Tensor) -> Tensor:
        """``bool[M]``: does the candidate of each image at ``rows``, ``int64[M]``, win? One query
        each; no, and unasked, where the budget is spent."""
        won = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        able = (self.left[rows] > 0).nonzero()[:, 0]
        if len(able) == 0:
            return won
        asked, shown = rows[able], candidates[able]
        with torch.no_grad():
            won[able] = fooled(
                at(self._model, asked), shown, self._labels[asked], targeted=self._targeted
            ).to(won.device)
        self.left[asked] -= 1
        length = size(shown - self.source[asked], self.norm)
        closer = won[able] & (length < self.distance[asked])
        self.best[asked[closer]] = shown[closer]
        self.distance[asked[closer]] = length[closer]
        return won

    @property
    def open(self) -> Tensor:
        """``int64[M]``: the images that have a winner, not the source itself, and queries left."""
        started = self.distance.isfinite() & (self.distance > 0)
        return (started & (self.left > 0)).nonzero()[:, 0]

    def closest(self, epsilon: float | None) -> Tensor:
        """``[N, H, W, C]``: the closest winner, or the source where none is within ε."""
        limit = float("inf") if epsilon is None else epsilon
        return torch.where((self.distance <= limit)[:, None, None, None], self.best, self.source)

    @property
    def _unstarted(self) -> Tensor:
        """``int64[M]``: the images that have no winner yet, and queries left."""
        return (self.distance.isinf() & (self.left > 0)).nonzero()[:, 0]

    def begin(self, seeds: Sequence[int], tries: int, gallery: Gallery | None = None) -> None:
        """Look for a first winner: the source itself, then the nearest images of another class
        that the attacker has, then noise from ``starting_point``; ``tries`` of each."""
        everyone = torch.arange(len(self.source), device=self.source.device)
        self.ask(self.source, everyone)
        if gallery is not None:
            rows = self._unstarted
            starts = gallery.starts(
                self.source[rows], self._labels[rows], self.norm, tries, targeted=self._targeted
            )
            own = dict(zip(rows.tolist(), starts, strict=True))
            for attempt in range(tries):
                left = [row for row in self._unstarted.tolist() if attempt < len(own.get(row, ()))]
                if not left:
                    break
                shown = torch.stack([own[row][attempt] for row in left])
                self.ask(shown, torch.tensor(left, device=self.source.device))
        for attempt in range(tries):
            rows = self._unstarted
            if len(rows) == 0:
                return
            noise = Noise([seeds[row] for row in rows.tolist()], attempt)
            self.ask(starting_point(noise, self.source[rows], attempt), rows)

    def approach(self, far: Tensor, rows: Tensor) -> Tensor:
        """``[M, H, W, C]``: the winner closest to the boundary between ``far``, which won, and the
        source, by bisection of the radius: of the whole change for L2, of each pixel's for L-inf.
        """
        source = self.source[rows]
        change = far - source
        peak = change.abs().amax(dim=(1, 2, 3))
        low, high = torch.zeros_like(peak), torch.ones_like(peak)

        def within(share: Tensor, index: Tensor) -> Tensor:
            limit = share[:, None, None, None]
            if self.norm is Norm.LINF:
                limit = limit * peak[index, None, None, None]
                return source[index] + change[index].clamp(-limit, limit)
            return source[index] + limit * change[index]

        while True:
            wide = ((high - low) * peak > RESOLUTION) & (self.left[rows] > 0)
            index = wide.nonzero()[:, 0]
            if len(index) == 0:
                return within(high, torch.arange(len(rows), device=rows.device))
            middle = (low[index] + high[index]) / 2
            won = self.ask(within(middle, index), rows[index])
            high[index] = torch.where(won, middle, high[index])
            low[index] = torch.where(won, low[index], middle)


def starting_point(noise: Noise, like: Tensor, attempt: int) -> Tensor:
    """``[M, H, W, C]``: an image that shows nothing. Even attempts are uniform noise, as in the
    papers; odd ones are smooth, of 1 to 8 cells a side and random contrast, since a medical model
    may give all fine noise one class."""
    everyone = torch.arange(len(like), device=like.device)
    fine = noise.uniform(everyone, like)
    if attempt % 2 == 0:
        return fine * WHITE
    cells = 1 + attempt // 2 % 8
    ends = fine.flatten(1)[:, :2].sort(dim=1).values[:, :, None, None, None] * WHITE
    coarse = functional.interpolate(
        functional.adaptive_avg_pool2d(fine[:, : 2 * cells, : 2 * cells].movedim(3, 1), cells),
        size=like.shape[1:3],
        mode="bilinear",
    ).movedim(1, 3)
    # an average of few uniform numbers hugs 1/2: stretched, it reaches both ends
    return ends[:, 0] + ((coarse - 0.5) * 2 + 0.5).clamp(0, 1) * (ends[:, 1] - ends[:, 0])
