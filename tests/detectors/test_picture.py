"""The picture's own statistics: what they must and must not notice."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from feature_cases import assert_exports
from PIL import Image
from torch import Tensor, nn

from detectors.features import Features
from detectors.picture import HEIGHTS, LAYOUT, ROUGHEST, Picture
from detectors.quality import Quality
from models.phantom import radiograph
from models.preprocess import Preprocess
from models.spec import Preprocessing


def picture(side: int, channels: int = 1) -> Picture:
    return Picture(
        Preprocess(
            Preprocessing(
                channels=3 if channels == 3 else 1,
                resize=(side, side),
                mean=(0.5,) * channels,
                std=(0.25,) * channels,
            )
        )
    )


class Part(nn.Module):
    """One of a reader's two answers."""

    def __init__(self, reader: Picture, part: int) -> None:
        super().__init__()
        self.reader, self.part = reader, part

    def forward(self, x: Tensor) -> Tensor:
        return self.reader(x)[self.part]


def shares(pixels: Tensor) -> Tensor:
    """Shares of the way from black to white as the network's input."""
    return (pixels - 0.5) / 0.25


def told_apart_by_the_picture(reader: Picture, pixels: Tensor, seed: int) -> Features:
    """Of shares of the way from black to white; taps and logits are noise."""
    draw = torch.Generator().manual_seed(seed)
    n, none = len(pixels), torch.zeros(len(pixels), 0)
    taps = (torch.randn(n, 6, generator=draw),)
    logits = torch.randn(n, 2, generator=draw)
    with torch.no_grad():
        seen = reader(shares(pixels))
    return Features(taps, logits, none, torch.zeros(n), none, none, *seen, none)


def test_the_energy_of_a_grating_is_in_its_own_band() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(64).expand(128, 128)[None, None]
    texture, grain = picture(128)(shares(stripes))
    bands = texture[0, :12].exp().reshape(4, 3)[[1, 0, 2, 3]]  # the first level comes second
    # columns alternate by 4 of the input's units: their Haar difference is 2 (a - b) / 4, in one
    # corner of each of 32 x 32 areas
    assert bands[0, 1].item() == pytest.approx(2.0 * 32, rel=1e-5)
    assert float(bands.sum() - bands[0, 1]) < 0.02  # each at least a thousandth
    heights = grain[0, :18].exp().reshape(3, 6)  # the second level comes first, then the first
    torch.testing.assert_close(heights[:, 4], torch.tensor(HEIGHTS))
    assert float(heights.sum() - heights[:, 4].sum()) < 0.2


def test_grain_is_of_what_is_everywhere() -> None:
    """Edges of one step all over the image move it more than a text or a corner that is far
    brighter does, which rule the energies."""
    image = torch.from_numpy(radiograph(1, 0, opacities=False, size=128)[..., 0] / 255)
    pixels = image.float()[None, None]
    blobs = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    step = torch.nn.functional.avg_pool2d(blobs, 5, 1, 2).sign() * 8 / 255
    labelled, cornered = pixels.clone(), pixels.clone()
    labelled[..., 8:16, 8:60] = (torch.arange(52) % 4 < 2).float()
    cornered[..., :30, :30] = 0
    with torch.no_grad():
        (clean, plain), (_, stepped), (text, lettered), (_, black) = (
            picture(128)(shares(shown)) for shown in (pixels, pixels + step, labelled, cornered)
        )
    moved = [float((grain - plain).abs().mean()) for grain in (stepped, lettered, black)]
    assert moved[0] > 3 * max(moved[1:])
    assert float((text - clean)[0, :12].abs().mean()) > 2 * moved[1]


def test_layout_is_the_same_in_another_window_and_another_when_turned() -> None:
    image = torch.from_numpy(radiograph(1, 0, opacities=False, size=128)[..., 0] / 255)
    pixels = image.float()[None, None]
    reader = picture(128)
    layout, windowed, turned = (
        reader(shares(shown))[0][:, -(LAYOUT**2) - ROUGHEST : -ROUGHEST]
        for shown in (pixels, pixels * 0.6 + 0.1, pixels.flip(2))
    )
    torch.testing.assert_close(layout, windowed, atol=1e-4, rtol=1e-4)
    assert layout.mean().abs() < 1e-5
    assert float((layout - turned).abs().max()) > 0.04


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (128, 3), (224, 1), (200, 3)])
def test_every_size_has_its_width_and_exports(side: int, channels: int) -> None:
    reader = picture(side, channels)

    def inputs(n: int) -> tuple[Tensor, ...]:
        draw = torch.Generator().manual_seed(n)
        return (shares(torch.rand(n, channels, side, side, generator=draw)),)

    statistics, grain = reader(*inputs(2))
    assert statistics.shape == (2, reader.width)
    assert grain.shape == (2, reader.grain_width)
    for found in reader(shares(torch.zeros(1, channels, side, side))):
        assert torch.isfinite(found).all()
    for part in (0, 1):
        assert_exports(Part(reader, part), inputs)


