"""What a user is told who fitted a guard on too little."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_fit import noise, small_fit
from tiny_bundle import write_bundle

from detectors.bundle import Alphas, Bundle
from detectors.fit import fit
from detectors.shortfalls import HELD, shortfalls
from models.onnx_engine import OnnxEngine


@pytest.mark.parametrize(("held", "told"), [(4, True), (79, True), (80, False)])
def test_a_guard_that_holds_few_attacks_is_told(held: int, told: bool, tmp_path: Path) -> None:
    manifest = Bundle.open(write_bundle(tmp_path / "tiny")).manifest
    known = manifest.model_copy(update={"provenance": {HELD: {"held": held, "of": 100}}})
    said = [sentence for sentence in shortfalls(known) if "protects little" in sentence]
    assert len(said) == told
    if told:
        assert f"of 100 attacks that change a diagnosis only {held} are held" in said[0]


def test_attacks_held_are_those_that_the_service_would_hold(tmp_path: Path) -> None:
    model, reference, fusion, calibration = small_fit()
    (attacked,) = fusion.attacked
    hidden = (*noise(30, 5), *attacked.images[30:])  # half of them look like any other image
    attacked = replace(attacked, images=hidden)
    fusion = replace(fusion, attacked=(attacked,))
    alphas = Alphas(flag=0.3, reject=0.05, quality=0.05)
    bundle = fit(
        model, reference, fusion, calibration, tmp_path / "small", names=("kd",), canaries=0,
        alphas=alphas,
    )  # fmt: skip
    served = bundle.calibration.p_values(
        OnnxEngine(bundle.graph, threads=1).run(np.stack(attacked.images))
    )
    successful = [
        p for p, label in zip(served, attacked.labels, strict=True) if p.predicted != label
    ]
    held = [p for p in successful if bundle.manifest.levels[p.predicted].route(p) is not None]
    assert 0 < len(held) < len(successful)
    assert bundle.manifest.provenance[HELD] == {"held": len(held), "of": len(successful)}
