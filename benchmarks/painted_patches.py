"""Patches painted to be smooth, and what a guard's routes make of them.

    PYTHONPATH=. python benchmarks/painted_patches.py --bundle runs/modalities/bundles/B \\
        --model runs/modalities/models/M --data $LAZARET_DATA/derm_isic2017 \\
        --out docs/results/painted_patches.md

A patch that is learnt pixel by pixel is rougher than any place of an honest picture, and the
quality route says so. Who knows that paints in larger cells, with soft edges between them. So here
does this attacker: a square of a twentieth of the image at a place that is drawn, learnt on the
image itself by sign steps on the loss, by cells of so many pixels between which it is
interpolated; at the first of three places that works.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.beyond_noise.patch import drawn_corners, pasted, side_of
from detectors.bundle import Bundle
from detectors.guard_data import clean_samples, draw, test_examples
from detectors.judgement import Fates, fates, judge
from detectors.samples import Samples
from detectors.staged_engine import open_engine
from models.datasets import load_images, read_dataset
from models.load import load_model, victim_of
from models.machine import describe

AREA, PLACES, STEPS, STEP = 0.05, 3, 60, 12.0


def painted(model: nn.Module, pixels: Tensor, label: Tensor, cell: int, seed: int) -> Tensor:
    """``float32[1, H, W, C]`` in whole grey levels, from one image."""
    height, width, channels = pixels.shape[1:]
    side = side_of(AREA, None, height, width)
    corners = drawn_corners([seed], side, height, width)
    cells = -(-side // cell)
    generator = torch.Generator().manual_seed(seed)
    paint = 255 * torch.rand(1, channels, cells, cells, generator=generator)

    def shown() -> Tensor:
        smooth = functional.interpolate(paint, (side, side), mode="bilinear", align_corners=False)
        return pasted(pixels, smooth.permute(0, 2, 3, 1), corners)

    for step in range(STEPS):
        paint.requires_grad_()
        loss = functional.cross_entropy(model(shown()), label)
        (gradient,) = torch.autograd.grad(loss, paint)
        paint = paint.detach() + STEP * (1 - step / STEPS) * gradient.sign()
        paint = paint.clamp(0, 255)
    with torch.no_grad():
        return shown().round()


def attacked(model: nn.Module, samples: Samples, cell: int) -> Samples:
    """Of each image the first patch of a few that fools the model, or the last."""
    images = []
    for i, image in enumerate(samples.images):
        pixels, label = torch.tensor(image)[None].float(), torch.tensor([int(samples.labels[i])])
        for place in range(PLACES):
            found = painted(model, pixels, label, cell, PLACES * i + place)
            with torch.no_grad():
                fooled = int(model(found).argmax()) != int(label)
            if fooled:
                break
        images.append(found[0].byte().numpy())
    return replace(samples, images=tuple(images), origin="painted", attacked=True)


def rows(
    bundle: Bundle, model: nn.Module, clean: Samples, images: int, cells: list[int]
) -> Iterator[str]:
    """The table's."""
    engine = open_engine(bundle)
    told = judge(bundle, engine, clean)
    drawn = draw(clean.rows(np.flatnonzero(told.right)), images, 0)
    for cell in cells:
        found: Fates = fates(told, judge(bundle, engine, attacked(model, drawn, cell)))
        shares = (found.wrong, found.harmed, found.harmed_either, found.harmed_served)
        values = " | ".join(f"{100 * share.sum() / found.eligible.sum():.1f} %" for share in shares)
        yield f"| {cell} | {found.eligible.sum()} | {values} |"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=36)
    parser.add_argument("--cells", default="1,4,7,14")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    bundle, model = Bundle.open(given.bundle), load_model(given.model)
    dataset = read_dataset(given.data, model.spec.classes)
    rendering = model.spec.preprocessing.rendering
    clean = clean_samples(load_images(test_examples(dataset, 0), rendering=rendering))
    cells = [int(cell) for cell in given.cells.split(",")]
    table = list(rows(bundle, victim_of(model, "cpu"), clean, given.images, cells))
    page = [
        "# Patches painted to be smooth",
        "",
        f"`python benchmarks/painted_patches.py --bundle {given.bundle} --model {given.model} "
        f"--data {given.data} --images {given.images} --cells {given.cells}`; {describe()}.",
        "",
        "Test images that the model has right; a patch of a twentieth of the image, learnt on the "
        f"image itself in {STEPS} steps, at the first of {PLACES} places that works. Undetected "
        "harm at a realised 1 % of clean images: by the adversarial score alone, by either route "
        "with 1 % in all, and as served at the bundle's levels.",
        "",
        "| pixels a cell | images | success | undetected harm | by either route | as served |",
        "|---|---|---|---|---|---|",
        *table,
        "",
    ]
    given.out.write_text("\n".join(page))


if __name__ == "__main__":
    main()
