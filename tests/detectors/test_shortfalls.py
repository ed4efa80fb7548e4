"""What a user is told who fitted a guard on too little."""

from pathlib import Path

import pytest
from tiny_bundle import write_bundle

from detectors.bundle import Bundle
from detectors.shortfalls import HELD, shortfalls


@pytest.mark.parametrize(("held", "told"), [(4, True), (79, True), (80, False)])
def test_a_guard_that_holds_few_attacks_is_told(held: int, told: bool, tmp_path: Path) -> None:
    manifest = Bundle.open(write_bundle(tmp_path / "tiny")).manifest
    known = manifest.model_copy(update={"provenance": {HELD: {"held": held, "of": 100}}})
    said = [sentence for sentence in shortfalls(known) if "protects little" in sentence]
    assert len(said) == told
    if told:
        assert f"of 100 attacks that change a diagnosis only {held} are held" in said[0]
