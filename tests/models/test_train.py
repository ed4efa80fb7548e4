"""``lazaret train``: who is shown to a model, and who to the surrogate that attacks it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from models.datasets import Example, Loaded, group_digest, read_dataset
from models.diagnostic import DiagnosticModel
from models.hardening import Hardening, harden
from models.imaging import Image
from models.load import load_model
from models.model_card import Report, Share, model_card
from models.phantom.dataset import write_dataset
from models.preprocess import Preprocess
from models.resnet import resnet
from models.spec import ModelSpec, Preprocessing
from models.train import Epoch, Recipe, begin_from, shown_and_fitted, train
from service.cli import app

PATIENTS = [f"patient {i}" for i in range(300)]


def shown(**recipe: object) -> set[int]:
    everyone, fitted, validated = shown_and_fitted(PATIENTS, Recipe(**recipe))
    assert set(fitted) | set(validated) == set(everyone)
    assert not set(fitted) & set(validated)
    return set(everyone)


def test_a_surrogate_is_shown_just_the_patients_that_the_model_of_its_seed_is_not() -> None:
    model, surrogate = shown(seed=3), shown(seed=3, surrogate=True)
    assert model.isdisjoint(surrogate)
    assert model | surrogate == set(range(300))
    assert 0.3 < len(surrogate) / 300 < 0.5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), 80, seed=5).parent


def test_the_command_makes_a_surrogate_that_loads(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "stand-in"
    command = ["train", "--data", data, "--out", out, "--size", 32, "--epochs", 1, "--surrogate"]
    done = CliRunner().invoke(app, [str(part) for part in command])
    assert done.exit_code == 0, done.output
    spec = ModelSpec.read(out / "model.json")
    assert spec.name == "stand-in"
    training = [e.group for e in read_dataset(data).examples if e.split == "train"]
    victims, _, _ = shown_and_fitted(training, Recipe())
    assert spec.trained_on
    assert not set(spec.trained_on) & {group_digest(training[i]) for i in victims}
    model = load_model(str(out))
    assert isinstance(model, DiagnosticModel)
    assert model(torch.zeros(2, 40, 40, 1)).shape == (2, 2)
    card = (out / "card.md").read_text()
    assert "A surrogate: an attacker's stand-in" in card
    assert "never calibrated" not in card


def test_other_cards_say_nothing_of_surrogates() -> None:
    spec = ModelSpec(name="model", classes=("a", "b"), preprocessing=Preprocessing(resize=(8, 8)))
    share = Share.of(1, 2)
    card = model_card(spec, Report(2, 2, share, (share, share), 0.5), "d", "l", Recipe())
    assert "surrogate" not in card
    assert "never calibrated" in card


def test_a_young_average_is_not_the_untrained_network() -> None:
    """Three dozen steps, of which an average that forgets a fiftieth a step would keep half of the
    network as it was drawn."""
    rng = np.random.default_rng(0)
    pixels = [
        np.clip(rng.normal(60 + 120 * (i % 2), 20, (32, 32, 1)), 0, 255).astype(np.uint8)
        for i in range(120)
    ]
    examples = tuple(Example(Path(), str(i), i % 2, f"patient {i}", "train") for i in range(120))
    images = tuple(Image(image, "image/png", "") for image in pixels)
    spec = ModelSpec(
        name="small",
        classes=("dark", "bright"),
        preprocessing=Preprocessing(resize=(32, 32), mean=(0.5,), std=(0.25,)),
        arguments={"widths": [8], "blocks": [1]},
    )
    best: list[Epoch] = []
    recipe = Recipe(epochs=12, patience=12, contrast=0.0)
    train(spec, Loaded(examples, images, ()), recipe, on_epoch=best.append)
    assert best[-1].validation_accuracy == 1
    assert best[-1].validation_loss < 0.3


def test_hardening_goes_on_from_a_model_and_stays_within_its_strength(
    data: Path, tmp_path: Path
) -> None:
    def lazaret(*arguments: object) -> None:
        done = CliRunner().invoke(app, ["train", "--data", str(data), *map(str, arguments)])
        assert done.exit_code == 0, done.output

    lazaret("--out", tmp_path / "first", "--size", 32, "--widths", "8,12", "--blocks", "1,1")
    lazaret(
        *("--out", tmp_path / "hard", "--start", tmp_path / "first"),
        *("--harden", 6, "--epochs", 2),
    )
    first, hard = load_model(str(tmp_path / "first")), load_model(str(tmp_path / "hard"))
    assert isinstance(first, DiagnosticModel)
    assert isinstance(hard, DiagnosticModel)
    assert hard.spec.trained_on == first.spec.trained_on
    assert hard.spec.arguments == first.spec.arguments
    card = (tmp_path / "hard" / "card.md").read_text()
    assert "trained on from first" in card
    assert "Hardened: 70% of the images were moved against the model by up to 6 grey" in card


def test_few_images_go_on_from_a_network_for_others(data: Path, tmp_path: Path) -> None:
    """The zoo's is for gray images of other classes; the new one's first layer sees the same in a
    gray image that came as colour."""
    command = ["train", "--data", str(data), "--out", str(tmp_path / "mine"), "--size", "32"]
    words = [*command, "--channels", "3", "--start", "chest-xray-hard", "--epochs", "1"]
    refused = CliRunner().invoke(app, [*words, "--widths", "8"])
    assert refused.exit_code != 0
    assert "leave them out" in refused.output
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    zoo, mine = load_model("chest-xray-hard"), load_model(str(tmp_path / "mine"))
    assert isinstance(zoo, DiagnosticModel)
    assert isinstance(mine, DiagnosticModel)
    assert mine.spec.classes != zoo.spec.classes
    assert mine.spec.arguments["widths"] == zoo.spec.arguments["widths"]
    assert set(zoo.spec.trained_on) < set(mine.spec.trained_on)
    assert "trained on from chest-xray-hard" in (tmp_path / "mine" / "card.md").read_text()

    fresh = resnet((32, 64, 128, 192), (2, 2, 2, 2), channels=3, logits=2)
    begin_from(zoo, fresh, mine.spec.classes)
    gray = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        seen = fresh.eval().stem(gray.expand(-1, 3, -1, -1))
        torch.testing.assert_close(seen, zoo.network.stem(gray))  # type: ignore[operator]  # Modules to torch


def test_hardening_moves_within_its_strength_and_towards_the_loss() -> None:
    preprocess = Preprocess(Preprocessing(resize=(8, 8), mean=(0.5,), std=(0.25,)))
    pixels = torch.randint(0, 256, (64, 8, 8, 1), generator=torch.Generator().manual_seed(1))
    x = preprocess(pixels)
    draws = torch.Generator().manual_seed(0)
    attacked = harden(x, torch.ones_like, preprocess, Hardening(6.0, 0.0, attacked=1.0), draws)
    grey = (attacked - x) / preprocess.gain
    assert grey.abs().max() <= 6.0001
    assert grey.mean() > 1
    values = (attacked - preprocess.bias) / preprocess.gain
    assert values.min() >= -1e-3
    assert values.max() <= 255.001
    noisy = harden(x, torch.ones_like, preprocess, Hardening(6.0, 8.0, attacked=0.0), draws)
    assert 1 < ((noisy - x) / preprocess.gain).std() < 8
