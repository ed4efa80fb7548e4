"""What tune writes must follow from what it measured, and be settings that the service takes."""

import tomllib
from pathlib import Path

from tiny_bundle import flat, write_bundle
from typer.testing import CliRunner

from service.cli import app
from service.cli.tune import BATCHES, Measured, workers
from service.settings import Settings


def test_the_rules() -> None:
    flat_ = {(t, b): 10.0 / t * b for t in (1, 2, 4) for b in BATCHES}
    assert Measured(flat_).threads() == 4
    assert Measured(flat_).batch(4) == 1  # larger batches gain nothing
    shared = {(t, b): 10.0 + b for t in (1, 2) for b in BATCHES}
    assert Measured(shared).threads() == 1  # the second thread gains nothing
    assert Measured(shared).batch(1) == 32
    assert workers(8, engine_ms=20, decode_ms=4) == 1
    assert workers(8, engine_ms=2, decode_ms=4) == 8


def test_it_writes_settings(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    image, out = tmp_path / "a.png", tmp_path / "lazaret.toml"
    image.write_bytes(flat(100))
    command = ["tune", "--bundle", str(bundle), "--seconds", "0.01"]
    result = CliRunner().invoke(app, [*command, "--image", str(image), "--out", str(out)])
    assert result.exit_code == 0, result.output
    settings = Settings(**tomllib.loads(out.read_text()))
    assert settings.batch_images in BATCHES
    image.write_bytes(b"rubbish")
    assert CliRunner().invoke(app, [*command, "--image", str(image)]).exit_code == 2
