"""A converted graph computes what ONNX Runtime computes, and its gradients are the network's."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from models.export import export_onnx
from models.onnx_to_torch import ConversionProblem, convert
from models.preprocess import Preprocess
from models.resnet import resnet
from models.spec import Preprocessing


class Mobile(nn.Module):
    """Depthwise convolution, hard swish, squeeze and excitation, six-capped ReLU, sigmoid head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.depth = nn.Sequential(nn.Conv2d(8, 8, 5, 1, 2, groups=8), nn.ReLU6())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.head = nn.Sequential(nn.AvgPool2d(2, 2), nn.Flatten(), nn.Linear(8 * 16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depth(self.stem(x))
        return torch.sigmoid(self.head(x * self.squeeze(x)))


class Transformer(nn.Module):
    """Patches, a class token, one attention block, GELU, layer norms."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.norm, self.last = nn.LayerNorm(12), nn.LayerNorm(12)
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
        attention = torch.softmax(q @ k.transpose(-1, -2) / (d // 2) ** 0.5, dim=-1)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(n, t, d))
        return self.head(self.last(x + self.mlp(x))[:, 0])


NETWORKS = {
    "resnet": lambda: resnet(widths=(8, 12), blocks=(1, 1), channels=3, logits=2),
    "mobile": Mobile,
    "transformer": Transformer,
}


def on_runtime(graph: bytes, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, inputs)


@pytest.fixture(params=NETWORKS, scope="module")
def exported(request):
    torch.manual_seed(0)
    network = NETWORKS[request.param]().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    graph = export_onnx(network, {"x": torch.zeros(2, 3, 16, 16)}, ("y",), {"x": (0,)})
    return network, graph


def test_a_network_gives_what_onnx_runtime_gives(exported):
    _, graph = exported
    x = torch.randn(5, 3, 16, 16)  # not the batch of the export
    (ours,) = convert(graph)(x)
    (theirs,) = on_runtime(graph, {"x": x.numpy()})
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)


def test_gradients_are_the_original_network_s(exported):
    network, graph = exported
    x = torch.randn(3, 3, 16, 16)
    gradients = []
    for module in (lambda v: network(v), lambda v: convert(graph)(v)[0]):
        leaf = x.clone().requires_grad_()
        module(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


def test_nothing_is_read_back_from_the_device(exported):
    _, graph = exported
    (y,) = convert(graph).to("meta")(torch.zeros(4, 3, 16, 16, device="meta"))
    assert len(y) == 4


def test_a_grey_image_of_any_size_passes_our_own_preprocessing():
    spec = Preprocessing(channels=3, resize=20, crop=(16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
    example = torch.zeros(2, 30, 40, 3, dtype=torch.uint8)
    graph = export_onnx(Preprocess(spec), {"pixels": example}, ("x",), {"pixels": (0, 1, 2, 3)})
    module = convert(graph)
    for shape in ((1, 33, 21, 1), (3, 18, 57, 3)):
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
        (theirs,) = on_runtime(graph, {"pixels": pixels.numpy()})
        np.testing.assert_allclose(module(pixels)[0].numpy(), theirs, atol=1e-5)


X = np.random.default_rng(0).normal(size=(2, 3, 7, 6)).astype(np.float32)
I64 = np.int64
CASES = [
    # operator, constant inputs after X, attributes
    ("ReduceMean", [np.array([2, -1])], {"keepdims": 0}),
    ("ReduceMax", [np.array([1])], {}),
    ("ReduceLogSumExp", [], {"keepdims": 0}),
    ("ReduceL2", [np.array([-1])], {}),
    ("ReduceSumSquare", [np.array([0, 3])], {"keepdims": 0}),
    ("ReduceProd", [np.array([1, 2])], {}),
    ("ArgMax", [], {"axis": 1, "keepdims": 0}),
    ("ArgMin", [], {"axis": -1, "select_last_index": 1}),
    ("TopK", [np.array([3])], {"axis": -1, "largest": 0}),
    ("Gather", [np.array([[-1, 0], [1, 1]])], {"axis": 2}),
    ("GatherElements", [np.array([[[[-1] * 6] * 7]])], {"axis": 1}),
    ("GatherND", [np.array([[0, 2], [1, -1]])], {}),
    ("GatherND", [np.array([[0, 2], [1, -1]])], {"batch_dims": 1}),
    ("Slice", [np.array([6, 1]), np.array([-100, 99]), np.array([2, 3]), np.array([-2, 2])], {}),
    ("Pad", [np.array([1, 2, 0, 3]), None, np.array([2, 3])], {"mode": "reflect"}),
    ("Pad", [np.array([0, 0, 2, 1, 0, 0, 0, 9])], {"mode": "edge"}),
    ("Pad", [np.array([0, 1, 0, -1, 0, 0, 2, 0]), np.float32(7)], {}),
    ("Expand", [np.array([4, 1, 3, 1, 1])], {}),
    ("Tile", [np.array([1, 2, 1, 3])], {}),
    ("Reshape", [np.array([0, -1, 6])], {}),
    ("Flatten", [], {"axis": -2}),
    ("Split", [np.array([2, 5])], {"axis": 2, "outputs": 2}),
    ("Split", [], {"axis": 2, "num_outputs": 3, "outputs": 3}),
    ("CumSum", [I64(2)], {"exclusive": 1, "reverse": 1}),
    ("Trilu", [I64(1)], {"upper": 0}),
    ("Mod", [np.float32(-0.7)], {"fmod": 1}),
    ("Pow", [np.int64(3)], {}),
    ("Clip", [np.float32(-0.5), np.float32(0.5)], {}),
    ("Gelu", [], {"approximate": "tanh"}),
    ("LeakyRelu", [], {"alpha": 0.3}),
    ("LogSoftmax", [], {"axis": 1}),
    ("MaxPool", [], {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "strides": [2, 2]}),
    ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [], {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER", "strides": [2, 1]}),
    ("AveragePool", [], {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}),
    ("Conv", [X[:, :, :3, :2]], {"pads": [0, 1, 2, 0], "dilations": [2, 1], "strides": [1, 2]}),
    ("ConvTranspose", [X[0, :, None, :3, :3]], {"group": 3, "strides": [2, 2], "pads": [1] * 4}),
    ("InstanceNormalization", [np.float32([1, 2, 3]), np.float32([0, 1, 0])], {}),
    ("LayerNormalization", [X[0, 0], X[0, 1]], {"axis": -2}),
    ("LRN", [], {"size": 3, "alpha": 0.5}),
    ("Resize", [None, np.float32([1, 1, 2, 1.5])], {"mode": "linear"}),
    ("Resize", [None, None, np.array([2, 3, 3, 11])], {"mode": "linear", "antialias": 1}),
    (
        "Resize",
        [None, None, np.array([2, 3, 3, 4])],
        {"mode": "linear", "antialias": 1, "exclude_outside": 1},
    ),
    (
        "Resize",
        [None, None, np.array([2, 3, 13, 4])],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    (
        "Resize",
        [None, np.float32([1, 1, 2, 2])],
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    ("Einsum", [X[0]], {"equation": "nchw,chw->nc"}),
    ("Gemm", [np.eye(7, dtype=np.float32)], {"transA": 1, "alpha": 2.0, "matrix": 1}),
    ("IsInf", [], {"detect_negative": 0}),
]


def one_node(operator: str, constants: list, attributes: dict, opset: int = 20) -> bytes:
    attributes = dict(attributes)
    count = attributes.pop("outputs", 2 if operator == "TopK" else 1)
    inputs = ["x", *(f"c{i}" if c is not None else "" for i, c in enumerate(constants))]
    outputs = [f"y{i}" for i in range(count)]
    squeeze = attributes.pop("matrix", 0)
    nodes = [helper.make_node("Identity", ["input"], ["x"])]
    if squeeze:
        zero = helper.make_tensor("zero", TensorProto.INT64, [], [0])
        nodes = [
            helper.make_node("Constant", [], ["zero"], value=zero),
            helper.make_node("Gather", ["input", "zero"], ["image"]),
            helper.make_node("Gather", ["image", "zero"], ["x"]),
        ]
    nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None] * 4)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [
            numpy_helper.from_array(np.asarray(c), f"c{i}")
            for i, c in enumerate(constants)
            if c is not None
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


@pytest.mark.parametrize(("operator", "constants", "attributes"), CASES)
def test_an_operator_is_what_onnx_runtime_makes_of_it(operator, constants, attributes):
    graph = one_node(operator, constants, attributes)
    x = X.copy()
    if operator == "IsInf":
        x[0, 0, 0, :2] = np.inf, -np.inf
    for ours, theirs in zip(
        convert(graph)(torch.from_numpy(x)), on_runtime(graph, {"input": x}), strict=True
    ):
        assert ours.numpy().dtype == theirs.dtype
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5, rtol=1e-5)


def test_softmax_before_opset_13_is_over_all_axes_from_its_own():
    graph = one_node("Softmax", [], {"axis": 2}, opset=12)
    (ours,) = convert(graph)(torch.from_numpy(X))
    np.testing.assert_allclose(ours.sum((2, 3)).numpy(), np.ones((2, 3)), atol=1e-6)
    np.testing.assert_allclose(ours.numpy(), on_runtime(graph, {"input": X})[0], atol=1e-6)


def test_only_what_is_asked_for_is_computed():
    graph = one_node("Resize", [None, np.float32([1, 1, 2, 2])], {"mode": "cubic"})
    (x,) = convert(graph).outputs([torch.from_numpy(X)], ["x"])
    np.testing.assert_array_equal(x.numpy(), X)


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (one_node("Hardmax", [], {}), r"Hardmax \(node 'y0'\): this operator is not supported"),
        (one_node("LayerNormalization", [X[0, 0]], {"outputs": 2}), r"LayerNormalization.*first 1"),
        (b"not a graph", "not a valid ONNX model"),
        (b"", "holds no ONNX graph"),
    ],
)
def test_what_has_no_counterpart_is_named(graph, sentence):
    with pytest.raises(ConversionProblem, match=sentence):
        convert(graph)
