"""What an ONNX-only model needs before it can be guarded: taps, any batch, one joined graph."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from models.engine import Readings
from models.export import export_onnx
from models.onnx_engine import OnnxEngine
from models.onnx_graph import (
    GraphProblem,
    automatic_taps,
    compose,
    make_batch_dynamic,
    with_taps,
)
from models.onnx_to_torch import convert
from models.preprocess import Preprocess
from models.resnet import resnet
from models.spec import Preprocessing
from models.taps import find_taps, tapped


def run(model: onnx.ModelProto, *inputs: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def exported(network: nn.Module, *, batch_axes: tuple[int, ...], n: int = 2) -> onnx.ModelProto:
    example = torch.zeros(n, 1, 32, 32)
    return onnx.load_from_string(
        export_onnx(network.eval(), {"x": example}, ("logits",), {"x": batch_axes})
    )


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return resnet(widths=(8, 12), blocks=(1, 1), channels=1, logits=3).eval()


@pytest.fixture(scope="module")
def model(network):
    return exported(network, batch_axes=(0,))


def test_automatic_taps_are_the_ones_found_in_the_torch_network(network, model):
    x = torch.randn(3, 1, 32, 32)
    paths = find_taps(network, x)
    with torch.no_grad(), tapped(network, paths) as values:
        network(x)
    logits, *taps = run(with_taps(model, automatic_taps(model)), x.numpy())
    assert logits.shape == (3, 3)
    # The stem is a third resolution to both; the network has two stages and a penultimate layer.
    for ours, path in zip(taps[-3:], paths[-3:], strict=True):
        np.testing.assert_allclose(ours, values[path].numpy(), atol=1e-5)


def test_a_tapped_graph_converts_to_torch_with_gradients(model):
    tapped_model = with_taps(model, automatic_taps(model))
    x = torch.randn(2, 1, 32, 32, requires_grad=True)
    _, *taps = convert(tapped_model)(x)
    taps[0].sum().backward()
    assert x.grad.abs().sum() > 0


def test_a_transformer_is_tapped_at_its_residual_sums():
    torch.manual_seed(0)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(1, 8, 8, 8)
            self.mix = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))
            self.head = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            for layer in self.mix:
                x = x + torch.tanh(layer(x))
            return self.head(x.mean(dim=1))

    model = exported(Tokens(), batch_axes=(0,))
    taps = automatic_taps(model)
    _, *values = run(with_taps(model, taps), np.zeros((3, 1, 32, 32), np.float32))
    assert [v.shape for v in values] == [(3, 8)] * len(taps)
    assert len(taps) == 5


def test_a_tap_that_does_not_exist_is_named(model):
    with pytest.raises(GraphProblem, match="no activation 'layer9'"):
        with_taps(model, ["layer9"])


class Flat(nn.Module):
    def __init__(self, *, per_batch: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(32 * 32, 3)
        self.per_batch = per_batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.linear(x.reshape(1, 32 * 32))
        return logits - x.mean() if self.per_batch else logits


def test_a_batch_of_one_baked_into_a_reshape_is_freed():
    model = exported(Flat(per_batch=False), batch_axes=(), n=1)
    x = np.random.default_rng(0).normal(size=(4, 1, 32, 32)).astype(np.float32)
    freed = make_batch_dynamic(model)
    alone = [run(model, x[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(run(freed, x)[0], np.concatenate(alone), atol=1e-5)
    assert make_batch_dynamic(freed) is freed


def test_images_that_would_change_each_other_are_refused():
    with pytest.raises(GraphProblem, match="exported for batches of 1 and cannot"):
        make_batch_dynamic(exported(Flat(per_batch=True), batch_axes=(), n=1))


def detectors(opset: int) -> onnx.ModelProto:
    """Logits to probabilities; the mean of one tap is the score, fused and quality."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Softmax", ["z"], ["probabilities"]),
            helper.make_node("ReduceMean", ["taps"], ["mean"], axes=[1], keepdims=1),
            helper.make_node("Squeeze", ["mean", "one"], ["fused"]),
        ],
        "detectors",
        [
            info("z", TensorProto.FLOAT, ["N", 3]),
            info("taps", TensorProto.FLOAT, ["N", 12]),
        ],
        [
            info("probabilities", TensorProto.FLOAT, ["N", 3]),
            info("mean", TensorProto.FLOAT, ["N", 1]),
            info("fused", TensorProto.FLOAT, ["N"]),
        ],
        [helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_preprocessing_model_and_detectors_joined_are_the_three_in_sequence(model):
    spec = Preprocessing(channels=1, resize=(32, 32))
    example = torch.zeros(2, 30, 40, 3, dtype=torch.uint8)
    before = onnx.load_from_string(
        export_onnx(Preprocess(spec), {"pixels": example}, ("x",), {"pixels": (0, 1, 2, 3)})
    )
    taps = automatic_taps(model)
    tapped_model = with_taps(model, taps)
    stage = f"{taps[-2]}/pooled"
    after = detectors(opset=13)  # older than the other two: converted
    fused = compose(
        {"preprocess": before, "model": tapped_model, "guard": after},
        {
            "preprocess/pixels": "image",
            "model/x": "preprocess/x",
            "guard/z": "model/logits",
            "guard/taps": f"model/{stage}",
        },
        {
            "logits": "model/logits",
            "probabilities": "guard/probabilities",
            "scores": "guard/mean",
            "fused": "guard/fused",
            "quality": "guard/fused",
        },
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 41, 1), np.uint8)
    logits, *values = run(tapped_model, run(before, images)[0])
    probabilities, mean, score = run(after, logits, values[list(taps).index(taps[-2])])
    readings = OnnxEngine(fused.SerializeToString()).run(images)
    assert isinstance(readings, Readings)
    np.testing.assert_allclose(readings.logits, logits, atol=1e-5)
    np.testing.assert_allclose(readings.probabilities, probabilities, atol=1e-5)
    np.testing.assert_allclose(readings.scores, mean, atol=1e-5)
    np.testing.assert_allclose(readings.fused, score, atol=1e-5)


def test_what_no_output_needs_is_left_out(model):
    """ONNX Runtime computes every node, whether its value is asked for or not."""
    tapped_model = with_taps(model, automatic_taps(model))
    logits = tapped_model.graph.output[0].name
    alone = compose({"m": tapped_model}, {}, {"logits": f"m/{logits}"})
    read = {value for node in alone.graph.node for value in node.input} | {"logits"}
    assert all(read & set(node.output) for node in alone.graph.node)
    assert {tensor.name for tensor in alone.graph.initializer} <= read
    assert len(alone.graph.node) < len(tapped_model.graph.node)


def test_a_connection_to_nothing_is_named(model):
    with pytest.raises(GraphProblem, match="model/x is to read preprocess/y"):
        compose({"model": model}, {"model/x": "preprocess/y"}, {"logits": "model/logits"})
    with pytest.raises(GraphProblem, match="output taps is to be model/taps"):
        compose({"model": model}, {}, {"taps": "model/taps"})


def test_a_model_with_another_input_is_told_what_is_expected():
    with pytest.raises(GraphProblem, match="one float32 input"):
        automatic_taps(detectors(18))
