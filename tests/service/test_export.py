"""The exported graph must judge as the service does, in a runtime that knows nothing of us."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import yaml
from tiny_bundle import write_bundle
from typer.testing import CliRunner

from detectors.bundle import Bundle
from models import zoo
from models.onnx_engine import OnnxEngine
from service.cli import app
from service.decide import Policy, Verdict, decide

ORDER = [Verdict.ACCEPT, Verdict.FLAG, Verdict.REJECT]


def exported(folder: Path, to: str, out: Path) -> Path:
    command = ["bundle", "export", str(folder), "--to", to, "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return out / Bundle.open(folder).manifest.model.name


def session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def expected(folder: Path, images: np.ndarray) -> list[tuple[float, float, int]]:
    """P-value, quality p-value and verdict as the service finds them."""
    bundle = Bundle.open(folder)
    readings = OnnxEngine(bundle.graph).run(images)
    policy = Policy(bundle.manifest.alphas)
    found = []
    for p in bundle.calibration.p_values(readings):
        decision = decide(p, bundle.manifest.levels[p.predicted], policy)
        found.append((p.fused, p.quality, ORDER.index(decision.verdict)))
    return found


def test_plain_onnx_runtime_judges_alike(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    runtime = session(exported(folder, "onnx", tmp_path / "out") / "model.onnx")
    grays = [0, 50, 100, 125, 126, 127, 128, 129, 200, 255]
    images = np.stack([np.full((32, 32, 1), gray, np.uint8) for gray in grays])
    images = np.concatenate([images, np.zeros((1, 32, 32, 1), np.uint8)])
    images[-1, 16, 16] = 255  # flagged for its quality
    p, quality, verdict = runtime.run(["p_value", "quality_p_value", "verdict"], {"image": images})
    wanted = expected(folder, images)
    assert p[:, 0] == pytest.approx([w[0] for w in wanted], abs=1e-6)
    assert quality[:, 0] == pytest.approx([w[1] for w in wanted], abs=1e-6)
    assert verdict[:, 0].tolist() == [w[2] for w in wanted]
    assert set(verdict[:, 0].tolist()) == {0, 1, 2}


def test_an_image_that_no_detector_can_judge_is_rejected(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    runtime = session(exported(folder, "onnx", tmp_path / "out") / "model.onnx")
    (verdict,) = runtime.run(["verdict"], {"image": np.full((1, 32, 32, 1), 7, np.uint8)})
    assert verdict.tolist() == [[2]]


def test_the_zoos_bundle_as_a_triton_repository(tmp_path: Path) -> None:
    folder = zoo.ZOO / "phantom" / "bundle"
    model = exported(folder, "triton", tmp_path)
    runtime = session(model / "1" / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 1), np.uint8)
    found = dict(
        zip([o.name for o in runtime.get_outputs()], runtime.run(None, {"image": images}),
            strict=True)
    )  # fmt: skip
    assert [w[2] for w in expected(folder, images)] == found["verdict"][:, 0].tolist()
    text_format = pytest.importorskip("google.protobuf.text_format")
    config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    config = text_format.Parse((model / "config.pbtxt").read_text(), config_pb2.ModelConfig())
    assert (config.name, config.max_batch_size) == ("phantom", 32)
    assert {output.name: list(output.dims) for output in config.output} == {
        name: list(value.shape[1:]) for name, value in found.items()
    }
    labels = json.loads((model / "labels.json").read_text())
    assert len(labels["classes"]) == found["probabilities"].shape[1]


def test_kserve_gets_a_resource(tmp_path: Path) -> None:
    model = exported(write_bundle(tmp_path / "bundle", name="a_b"), "kserve", tmp_path / "out")
    resource = yaml.safe_load((model / "inference_service.yaml").read_text())
    assert resource["metadata"]["name"] == "a-b"
    assert (model / "config.pbtxt").is_file()
    again = CliRunner().invoke(
        app, ["bundle", "export", str(tmp_path / "bundle"), "--to", "onnx",
              "--out", str(tmp_path / "out")]
    )  # fmt: skip
    assert again.exit_code == 2
