"""The second stage as it is served: whom it looks at, what it says, and what its key does."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.numpy import load
from small_fit import noise, small_fit

from attacks.guarded import GuardedModel
from attacks.judge import BundleJudge, accepts
from detectors.bundle import Bundle
from detectors.draws import draw, generator
from detectors.fit import FITTED_ON, fit
from detectors.judgement import judge
from detectors.manifest_file import BundleProblem
from detectors.measured_split import MeasuredSplit
from detectors.samples import FIELDS, Samples, measure
from detectors.second_stage import SecondStage
from detectors.second_stage_fit import SecondScore, image_features
from detectors.staged_engine import StagedEngine, open_engine
from detectors.standalone import standalone
from detectors.standalone_stage import DrawnViews
from models.imaging.encode import png
from models.onnx_engine import OnnxEngine
from service.app import create_app
from service.second_stage_key import second_stage_key
from service.settings import Settings

VIEWS, SHARE = 3, 0.2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("second") / "bundle"
    return fit(*small_fit(), out, names=("kd",), canaries=0, views=VIEWS, share=SHARE)


def test_only_the_most_suspicious_are_looked_at_and_stay_the_most_suspicious(
    bundle: Bundle,
) -> None:
    images = noise(60, 21)
    first = OnnxEngine(bundle.graph, threads=1).run(images)
    engine = open_engine(Bundle.open(bundle.directory), threads=1)
    both = engine.run(images)
    stage = SecondStage.of(bundle)
    assert stage is not None
    picked = first.fused >= stage.entry.threshold
    assert 0 < picked.sum() < 40
    assert both.second is not None
    assert np.array_equal(np.isfinite(both.second), picked)
    np.testing.assert_array_equal(both.fused[~picked], first.fused[~picked])
    assert both.fused[picked].min() >= both.fused[~picked].max()
    np.testing.assert_array_equal(both.scores, first.scores)
    # evaluation asks for outputs by name and must see the same
    (named,) = engine.outputs(images, ("fused",))
    np.testing.assert_array_equal(named, both.fused)


def test_a_bundles_graph_still_gives_all_that_its_detectors_were_fitted_on(bundle: Bundle) -> None:
    """Evaluations fit them again; what no output carried would be missing without a word."""
    images, names = noise(8, 5), tuple(map(str, range(8)))
    engine = OnnxEngine(bundle.graph, threads=1)
    read = measure(engine, Samples(tuple(images), np.zeros(8, np.int64), names, names, "clean"))
    fitted = MeasuredSplit.from_arrays(load(bundle.read(FITTED_ON)), "reference").benign
    for name in FIELDS:
        assert getattr(read, name).shape[1:] == getattr(fitted, name).shape[1:], name
    assert read.picture.shape[1] > 0
    assert "squeeze_change" not in engine.output_names  # nobody needs it: nobody computes it


def test_calibration_is_of_both_stages(bundle: Bundle) -> None:
    """So that p-values stay exact: as many calibration images above the threshold as were looked
    at, and fresh images flagged as often as asked for."""
    stage = SecondStage.of(bundle)
    assert stage is not None
    scores = np.concatenate([cell.fused for cell in bundle.calibration.cells])
    looked_at = scores >= stage.entry.threshold
    assert looked_at.mean() == pytest.approx(SHARE, abs=0.12)
    fresh = noise(200, 31)
    names = tuple(str(i) for i in range(200))
    samples = Samples(tuple(fresh), np.zeros(200, np.int64), names, names, "clean")
    judged = judge(bundle, open_engine(bundle, threads=1), samples)
    p = judged.p[np.isfinite(judged.p)]
    assert np.mean(p <= 0.1) == pytest.approx(0.1, abs=0.07)


def test_a_key_fixes_every_verdict_and_another_key_draws_others(bundle: Bundle) -> None:
    images = noise(60, 21)
    one, again, other = (
        open_engine(bundle, key, threads=1).run(images).second for key in (b"a", b"a", b"b")
    )
    assert one is not None
    assert again is not None
    assert other is not None
    np.testing.assert_array_equal(one, again)
    looked_at = np.isfinite(one)
    assert (one[looked_at] != other[looked_at]).all()
    # one changed pixel is another image
    first, changed = noise(1, 1)[0], noise(1, 1)[0]
    changed[0, 0] ^= 1
    draws = [generator(b"a", pixels).random() for pixels in (first, first.copy(), changed)]
    assert draws[0] == draws[1] != draws[2]


def test_the_score_is_the_detectors_in_torch(bundle: Bundle) -> None:
    stage = SecondStage.of(bundle)
    assert stage is not None
    assert stage.along.shape[1] == 2
    rng = np.random.default_rng(0)
    wanted = SecondScore(stage)
    for correlation in (-0.9, 0.9):
        plain, change = rng.normal(size=2), np.abs(rng.normal(size=VIEWS))
        views = rng.normal(size=(VIEWS, 2))
        aligned = np.array([correlation, 1.5])
        arrays = [a.astype(np.float32) for a in (plain, views, change, aligned)]
        torches = [torch.from_numpy(a) for a in arrays]
        score = float(wanted(torches[0][None], torches[1], torches[2], torches[3][None]))
        assert stage.score(*arrays) == pytest.approx(score, rel=1e-4)
        # a network that does not run backwards has its views alone
        nothing = np.zeros(0, np.float32)
        blind = float(wanted(torches[0][None], *torches[1:3], torch.zeros(1, 0)))
        assert stage.score(*arrays[:3], nothing) == pytest.approx(blind, rel=1e-4)
        features = image_features(torches[0][None], torches[3][None])
        above = max(0.0, float(wanted.alignment(features)))
        assert (above > 0) == (correlation > 0)
        assert score == pytest.approx(np.hypot(blind, above), rel=1e-4)


def test_an_attacker_meets_the_same_stage_by_draws_of_their_own(bundle: Bundle) -> None:
    images = noise(60, 21)
    served = open_engine(bundle, threads=1).run(images)
    assert served.second is not None
    guard = GuardedModel(bundle)
    pixels = torch.from_numpy(images).float().requires_grad_()
    reading = guard.readings(pixels)
    again = guard.readings(pixels)
    looked_at = torch.from_numpy(np.isfinite(served.second))
    close = torch.isclose(reading.fused, torch.from_numpy(served.fused), rtol=1e-3, atol=1e-3)
    assert close[~looked_at].all()
    assert (reading.fused[looked_at] != again.fused[looked_at]).all()
    # other views of the same distribution: the same scores within their scatter
    seen = reading.fused[looked_at].detach().numpy(), served.fused[looked_at.numpy()]
    assert np.corrcoef(*seen)[0, 1] > 0.5
    (gradient,) = torch.autograd.grad(reading.fused[looked_at].sum(), pixels)
    moved = gradient.abs().amax(dim=(1, 2, 3))
    assert (moved[looked_at] > 0).all()
    assert (moved[~looked_at] == 0).all()


def test_attacks_are_judged_by_both_stages(bundle: Bundle) -> None:
    images = noise(60, 21)
    judged = BundleJudge.of(bundle).ask(images).accepted
    readings = open_engine(bundle, threads=1).run(images)
    levels = bundle.manifest.levels
    wanted = [accepts(p, levels[p.predicted]) for p in bundle.calibration.p_values(readings)]
    assert judged is not None
    assert judged.tolist() == wanted


def test_views_are_small_changes() -> None:
    """A view must leave a benign image what it was: weights that sum to one, looking near by."""
    draws = draw(np.random.default_rng(0), 8, 1, (40, 30))
    assert draws.rows.shape == (8, 40, 40)
    assert draws.columns.shape == (8, 30, 30)
    assert draws.noise.shape == (8, 1, 40, 30)
    np.testing.assert_allclose(draws.rows.sum(axis=2), 1, atol=1e-5)
    looks = (draws.rows * np.arange(40)).sum(axis=2)
    assert np.abs(looks - np.arange(40)).max() < 1.5


def test_a_bundle_without_one_is_served_as_before(bundle: Bundle) -> None:
    manifest = bundle.manifest.model_copy(update={"second_stage": None})
    plain = replace(bundle, manifest=manifest)
    engine = open_engine(plain, threads=1)
    assert not isinstance(engine, StagedEngine)
    assert engine.run(noise(3, 21)).second is None


def test_what_a_bundle_lacks_is_told(bundle: Bundle) -> None:
    files = {k: v for k, v in bundle.manifest.files.items() if k != "second_stage.safetensors"}
    broken = replace(bundle, manifest=bundle.manifest.model_copy(update={"files": files}))
    with pytest.raises(BundleProblem, match="second_stage"):
        open_engine(broken)


def test_a_second_graph_of_another_version_is_refused(bundle: Bundle) -> None:
    """Its views would be drawn otherwise than those that its numbers were learnt from."""
    stage = SecondStage.of(bundle)
    assert stage is not None
    with pytest.raises(BundleProblem, match=r"takes image, not .* fit the bundle again"):
        StagedEngine(bundle.graph, bundle.graph, stage, b"key", threads=1)


def test_the_service_looks_by_its_own_secret_and_says_so(bundle: Bundle, tmp_path: Path) -> None:
    settings = Settings(
        bundles=(bundle.directory,),
        database=f"sqlite:///{tmp_path}/records.sqlite3",
        query_response="off",
        query_secret_file=tmp_path / "secret",
    )
    images = noise(30, 21)
    expected = open_engine(bundle, second_stage_key(settings), threads=1).run(images)
    assert expected.second is not None
    with TestClient(create_app(settings), "http://127.0.0.1") as client:
        until = time.monotonic() + 60
        while client.get("/readyz").status_code != 200 and time.monotonic() < until:
            time.sleep(0.05)
        guards = [
            client.post("/diagnose", content=png(image), headers={"Content-Type": "image/png"})
            for image in images
        ]
        metrics = client.get("/metrics").text
    assert {response.status_code for response in guards} == {200}, guards[0].text
    answers = [response.json()["guard"] for response in guards]
    for answer, second, p in zip(
        answers, expected.second, bundle.calibration.p_values(expected), strict=True
    ):
        if np.isnan(second):
            assert answer["second_stage"] is None
        else:
            assert answer["second_stage"] == pytest.approx(second, rel=1e-3, abs=1e-3)
            assert answer["p_value"] == pytest.approx(p.fused, abs=0.02)
    looked_at = int(np.isfinite(expected.second).sum())
    assert 0 < looked_at < len(images)
    assert f'lazaret_second_stage_images_total{{model="small"}} {looked_at}.0' in metrics
    # without a file the secret is this process's own, and stays
    alone = settings.model_copy(update={"query_secret_file": None})
    assert second_stage_key(alone) == second_stage_key(alone) != second_stage_key(settings)


def test_one_graph_judges_by_both_stages_elsewhere(bundle: Bundle) -> None:
    """As the service does, but for views of other draws: on average over draws the same."""
    onnxruntime.set_seed(0)
    runtime = onnxruntime.InferenceSession(
        standalone(bundle).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = noise(60, 21)
    ours = [open_engine(bundle, bytes([key]), threads=1).run(images) for key in range(8)]
    assert ours[0].second is not None
    looked_at = np.isfinite(ours[0].second)
    wanted = np.array([[p.fused for p in bundle.calibration.p_values(one)] for one in ours])
    looks = np.array([runtime.run(["p_value"], {"image": images})[0][:, 0] for _ in range(8)])
    np.testing.assert_allclose(looks[0][~looked_at], wanted[0][~looked_at], atol=1e-6)
    means = wanted[:, looked_at].mean(axis=0), looks[:, looked_at].mean(axis=0)
    assert np.corrcoef(*means)[0, 1] > 0.8
    assert (looks[0][looked_at] != looks[1][looked_at]).any()
    # a batch in which nobody is looked at
    (alone,) = runtime.run(["p_value"], {"image": images[~looked_at][:1]})
    np.testing.assert_allclose(alone[0], wanted[0][~looked_at][:1], atol=1e-6)


def test_other_servers_draw_views_as_ours_does() -> None:
    height, width = 24, 20
    rng = np.random.default_rng(3)
    wanted = draw(rng, 4, 1, (height, width))
    again = np.random.default_rng(3)
    uniform = np.stack([again.random(4) for _ in range(5)])
    normal = again.standard_normal((4, 1, height, width), dtype=np.float32)
    rows, columns, drawn = DrawnViews()(
        torch.from_numpy(uniform)[None], torch.from_numpy(normal)[None]
    )
    np.testing.assert_allclose(rows[0], wanted.rows, atol=1e-5)
    np.testing.assert_allclose(columns[0], wanted.columns, atol=1e-5)
    np.testing.assert_allclose(drawn[0], wanted.noise, atol=1e-5)
