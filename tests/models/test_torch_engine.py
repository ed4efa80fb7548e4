"""Torch and ONNX Runtime say the same of an image, so that either may serve a calibration."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from detectors.squeeze import squeeze
from models.engine import EngineProblem
from models.export import example_pixels, export_onnx
from models.onnx_engine import OnnxEngine
from models.onnx_to_torch import convert
from models.preprocess import Preprocess
from models.resnet import resnet
from models.spec import Preprocessing
from models.torch_engine import TorchEngine


class Outputs(NamedTuple):
    logits: Tensor
    probabilities: Tensor
    scores: Tensor
    fused: Tensor
    quality: Tensor
    taps: Tensor


class Guarded(nn.Module):
    """A network and two detectors: distances to a bank and to a mean, by expanded squares."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocess = Preprocess(Preprocessing(channels=1, resize=(32, 32)))
        self.network = resnet(widths=(8, 12), blocks=(1, 1), channels=1, logits=2)
        self.register_buffer("bank", torch.randn(10, 8))

    def forward(self, image: Tensor) -> Outputs:
        x = self.network.stages[0](self.network.stem(self.preprocess(image)))
        tap = x.mean(dim=(2, 3))
        logits = self.network.classify(
            self.network.embedding(self.network.stages[1](x).mean(dim=(2, 3)))
        )
        with torch.autocast(image.device.type, enabled=False):
            tap = tap.float()
            squared = (
                tap.square().sum(1, keepdim=True)
                - 2 * tap @ self.bank.T
                + self.bank.square().sum(1)
            )
            near = squared.topk(3, dim=1, largest=False).values.mean(dim=1)
            far = torch.linalg.vector_norm(tap, dim=1)
            scores = torch.stack([near, far], dim=1)
        return Outputs(logits, torch.softmax(logits, 1), scores, scores.sum(1), far, tap)


@pytest.fixture(scope="module")
def guarded():
    torch.manual_seed(0)
    return Guarded().eval()


@pytest.fixture(scope="module")
def graph(guarded):
    return export_onnx(
        guarded, {"image": example_pixels()}, Outputs._fields, {"image": (0, 1, 2, 3)}
    )


def batches():
    rng = np.random.default_rng(0)
    for shape in ((1, 40, 30, 1), (5, 64, 33, 3), (1, 40, 30, 1), (1, 40, 30, 1)):
        yield rng.integers(0, 256, shape, np.uint8)


def assert_same(ours, theirs, tolerance: float) -> None:
    for field in ("logits", "probabilities", "scores", "fused", "quality"):
        mine, reference = getattr(ours, field), getattr(theirs, field)
        assert mine.dtype == np.float32
        assert mine.shape == reference.shape
        np.testing.assert_allclose(mine, reference, atol=tolerance, rtol=tolerance, err_msg=field)


def engines(guarded, graph, **settings):
    return TorchEngine(guarded, **settings), TorchEngine.from_onnx(graph, **settings)


def test_both_torch_engines_read_what_onnx_runtime_reads(guarded, graph):
    runtime = OnnxEngine(graph, threads=1)
    for engine in engines(guarded, graph):
        engine.warm_up()
        for images in batches():
            assert_same(engine.run(images), runtime.run(images), 1e-4)
            np.testing.assert_allclose(engine.features(images), runtime.features(images), atol=1e-5)


def test_bfloat16_is_for_the_network_and_leaves_the_detectors_whole(guarded, graph):
    runtime = OnnxEngine(graph, threads=1)
    for engine in engines(guarded, graph, dtype="bfloat16"):
        for images in batches():
            # 8 bits of mantissa through some ten layers; scores of this size are near 10.
            assert_same(engine.run(images), runtime.run(images), 5e-2)


def test_a_converted_graph_never_mixes_host_and_device_nor_reads_back(graph):
    """A tensor on the meta device has no values: what works there needs no copy from the device
    and finds all that it computes with on it, which a CUDA graph asks for."""
    module = convert(graph).to("meta")
    for images in batches():
        outputs = module(torch.from_numpy(images).to("meta"))
        assert [value.device.type for value in outputs] == ["meta"] * len(Outputs._fields)
        assert outputs[0].shape == (len(images), 2)
    remembered = len(module.moved)
    module(torch.from_numpy(images).to("meta"))
    assert len(module.moved) == remembered > 0


class NoCopies(TorchDispatchMode):
    """Fails where a tensor goes from the host to a device."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and args and isinstance(args[0], Tensor):
            assert args[0].device == result.device, f"{operation} copies to {result.device}"
        return result


def test_the_squeezed_view_copies_nothing_from_the_host_so_that_it_can_be_captured():
    class Squeezing(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return squeeze(image, torch.full((1, 1, 1, 1), 0.02))

    example = torch.rand(2, 1, 24, 20)
    module = convert(export_onnx(Squeezing(), {"image": example}, ("y",), {"image": (0,)})).to(
        "meta"
    )
    module(example.to("meta"))  # small values are remembered
    on_device = example.to("meta")
    with NoCopies():
        module(on_device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("float16", 2e-2)])
def test_cuda_reads_the_same_and_replays_it(guarded, graph, dtype, tolerance):
    runtime = OnnxEngine(graph, threads=1)
    for engine in engines(guarded, graph, device="cuda", dtype=dtype):
        for images in (*batches(), *batches()):
            assert_same(engine.run(images), runtime.run(images), tolerance)
    guarded.cpu()


def test_a_bare_model_has_no_detectors_and_says_so_with_nan():
    class Bare(nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            logits = image.float().mean(dim=(1, 2))[:, :1].repeat(1, 2)
            return {"logits": logits, "probabilities": torch.softmax(logits, 1)}

    engine = TorchEngine(Bare())
    readings = engine.run(np.zeros((3, 8, 8, 1), np.uint8))
    assert readings.scores.shape == (3, 0)
    assert np.isnan(readings.fused).all()
    with pytest.raises(EngineProblem, match="no output 'taps'"):
        engine.features(np.zeros((3, 8, 8, 1), np.uint8))


def test_many_threads_get_their_own_answers(graph):
    engine = TorchEngine.from_onnx(graph)
    images = list(batches())
    alone = [engine.run(batch).fused for batch in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: engine.run(batch).fused, images * 3))
    for i, fused in enumerate(together):
        np.testing.assert_array_equal(fused, alone[i % len(images)])


def test_what_cannot_run_is_refused_in_a_sentence(graph):
    with pytest.raises(EngineProblem, match="cannot run on torch: not a valid ONNX model"):
        TorchEngine.from_onnx(b"not a graph")
    if not torch.cuda.is_available():
        with pytest.raises(EngineProblem, match="no CUDA device"):
            TorchEngine.from_onnx(graph, device="cuda")
    with pytest.raises(ValueError, match="a batch is uint8"):
        TorchEngine.from_onnx(graph).run(np.zeros((1, 8, 8, 2), np.uint8))
