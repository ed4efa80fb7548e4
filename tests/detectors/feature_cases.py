"""Made-up features, and the one check that every exported module must pass."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from detectors.features import Features

WIDTHS = (8, 12, 16)
CLASSES = 3
BESIDE = len(Features._fields) - 1
"""Features that are no taps."""


def gaussian(
    n: int,
    seed: int,
    *,
    shift: float = 0.0,
    widths: tuple[int, ...] = WIDTHS,
    classes: int = CLASSES,
) -> tuple[Features, Tensor]:
    """Features of ``n`` images and their classes: class clusters with correlated noise at every
    tap, moved by ``shift`` deviations along a fixed direction."""
    world = torch.Generator().manual_seed(7)
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    taps = []
    for width in widths:
        centres = 2 * torch.randn(classes, width, generator=world)
        mixing = torch.randn(width, width, generator=world) / width**0.5
        direction = torch.randn(width, generator=world)
        direction = direction / direction.norm() * width**0.5
        noise = torch.randn(n, width, generator=draw)
        taps.append(centres[labels] + noise @ mixing + shift * direction @ mixing + 1)
    margin = 3 * torch.rand(n, generator=draw)
    logits = torch.randn(n, classes, generator=draw)
    logits[torch.arange(n), labels] = logits.amax(dim=1) + margin
    wobble = 0.2 * torch.randn(n, classes, generator=draw)
    change = 0.1 + 0.1 * torch.rand(n, generator=draw)
    witness = 0.7 * logits + 0.4 * torch.randn(n, classes, generator=draw)
    residual = torch.randn(n, 1, generator=draw)
    squeezed = 0.9 * logits + wobble
    picture = torch.randn(n, 70, generator=draw)
    grain = shift + torch.randn(n, 36, generator=draw)
    height = 1 + torch.rand(n, generator=draw)
    correlation = 0.05 * shift + 0.01 * height * torch.randn(n, generator=draw)
    aligned = torch.stack([correlation, height], dim=1)
    parts = (logits, squeezed, change, witness, residual, picture, grain, aligned)
    return Features(tuple(taps), *parts), labels


class Flat(nn.Module):
    """A detector behind plain tensor inputs: taps, then the other features in order."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.module(Features(tensors[:-BESIDE], *tensors[-BESIDE:]))


def to_onnx(module: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    batch = torch.export.Dim.DYNAMIC
    shapes = tuple({0: batch} for _ in inputs)
    if isinstance(module, Flat):
        shapes = (shapes,)  # one *args parameter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), inputs, dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    buffer = io.BytesIO()
    program.save(buffer)
    return buffer.getvalue()


def session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def assert_exports(
    module: nn.Module, inputs: Callable[[int], tuple[Tensor, ...]], relative: float = 1e-4
) -> None:
    """The ONNX graph, exported once, answers as torch does for a batch of 1 and of 7."""
    loaded = session(to_onnx(module, inputs(3)))
    for n in (1, 7):
        given = inputs(n)
        names = [entry.name for entry in loaded.get_inputs()]
        # inputs that the module does not read are dropped from the graph
        feed = {name: given[_position(name, given)].numpy() for name in names}
        (answer,) = loaded.run(None, feed)
        with torch.no_grad():
            expected = module(*given).numpy()
        assert answer.shape == expected.shape
        np.testing.assert_allclose(answer, expected, rtol=relative, atol=relative)


def _position(name: str, given: tuple[Tensor, ...]) -> int:
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdigit() and len(given) > 1 else 0


def assert_detector_exports(detector: nn.Module, relative: float = 1e-4) -> None:
    def inputs(n: int) -> tuple[Tensor, ...]:
        features, _ = gaussian(n, seed=100 + n, shift=0.5)
        return (*features.taps, *features[1:])

    assert_exports(Flat(detector), inputs, relative)


def input_gradient(detector: nn.Module, features: Features) -> list[Tensor]:
    """Gradients of the summed score, largest magnitude per image, for every input used."""
    leaves = [t.clone().requires_grad_() for t in (*features.taps, *features[1:])]
    score = detector(Features(tuple(leaves[:-BESIDE]), *leaves[-BESIDE:]))
    gradients = torch.autograd.grad(score.sum(), leaves, allow_unused=True)
    return [g.abs().reshape(len(g), -1).amax(dim=1) for g in gradients if g is not None]
