"""Transforms, headers and learned perturbations: bounds that no norm states, and answers known."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import torch
from pydicom.pixels import apply_voi_lut
from torch import Tensor

from attacks.access import Access
from attacks.ball import Norm, size
from attacks.beyond_noise.bias_field import polynomials
from attacks.beyond_noise.dicom_header import (
    AS_STORED,
    DicomHeader,
    Header,
    best_header,
    shown,
    write,
)
from attacks.beyond_noise.patch import Patch, drawn_corners, side_of
from attacks.beyond_noise.search import multiples
from attacks.beyond_noise.spatial import displacement, moved
from attacks.beyond_noise.universal import Universal
from attacks.gradient import Ailment
from attacks.objective import reached
from attacks.registry import parse
from attacks.spec import Attacker, Scene
from models.imaging.decode import decode
from models.imaging.encode import dicom

NO_ROOM = (
    "gamma:bound=1",
    "contrast:factor=1,brightness=0",
    "spatial:degrees=0,shift=0",
    "bias_field:gain=1",
    "dicom_header:shift=0,stretch=1,sigmoid=false,inverted=false",
)
NARROW_AND_WIDE = (
    ("gamma:bound=1.2,spacing=0.1", "gamma:bound=2.3,spacing=0.1"),
    ("contrast:factor=1.1,brightness=10", "contrast:factor=1.7,brightness=37"),
    ("spatial:degrees=5,shift=1", "spatial:degrees=11,shift=2"),
    ("bias_field:gain=1.1", "bias_field:gain=1.33"),
    ("dicom_header:shift=8,inverted=false", "dicom_header:shift=30,inverted=false"),
)
SEARCHED = tuple(text.partition(":")[0] for text in NO_ROOM)


def scene_of(task, count: int, **changes) -> Scene:
    access = Access(task.model, count, judge=changes.pop("judge", None))
    labels = changes.pop("labels", task.labels[:count])
    return Scene(access, task.pixels[:count], labels, range(count), lambda _: None, **changes)


def attacker_of(task, count: int = 30) -> Attacker:
    return Attacker(task.model, tuple(task.pixels[-count:]), task.labels[-count:], seed=3)


def brightness_model(threshold: float):
    """Class 1 above a mean grey level, else class 0."""

    def model(pixels: Tensor) -> Tensor:
        above = pixels.double().mean(dim=(1, 2, 3)) - threshold
        return torch.stack([-above, above], dim=1)

    return model


def flat(*levels: float) -> Tensor:
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 8, 8, 1).clone()


@pytest.mark.parametrize("text", NO_ROOM)
def test_without_room_the_source_comes_back_bit_for_bit(task, text):
    scene = scene_of(task, 10)
    assert torch.equal(parse(text).attack(scene), scene.pixels)


@pytest.mark.parametrize(("narrow", "wide"), NARROW_AND_WIDE)
def test_wider_bounds_are_never_weaker(task, narrow, wide):
    fooled = [
        reached(
            task.model(parse(text).attack(scene_of(task, 30))), task.labels[:30], targeted=False
        )
        for text in (narrow, wide)
    ]
    assert (fooled[1] | ~fooled[0]).all()
    assert fooled[1].sum() > fooled[0].sum(), "the bounds are not where it is decided"


@pytest.mark.parametrize("method", SEARCHED)
def test_targets_are_reached_or_the_source_comes_back(three_classes, method):
    task = three_classes
    targets = (task.labels[:20] + 1) % 3
    scene = scene_of(task, 20, labels=targets)
    attacked = parse(f"{method}:targeted=true").attack(scene)
    there = reached(task.model(attacked), targets, targeted=True)
    assert there.any()
    assert torch.equal(attacked[~there], scene.pixels[~there])


@pytest.mark.parametrize("method", [name for name in SEARCHED if name != "bias_field"])
def test_a_guard_that_accepts_nothing_is_never_passed(task, method):
    scene = scene_of(task, 5, judge=lambda pixels, *_: torch.zeros(len(pixels), dtype=torch.bool))
    assert torch.equal(parse(method).attack(scene), scene.pixels)


def test_the_smallest_gamma_is_the_one_that_reaches_the_threshold():
    dark, bright, far = 60.0, 140.0, 2.0
    pixels, labels = flat(dark, bright, far), torch.tensor([0, 1, 0])
    scene = Scene(brightness_model(100.0), pixels, labels, range(3))
    attacked = parse("gamma:bound=2,halvings=12").attack(scene)
    assert attacked[:2, 0, 0, 0].tolist() == pytest.approx([100.0, 100.0], abs=0.05)
    assert torch.equal(attacked[2], pixels[2]), "γ = 1/2 brings 2 grey levels to 23 only"


def test_the_smallest_window_is_the_nearest_by_grey_levels():
    scene = Scene(brightness_model(100.0), flat(90.0, 50.0), torch.tensor([0, 0]), range(2))
    attacked = parse("contrast:factor=1,brightness=40,halvings=12").attack(scene)
    assert attacked[0, 0, 0, 0].item() == pytest.approx(100.0, abs=0.05)
    assert torch.equal(attacked[1], scene.pixels[1]), "50 grey levels are out of reach"


def test_multiples_of_a_wider_bound_contain_those_of_a_narrower():
    assert set(multiples(0.3, 0.1).tolist()) < set(multiples(0.77, 0.1).tolist())
    assert len(multiples(0.3, 0.1)) == 7, "the bound itself is a multiple"


def test_shifts_and_right_angles_move_whole_pixels():
    pixels = torch.rand(3, 7, 7, 2, generator=torch.Generator().manual_seed(0)) * 255
    down_and_right = torch.tensor([[0.0, 2.0, 1.0]]).expand(3, -1)
    shifted = moved(pixels, down_and_right)
    torch.testing.assert_close(shifted[:, 2:, 1:], pixels[:, :-2, :-1], rtol=0, atol=1e-3)
    torch.testing.assert_close(shifted[:, 0, 1:], pixels[:, 0, :-1], rtol=0, atol=1e-3)
    assert moved(pixels, down_and_right, "black")[:, :2].max() < 1e-3
    quarter = moved(pixels, torch.tensor([[90.0, 0.0, 0.0]]).expand(3, -1))
    torch.testing.assert_close(quarter, pixels.rot90(1, (1, 2)), rtol=0, atol=1e-2)


def test_displacement_is_how_far_pixels_move():
    degrees, down, right, height, width = 20.0, 2.0, -1.0, 200, 100
    v, u = np.mgrid[0:height, 0:width].astype(float)
    v, u = v - (height - 1) / 2, u - (width - 1) / 2
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    squares = (c * u + s * v + right - u) ** 2 + (-s * u + c * v + down - v) ** 2
    found = displacement(torch.tensor([[degrees, down, right]]), height, width).item()
    assert found == pytest.approx(math.sqrt(squares.mean()), rel=1e-3)


def test_a_bias_field_is_smooth_and_within_its_gain(task):
    spec = parse("bias_field:gain=1.3,degree=2")
    scene = scene_of(task, 30)
    attacked = spec.attack(scene)
    changed = (attacked != scene.pixels).flatten(1).any(dim=1)
    assert changed.sum() > 5
    basis = polynomials(16, 16, 2).flatten(1).double()
    for image, source in zip(attacked[changed], scene.pixels[changed], strict=True):
        seen = ((source > 0) & (image < 255)).flatten()
        field = (image.flatten()[seen].double() / source.flatten()[seen].double()).log()
        assert field.abs().max() <= math.log(1.3) + 1e-6
        fit = torch.linalg.lstsq(basis[:, seen].T, field[:, None]).solution
        assert ((basis[:, seen].T @ fit)[:, 0] - field).abs().max() < 1e-5


@pytest.mark.parametrize("carrier", ["window", "rescale"])
def test_a_file_that_evades_by_its_header_holds_the_original_pixels(task, carrier):
    spec = DicomHeader(carrier=carrier)
    scene = scene_of(task, 12)
    attacked = spec.attack(scene)
    headers = best_header(task.model, scene.pixels, scene.labels, spec.headers)
    wrong = reached(task.model(attacked), scene.labels, targeted=False)
    evading = 0
    for header, image, source, misled in zip(headers, attacked, task.images, wrong, strict=False):
        if header in (None, AS_STORED):
            assert np.array_equal(image.numpy(), source)
            continue
        file = write(source, header)
        assert np.array_equal(decode(file).pixels, image.numpy())
        dataset = pydicom.dcmread(io.BytesIO(file))
        original = pydicom.dcmread(io.BytesIO(dicom(source)))
        assert dataset.PixelData == original.PixelData
        assert dataset.SOPInstanceUID == original.SOPInstanceUID
        if carrier == "rescale":
            assert (dataset.WindowCenter, dataset.WindowWidth) == (128, 256)
        assert misled
        evading += 1
    assert evading > 5


@pytest.mark.parametrize(
    "header",
    [
        AS_STORED,
        Header(100.5, 90.25),
        Header(140.0, 300.1235, "SIGMOID"),
        Header(slope=1.333333, intercept=-20.5),
        Header(90.0, 128.0, photometric="MONOCHROME1"),
    ],
)
def test_the_display_table_is_what_the_decoder_and_pydicom_show(header):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    file = write(ramp, header)
    assert np.array_equal(decode(file).pixels.ravel(), shown(header))
    if header == AS_STORED:
        assert np.array_equal(shown(header), np.arange(256))
    dataset = pydicom.dcmread(io.BytesIO(file))
    rescaled = ramp.ravel() * header.slope + header.intercept
    del (
        dataset.RescaleSlope,
        dataset.RescaleIntercept,
    )  # done, and pydicom would clip to their range
    theirs = apply_voi_lut(rescaled, dataset)
    theirs = 255 - theirs if header.photometric == "MONOCHROME1" else theirs
    assert np.abs(theirs - shown(header)).max() <= 1


def test_colour_and_blank_images_have_no_header_that_evades():
    headers = DicomHeader().headers
    colour = torch.zeros(1, 8, 8, 3)
    assert best_header(brightness_model(10.0), colour, torch.tensor([0]), headers) == [None]
    # the decoder refuses an image that is blank, whatever its window makes of it
    assert best_header(brightness_model(100.0), flat(50.0), torch.tensor([0]), headers) == [None]


def test_a_universal_perturbation_of_a_linear_model_is_its_sign():
    weights = torch.randn(64, generator=torch.Generator().manual_seed(0))

    def model(pixels: Tensor) -> Tensor:
        margin = (pixels.flatten(1) - 128) @ weights / 64
        return torch.stack([margin, -margin], dim=1)

    images = 128 + 10 * weights.view(1, 8, 8, 1).expand(5, -1, -1, -1)
    attacker = Attacker(model, tuple(images), torch.zeros(5, dtype=torch.int64), seed=0)
    learned = Universal(epsilon=6.0).prepare(attacker)
    assert torch.equal(learned.perturbations[0, ..., 0], -6 * weights.sign().view(8, 8))


def test_a_universal_perturbation_fools_images_that_it_never_saw_and_asks_nothing(task):
    seen: list[Tensor] = []

    def watched(pixels: Tensor) -> Tensor:
        seen.extend(pixels.detach())
        return task.model(pixels)

    spec = Universal(epsilon=8.0, epochs=15)
    attacker = Attacker(watched, tuple(task.pixels[-50:]), task.labels[-50:], seed=0)
    scene = scene_of(task, 50, prepared=spec.prepare(attacker))
    attacked = spec.attack(scene)
    nearest = torch.cdist(torch.stack(seen).flatten(1), scene.pixels.flatten(1), p=math.inf).min()
    assert nearest > 2 * 8, "an attacked image was learned on"
    assert not scene.model.forwards.any()
    before, after = (
        reached(task.model(pixels), scene.labels, targeted=False).sum()
        for pixels in (scene.pixels, attacked)
    )
    assert after >= before + 10
    larger = replace(scene, pixels=scene.pixels.repeat(1, 2, 3, 1)[:, :-5])
    assert size(spec.attack(larger) - larger.pixels, Norm.LINF).max() <= 8 + 1e-4


def test_what_is_learned_towards_a_target_is_chosen_by_it(three_classes):
    task, spec = three_classes, Universal(epsilon=8.0, epochs=15, targeted=True)
    learned = spec.prepare(attacker_of(task))
    assert learned.targets.tolist() == [0, 1, 2]
    for target in range(3):
        goal = torch.full((50,), target)
        attacked = spec.attack(scene_of(task, 50, labels=goal, prepared=learned))
        before, after = (
            reached(task.model(pixels), goal, targeted=True).sum()
            for pixels in (task.pixels[:50], attacked)
        )
        assert after > before + 15
    with pytest.raises(ValueError, match="none of the attacker's images"):
        spec.attack(scene_of(task, 1, labels=torch.tensor([7]), prepared=learned))


def test_learning_without_a_gradient_is_told_on_every_image():
    def saturated(pixels: Tensor) -> Tensor:
        zero = pixels.sum(dim=(1, 2, 3)) * 0
        return torch.stack([zero + 1, zero], dim=1)

    spec, told = Universal(epsilon=2.0, epochs=1), []
    learned = spec.prepare(Attacker(saturated, tuple(flat(1.0, 2.0)), torch.tensor([0, 0]), 0))
    spec.attack(
        Scene(saturated, flat(5.0, 6.0), torch.tensor([0, 0]), [0, 1], told.append, None, learned)
    )
    assert [(finding.ailment, finding.rows) for finding in told] == [(Ailment.ZERO, (0, 1))]


@pytest.mark.parametrize("learned_on", ["others", "image"])
@pytest.mark.parametrize(("epsilon", "side"), [(None, 5), (17.0, 4)])
def test_a_patch_covers_its_square_and_nothing_else(task, learned_on, epsilon, side):
    spec = Patch(area=0.1, epsilon=epsilon, learned_on=learned_on, epochs=10, steps=30)
    scene = scene_of(task, 30, prepared=spec.prepare(attacker_of(task)))
    attacked = spec.attack(scene)
    corners = drawn_corners(range(30), side, 16, 16)
    assert len(set(map(tuple, corners.tolist()))) > 15, "places differ between images"
    for image, source, (top, left) in zip(attacked, scene.pixels, corners.tolist(), strict=True):
        outside = torch.ones(16, 16, 1, dtype=torch.bool)
        outside[top : top + side, left : left + side] = False
        assert torch.equal(image[outside], source[outside])
    wrong = reached(task.model(attacked), scene.labels, targeted=False).float().mean()
    assert wrong > (0.25 if learned_on == "others" else 0.6)


def test_a_patch_is_a_square_of_at_most_its_share():
    assert side_of(0.05, None, 224, 224) == 50
    assert side_of(1.0, None, 10, 30) == 10
    assert side_of(0.25, None, 16, 16) == 8
    assert side_of(0.5, 49, 100, 100) == 7
    assert side_of(1e-6, None, 16, 16) == 1
