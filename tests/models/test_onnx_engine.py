"""A graph that fits the contract gives readings; one that does not is refused in a sentence."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from models.engine import EngineProblem
from models.onnx_engine import OnnxEngine, _Bound

GUARDED = {"scores": ["N", 2], "fused": ["N"], "quality": ["N"], "taps": ["N", 2]}


def a_graph(*names: str, dtype: int = TensorProto.UINT8, axes: tuple = ("N", "H", "W", "C")):
    """``m`` is the mean pixel: logits and taps are (m, m), scores too, fused m, quality m."""
    shapes = {"logits": ["N", 2], "probabilities": ["N", 2], **GUARDED}
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("Concat", ["column", "column"], ["pair"], axis=1),
    ]
    for name in names:
        if name == "probabilities":
            nodes.append(helper.make_node("Softmax", ["pair"], [name]))
        else:
            source = "pair" if len(shapes[name]) == 2 else "mean"
            nodes.append(helper.make_node("Identity", [source], [name]))
    graph = helper.make_graph(
        nodes,
        "fixture",
        [helper.make_tensor_value_info("image", dtype, axes)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[n]) for n in names],
        [
            helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        ],
    )
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


FULL = ("logits", "probabilities", *GUARDED)
IMAGES = np.stack([np.full((5, 7, 1), v, np.uint8) for v in (0, 10, 255)])


def test_a_guarded_graph_fills_every_field():
    readings = OnnxEngine(a_graph(*FULL), threads=1).run(IMAGES)
    np.testing.assert_array_equal(readings.fused, [0, 10, 255])
    np.testing.assert_array_equal(readings.quality, [0, 10, 255])
    np.testing.assert_array_equal(readings.scores, [[0, 0], [10, 10], [255, 255]])
    np.testing.assert_array_equal(readings.probabilities, np.full((3, 2), 0.5))
    assert len(readings) == 3


def test_a_bare_model_has_no_detectors_and_says_so_with_nan():
    engine = OnnxEngine(a_graph("logits", "probabilities"))
    readings = engine.run(IMAGES)
    assert readings.scores.shape == (3, 0)
    assert np.isnan(readings.fused).all()
    assert np.isnan(readings.quality).all()
    with pytest.raises(EngineProblem, match=r"no output 'taps', only logits, probabilities"):
        engine.features(IMAGES)


def test_features_and_named_outputs_for_offline_evaluation():
    engine = OnnxEngine(a_graph(*FULL))
    np.testing.assert_array_equal(engine.features(IMAGES), [[0, 0], [10, 10], [255, 255]])
    quality, logits = engine.outputs(IMAGES, ["quality", "logits"])
    assert quality.shape == (3,)
    assert logits.shape == (3, 2)


def test_any_size_gray_and_colour_from_many_threads():
    engine = OnnxEngine(a_graph(*FULL), threads=1)
    engine.warm_up()
    shapes = [(1 + i % 3, 16 + i, 40 - i, (1, 3)[i % 2]) for i in range(20)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda i: engine.run(np.full(shapes[i], i, np.uint8)).fused, range(20))
        )
    assert all((a == i).all() and len(a) == shapes[i][0] for i, a in enumerate(answers))


def test_a_view_with_strides_is_read_as_numpy_reads_it():
    wide = np.zeros((2, 8, 8, 1), np.uint8)
    wide[:, ::2] = 100
    assert OnnxEngine(a_graph(*FULL)).run(wide[:, ::2]).fused.tolist() == [100, 100]


def test_io_binding_reads_what_a_plain_run_reads():
    engine = OnnxEngine(a_graph(*FULL))
    bound = _Bound(engine._session)
    for side in (4, 64, 8):  # the staging buffer grows, then is larger than the batch
        images = np.random.default_rng(side).integers(0, 256, (3, side, side, 3), np.uint8)
        for ours, plain in zip(bound.run(images, FULL), engine.outputs(images, FULL), strict=True):
            np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (b"", "the graph is not a graph that ONNX Runtime"),
        (b"PK\x03\x04 not a graph", "the graph is not a graph that ONNX Runtime"),
        (a_graph("logits"), "has no output 'probabilities'"),
        (a_graph(*FULL, dtype=TensorProto.FLOAT), r"must have one input, image: uint8"),
        (a_graph(*FULL, axes=("N", "H", "W", 3)), "every axis dynamic"),
    ],
)
def test_a_wrong_graph_is_refused_in_a_sentence(graph, sentence):
    with pytest.raises(EngineProblem, match=sentence):
        OnnxEngine(graph)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(EngineProblem, match=r"guard\.onnx: No such file"):
        OnnxEngine(tmp_path / "guard.onnx")
    path = tmp_path / "guard.onnx"
    path.write_bytes(a_graph(*FULL))
    assert OnnxEngine(path).output_names == FULL


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_installed_says_what_to_install(provider):
    if len(ort.get_available_providers()) > 2:
        pytest.skip("this machine has a GPU runtime")
    with pytest.raises(EngineProblem, match=rf"{provider}.*install `lazaret\[gpu\]`"):
        OnnxEngine(a_graph(*FULL), provider=provider)


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 2), np.uint8), np.zeros((1, 8, 8, 1))],
)
def test_a_batch_of_another_kind_is_refused(images):
    with pytest.raises(ValueError, match="a batch is uint8"):
        OnnxEngine(a_graph(*FULL)).run(images)


def test_a_large_image_gives_its_memory_back_and_reads_the_same():
    engine = OnnxEngine(a_graph(*FULL))
    assert engine.run(np.full((1, 3000, 3000, 1), 7, np.uint8)).fused == pytest.approx([7])
    assert engine.run(IMAGES).fused.tolist() == [0, 10, 255]


def test_the_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """Its telemetry leaves an identifier in the home folder, with which it goes on the network."""
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(a_graph("logits", "probabilities"))
    code = "from models.onnx_engine import *; OnnxEngine(Path('graph.onnx')).warm_up()"
    quiet = ("CI", "ORT_DISABLE_TELEMETRY")  # either would make it silent by itself
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in quiet} | {"HOME": str(home)}
    environment.pop("XDG_CACHE_HOME", None)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
    assert list(home.rglob("*")) == []
