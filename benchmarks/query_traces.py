"""What attackers would have asked: recorded once, replayed against any history.

An attack that does not know of the history asks the same questions whether or not somebody
watches, up to the moment at which it is stopped. So each is run once against the bare model, every
file it sends is kept with what the model said, and histories judge the recording.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attacks.access import Access
from attacks.registry import parse
from attacks.spec import Scene, carry_out
from models.datasets import load_images, read_dataset
from models.load import load_model, victim_of

CLOSE = 8.0
"""Grey levels: what an attack may change, L-inf or r.m.s. by its norm, to count as a success."""
LIMIT = CLOSE + 0.5
"""With what rounding adds."""
ATTACKS = {
    "Square": f"square:eps={CLOSE}",
    "SimBA, pixels": "simba",
    "SimBA, cosines": "simba:basis=dct,step=4",
    "NES": f"nes:eps={CLOSE},samples=20",
    "HopSkipJump": "hopskipjump",
    "Boundary": "boundary",
    "SurFree": "surfree",
    "GeoDA": "geoda",
}


@dataclass(frozen=True)
class Trace:
    """One attack on one image."""

    attack: str
    source: npt.NDArray[np.uint8]
    label: int
    queries: npt.NDArray[np.uint8]
    """``uint8[Q, H, W, C]`` in the order of asking."""
    answers: npt.NDArray[np.int64]
    """``int64[Q]``: the predicted classes."""

    @property
    def success(self) -> int | None:
        """The index of the first query that is diagnosed wrongly and close to the source."""
        won = self.answers != self.label
        if not won.any():
            return None
        change = self.queries[won].astype(np.float32) - self.source
        near = np.sqrt((change**2).mean(axis=(1, 2, 3))) <= LIMIT
        places = won.nonzero()[0][near]
        return int(places[0]) if len(places) else None

    def close(self, image: npt.NDArray[np.uint8]) -> bool:
        """Whether so small a change counts."""
        change = image.astype(np.float32) - self.source
        return bool(np.sqrt((change**2).mean()) <= LIMIT)


def sources(name: str, data: Path, images: int, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A model and test images, one a patient, that it diagnoses right: ``float32[N, H, W, C]``."""
    model = victim_of(load_model(name))
    dataset = read_dataset(data, model.spec.classes)
    firsts = {e.group: e for e in dataset.examples if e.split in (None, "test")}
    held_out = list(firsts.values())
    order = np.random.default_rng(seed).permutation(len(held_out))
    drawn = load_images([held_out[i] for i in order[: 3 * images + 20]])
    channels = model.spec.preprocessing.channels
    side = model.spec.preprocessing.size
    batch = torch.stack(
        [fitting(torch.from_numpy(i.pixels).float(), channels, side) for i in drawn.images]
    )
    labels = torch.tensor([example.label for example in drawn.examples])
    with torch.no_grad():
        said = torch.cat([model(part).argmax(dim=1) for part in batch.split(16)])
    right = (said == labels).nonzero()[:images, 0]
    return model, batch[right], labels[right]


def fitting(pixels: Tensor, channels: int, side: tuple[int, int]) -> Tensor:
    """``[h, w, C]`` whole grey levels: as large as the network's input, as a client would send."""
    if channels == 1:
        pixels = pixels.mean(dim=2, keepdim=True)
    if tuple(pixels.shape[:2]) != tuple(side):
        pixels = torch.nn.functional.interpolate(
            pixels.permute(2, 0, 1)[None], side, mode="bilinear", antialias=True
        )[0].permute(1, 2, 0)
    return pixels.round().clamp(0, 255)


class Remembering(nn.Module):
    """The model, and what it said of each image by the image's bytes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.said: dict[bytes, int] = {}

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(pixels)
        grid = pixels.detach().to(torch.uint8).numpy()
        for image, answer in zip(grid, logits.argmax(dim=1).tolist(), strict=True):
            self.said[_key(image)] = answer
        return logits


def _key(image: npt.NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest()


def record(
    model: nn.Module, pixels: Tensor, labels: Tensor, names: Sequence[str], queries: int
) -> list[Trace]:
    """Every named attack on every image, ``queries`` questions each at most."""
    found = []
    for name in names:
        started = time.perf_counter()
        spec = parse(ATTACKS[name]).model_copy(update={"queries": queries})
        remembering = Remembering(model)
        access = Access(
            remembering,
            len(pixels),
            round_queries=lambda shown: shown.round().clamp(0, 255),
            keep_queries=True,
        )
        carry_out(spec, Scene(access, pixels, labels, range(len(pixels)), lambda _: None))
        assert access.queries is not None
        for i, asked in enumerate(access.queries):
            answers = np.array([remembering.said[_key(image)] for image in asked])
            source = pixels[i].numpy().astype(np.uint8)
            found.append(Trace(name, source, int(labels[i]), np.stack(asked), answers))
        spent = time.perf_counter() - started
        count = sum(len(asked) for asked in access.queries)
        print(f"{name}: {count} questions about {len(pixels)} images, {spent:.0f} s", flush=True)
    return found
