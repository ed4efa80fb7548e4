"""Run a fused graph on torch: CPU, or CUDA with half-precision networks and CUDA graphs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from models.cuda_graphs import CudaGraphs
from models.engine import READING, Batch, EngineProblem, Floats, Readings, check_batch
from models.onnx_to_torch import ConversionProblem, OnnxModule, convert

Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "float16"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# Larger than any crop in ordinary use, so that a graph that only crops warms up too.
_WARM_UP_SIDE = 512


class TorchEngine:
    """An ``Engine`` on torch, thread-safe.

    Weights and activations are channels-last. ``bfloat16`` and ``float16`` are for the network
    only: a converted graph runs its convolutions in that type and everything else in float32; a
    module runs under autocast and keeps its detectors out of it itself. Scores move by a few
    hundredths of their range, so calibrate with the engine and type that will serve.

    On CUDA a batch shape that comes a second time is captured as a CUDA graph. A module that
    cannot be captured (it reads values back on the host) runs without. TF32 is off.
    """

    def __init__(
        self, module: nn.Module, *, device: Device = "cpu", dtype: Precision = "float32"
    ) -> None:
        """Take a module from ``uint8[N, H, W, C]`` to its named outputs.

        Args:
            module: returns a dict or NamedTuple with ``logits``, ``probabilities`` and, when
                guarded, ``scores``, ``fused``, ``quality``, ``taps``. It is moved to ``device``.
            device: where to run.
            dtype: what the network computes in.

        Raises:
            EngineProblem: there is no such device.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise EngineProblem(
                "no CUDA device: install a CUDA build of torch and see that the GPU is visible "
                "(nvidia-smi), or use the cpu device"
            )
        self._device = torch.device(device)
        self._reduced = _DTYPES.get(dtype)
        self._module = module.eval().to(self._device)
        for parameter in self._module.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        if isinstance(module, OnnxModule) and self._reduced is not None:
            module.reduce(self._reduced)
        self._lock = threading.Lock()
        self._graphs = CudaGraphs(self._forward, self._held)

    @classmethod
    def from_onnx(
        cls, graph: bytes | Path, *, device: Device = "cpu", dtype: Precision = "float32"
    ) -> Self:
        """Run an ONNX graph of ``OnnxEngine``'s contract.

        Raises:
            EngineProblem: there is no such device, or the graph cannot be converted.
        """
        try:
            module = convert(graph)
        except ConversionProblem as problem:
            raise EngineProblem(
                f"the graph cannot run on torch: {problem}; run it on ONNX Runtime"
            ) from problem
        missing = [name for name in READING[:2] if name not in module.output_names]
        if module.input_names != ("image",) or missing:
            raise EngineProblem(
                "a graph has one input, image, and at least the outputs logits and "
                f"probabilities; this one has {module.input_names} and {module.output_names}"
            )
        return cls(module, device=device, dtype=dtype)

    def run(self, images: Batch) -> Readings:
        """Run one batch. A bare model's ``scores`` are ``[N, 0]``, its ``fused`` and ``quality``
        NaN.

        Raises:
            ValueError: not ``uint8[N, H, W, 1 or 3]``.
            EngineProblem: torch failed on this batch (out of memory, say), or the module returns
                no logits and probabilities.
        """
        found = self._run(images, READING)
        missing = [name for name in READING[:2] if name not in found]
        if missing:
            raise EngineProblem(f"the module returns no {missing[0]}, only {', '.join(found)}")
        return Readings.of(found)

    def features(self, images: Batch) -> Floats:
        """``float32[N, sum d]``: the taps, joined in network order. Raises as ``run`` does, and
        ``EngineProblem`` when there is no ``taps``."""
        return self.outputs(images, ("taps",))[0]

    def outputs(self, images: Batch, names: Sequence[str]) -> tuple[Floats, ...]:
        """The named outputs, in that order. Raises as ``run`` does, and ``EngineProblem`` for a
        name that the module does not return."""
        found = self._run(images, tuple(names))
        for name in names:
            if name not in found:
                raise EngineProblem(f"there is no output {name!r}; export it again with that")
        return tuple(found[name] for name in names)

    def warm_up(self) -> None:
        """Run one gray and one colour image, so that memory is allocated and kernels chosen."""
        for channels in (1, 3):
            self.run(np.zeros((1, _WARM_UP_SIDE, _WARM_UP_SIDE, channels), np.uint8))

    def _run(self, images: Batch, names: tuple[str, ...]) -> dict[str, Floats]:
        check_batch(images)
        batch = torch.from_numpy(images if images.flags.writeable else images.copy())
        try:
            if self._device.type == "cpu":
                found = self._forward(batch, names)
            else:
                with self._lock:  # captured graphs share their input and output memory
                    on_device = batch.pin_memory().to(self._device, non_blocking=True)
                    found = self._graphs.run(on_device, names)
                    found = {name: value.cpu() for name, value in found.items()}
        except (RuntimeError, IndexError, ConversionProblem) as error:
            raise EngineProblem(
                f"torch failed on a batch of shape {list(images.shape)}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        return {name: value.numpy() for name, value in found.items()}

    def _forward(self, batch: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """The named outputs that the module has, float32 on its device."""
        with ExitStack() as context:
            context.enter_context(torch.no_grad())
            if self._device.type == "cuda":
                context.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            if isinstance(self._module, OnnxModule):
                names = tuple(name for name in names if name in self._module.output_names)
                values = self._module.outputs((batch,), names)
                return {name: v.float() for name, v in zip(names, values, strict=True)}
            if self._reduced is not None:
                context.enter_context(
                    torch.autocast(self._device.type, self._reduced, cache_enabled=False)
                )
            result = self._module(batch)
        named: Mapping[str, Tensor] = result if isinstance(result, Mapping) else result._asdict()
        return {name: named[name].float() for name in names if name in named}

    def _held(self) -> tuple[Tensor, ...]:
        return tuple(self._module.moved.values()) if isinstance(self._module, OnnxModule) else ()
