"""The gradient as a graph must be torch's, at ONNX Runtime and as torch reads it back."""

import inspect

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from models.export import export_onnx
from models.input_gradient import GRADIENT, SEED, GradientProblem, input_gradient
from models.onnx_graph import compose
from models.onnx_to_torch import convert
from models.resnet import resnet

SIDE = 37  # odd: strides leave a rest


class Dense(nn.Module):
    """Joined branches, means over windows, gates, means by axis: what residual networks lack."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 5, 2, 1, dilation=2)
        self.branch = nn.Sequential(nn.Conv2d(6, 4, 3, 1, 1, groups=2), nn.LeakyReLU(0.1))
        self.shrink = nn.Sequential(nn.AvgPool2d(2), nn.MaxPool2d(3, 1, 1), nn.ReLU6())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(10, 10, 1), nn.Sigmoid())
        self.norm = nn.BatchNorm2d(10)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        x = self.norm(self.shrink(torch.cat([x, self.branch(x)], dim=1)))
        x = nn.functional.hardswish(x * self.gate(x)) - 0.5 * x
        return self.head(x.mean(dim=(2, 3))) / 3


class Attention(nn.Module):
    """An operator without a rule."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x.flatten(1), dim=1)


NETWORKS = {
    "resnet": lambda: resnet(widths=(8, 12), blocks=(1, 1), channels=3, logits=2),
    "dense": Dense,
    "deep pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.MaxPool2d(2), nn.Hardsigmoid(), nn.Flatten(), nn.Linear(324, 3)
    ),
}


def exported(network: nn.Module) -> onnx.ModelProto:
    (name,) = inspect.signature(network.forward).parameters
    example = {name: image(2)}
    return onnx.load_from_string(export_onnx(network, example, ("raw",), {name: (0,)}))


def image(n: int) -> Tensor:
    return torch.randn(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_is_torchs(name: str, rows: bool) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    graph = exported(network)
    backwards = input_gradient(graph, rows=rows)
    (own,) = (value.name for value in graph.graph.input)
    whole = compose(
        {"network": graph, "backwards": backwards},
        {
            f"network/{own}": "x",
            **{f"backwards/{v.name}": f"network/{v.name}" for v in backwards.graph.input},
            f"backwards/{SEED}": "weights",
        },
        {GRADIENT: f"backwards/{GRADIENT}"},
    )
    x = image(5).requires_grad_()
    raw = network(x)
    first = 3 if rows else 5
    seed = torch.randn(first, raw.shape[1])
    (expected,) = torch.autograd.grad(raw[:first], x, seed)
    session = ort.InferenceSession(whole.SerializeToString())
    (found,) = session.run(None, {"x": x.detach().numpy(), "weights": seed.numpy()})
    size = expected.abs().max().item()
    np.testing.assert_allclose(found, expected[:first], atol=1e-5 * size)
    (again,) = convert(whole)(x, seed)
    torch.testing.assert_close(again, expected[:first], atol=1e-5 * size, rtol=0)


def test_says_which_operator_has_no_rule() -> None:
    with pytest.raises(GradientProblem, match="Softmax"):
        input_gradient(exported(Attention().eval()))


def test_padding_that_depends_on_the_size_is_refused() -> None:
    graph = exported(NETWORKS["deep pooling"]().eval())
    for node in graph.graph.node:
        if node.op_type == "Conv":
            node.attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
    with pytest.raises(GradientProblem, match="worked out"):
        input_gradient(graph)


def test_a_scalar_that_a_node_makes_is_no_activation() -> None:
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Constant", [], ["two"], value=helper.make_tensor("t", floats, [], [2.0])),
        helper.make_node("Mul", ["x", "two"], ["doubled"]),
        helper.make_node("Flatten", ["doubled"], ["raw"]),
    ]
    ends = [("x", ["N", 1, 2, 2]), ("raw", ["N", 4])]
    x, raw = (helper.make_tensor_value_info(name, floats, shape) for name, shape in ends)
    graph = helper.make_model(
        helper.make_graph(nodes, "doubling", [x], [raw]),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    seed = torch.arange(4.0)[None]
    (gradient,) = convert(input_gradient(graph))(seed)
    assert gradient.flatten().tolist() == [0, 2, 4, 6]