def test_a_network_for_gray_images_is_told_of_a_coloured_one() -> None:
    """Its own input is the mean of the channels. A gray JPEG stored in colour and one with a
    coloured label are gray all the same."""
    gray = np.repeat(radiograph(1, 0, opacities=False, size=128), 3, axis=2)
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "JPEG", quality=50)
    labelled, tinted = gray.copy(), gray.copy()
    labelled[5:15, 5:40] = (255, 40, 40)
    tinted[..., 2] //= 2
    shown = [gray[..., :1], gray, np.array(Image.open(file)), labelled, tinted]
    reader = picture(128)
    x = shares(torch.from_numpy(gray[None, None, ..., 0]).float() / 255)
    plain = reader(x)[0]
    moved = [(reader(x, torch.from_numpy(image)[None])[0] - plain).abs() for image in shown]
    assert [float(change.max()) for change in moved[:4]] == [0, 0, 0, 0]
    assert int((moved[4] > 1).sum()) == 1


@pytest.mark.parametrize("cell", [1, 4])
def test_a_patch_is_the_roughest_place_wherever_it_is(cell: int) -> None:
    """Noise on a twentieth of the picture, as a patch attack paints it, pixel by pixel or in cells;
    and a smoother picture is never the farther for it."""
    chests = np.stack([radiograph(patient, 0, opacities=False, size=128) for patient in range(60)])
    pixels = torch.from_numpy(chests[..., 0]).float()[:, None] / 255
    draw = torch.Generator().manual_seed(0)
    reader, patched = picture(128), pixels[40:].clone()
    for image in patched:
        # not on the grid of areas of 4 x 4, where cells as large show at the third level alone
        row, column = (4 * torch.randint(0, 24, (2,), generator=draw) + 2).tolist()
        paint = torch.rand(1, 28 // cell, 28 // cell, generator=draw)
        paint = paint.repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)
        image[:, row : row + 28, column : column + 28] = paint

    known = told_apart_by_the_picture(reader, pixels[:40], 1)
    labels = torch.arange(40) % 2
    quality = Quality().fit(known, labels, known.rows(torch.arange(0)), torch.arange(40))
    smooth = torch.nn.functional.avg_pool2d(pixels[40:], 3, 1, 1)
    with torch.no_grad():
        far, near, calm = (
            quality.of_distances(
                torch.full((20, 1), -9.0), told_apart_by_the_picture(reader, shown, 2)
            )
            for shown in (patched, pixels[40:], smooth)
        )
    assert float(far.min()) > max(1.5, float(near.max()))
    assert (calm < near + 0.05).all()


def test_areas_are_means() -> None:
    areas = picture(200).areas
    torch.testing.assert_close(areas.sum(dim=0), torch.ones(LAYOUT**2))


def test_a_network_that_sees_no_difference_does_not_hide_another_kind_of_picture() -> None:
    """The taps of both kinds are alike; only the pictures differ."""

    def features(images: list[np.ndarray], seed: int) -> Features:
        pixels = torch.stack([torch.from_numpy(i[..., 0]).float()[None] / 255 for i in images])
        return told_apart_by_the_picture(picture(64), pixels, seed)

    chests = [radiograph(patient, 0, opacities=False, size=64) for patient in range(90)]
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    discs = []
    for _ in range(20):
        row, column, radius = *rng.uniform(24, 40, 2).tolist(), rng.uniform(14, 24)
        disc = np.hypot(rows - row, columns - column) < radius
        discs.append((180 * disc + rng.uniform(10, 40, (64, 64))).astype(np.uint8)[..., None])
    known = features(chests[:60], 1)
    labels = torch.arange(60) % 2
    quality = Quality().fit(known, labels, known.rows(torch.arange(0)), torch.arange(60))
    with torch.no_grad():
        own, strange = quality(features(chests[60:], 2)), quality(features(discs, 3))
    assert float(strange.min()) > float(own.max())
