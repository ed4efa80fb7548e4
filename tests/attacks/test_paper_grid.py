"""The paper's epsilon grids: what they hold, and that nothing is attacked twice."""

from pathlib import Path

import numpy as np
import pytest
import torch

import attacks.paper_grid
from attacks.paper_grid import GRID, grid, strike, sweep
from attacks.registry import named
from detectors.samples import CLEAN, Samples
from models.diagnostic import DiagnosticModel
from models.resnet import resnet
from models.spec import ModelSpec, Preprocessing

SIDE = 16


@pytest.fixture(scope="module")
def model() -> DiagnosticModel:
    torch.manual_seed(0)
    spec = ModelSpec(name="m", classes=("a", "b"), preprocessing=Preprocessing(resize=(SIDE, SIDE)))
    return DiagnosticModel(spec, resnet((4, 6), (1, 1)).requires_grad_(False))


def samples(n: int) -> Samples:
    """The first n of one series, of two sizes in turn."""
    pixels = [
        np.random.default_rng(i).integers(0, 256, (SIDE, SIDE + i % 2, 1), dtype=np.uint8)
        for i in range(n)
    ]
    keys = tuple(f"image {i}" for i in range(n))
    return Samples(tuple(pixels), np.arange(n) % 2, keys, keys, CLEAN)


def test_the_grid_is_the_papers() -> None:
    specs = grid()
    assert len(specs) == 15 + 3 * 10
    assert [s.budget for s in specs if s.name == "fgsm"][-1] == 10
    assert {s.budget for s in specs if s.name != "fgsm"} == {i / 10 for i in range(1, 11)}
    assert set(GRID) == {"fgsm", "bim", "pgd", "cw_linf"}


def test_more_images_go_on_from_fewer_and_rows_keep_their_places(
    model: DiagnosticModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = (named("fgsm", 0.3), named("pgd", 1.0))
    struck: list[str] = []

    def counted(*arguments, **options):  # type: ignore[no-untyped-def]  # of whatever it stands for
        struck.extend(arguments[4])
        return strike(*arguments, **options)

    monkeypatch.setattr(attacks.paper_grid, "strike", counted)
    whole = sweep(model, model, "m", samples(11), specs, cache=None)
    struck.clear()
    sweep(model, model, "m", samples(5), specs, cache=tmp_path)
    done: list[int] = []
    again = sweep(model, model, "m", samples(11), specs, cache=tmp_path, progress=done.append)
    assert len(struck) == 11 * len(specs)
    assert sum(done) == 11 * len(specs)
    for made, expected in zip(again, whole, strict=True):
        np.testing.assert_allclose(
            made.floats.class_logits, expected.floats.class_logits, atol=1e-5
        )
    assert again[0].files is None  # 0.3 grey levels round back to the source
    assert again[1].files is not None
    monkeypatch.setattr(attacks.paper_grid, "strike", None)
    sweep(model, model, "m", samples(11), specs, cache=tmp_path)


def test_float_pixels_stay_within_epsilon(model: DiagnosticModel) -> None:
    clean = samples(4).rows(np.array([0, 2]))
    pixels = np.stack(clean.images)
    for spec in (named("fgsm", 0.3), named("cw_linf", 0.7)):
        moved = strike(model, spec, pixels, clean.labels, clean.keys)
        change = np.abs(moved - pixels)
        assert 0 < change.max() <= spec.budget + 1e-4
