"""Run a fused graph on ONNX Runtime: CPU, CUDA or TensorRT. Serving uses it; no torch."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from models.engine import READING, Batch, EngineProblem, Floats, Readings, check_batch

Provider = Literal["cpu", "cuda", "tensorrt"]

INPUT = "image"
RANKS = {"logits": 2, "probabilities": 2, "scores": 2, "fused": 1, "quality": 1, "taps": 2}
"""The outputs a graph may have beside any others, and their ranks. A model has the first two,
a guarded model the next three; ``taps`` are its features, joined along the second axis."""

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_INSTALL = {
    "cuda": "install `lazaret[gpu]` (onnxruntime-gpu, in place of onnxruntime) with CUDA and cuDNN",
    "tensorrt": "install `lazaret[gpu]` (onnxruntime-gpu, in place of onnxruntime) and TensorRT",
}
_OPTIONS: dict[str, dict[str, str]] = {
    "cpu": {},
    # TF32 rounds to 10 bits: scores would leave the calibration that was made without it.
    # A heuristic choice of convolution, because an exhaustive search repeats for every new size.
    "cuda": {
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    },
    "tensorrt": {},
}
# An arena keeps the largest image's workspace; above this many input bytes it is given back.
_SHRINK_ABOVE = 8 * 2**20
# Larger than any crop in ordinary use, so that a graph that only crops warms up too.
_WARM_UP_SIDE = 512


class OnnxEngine:
    """An ``Engine`` on ONNX Runtime, thread-safe.

    The graph has one input, ``image: uint8[N, H, W, C]`` with every axis dynamic, and float32
    outputs: ``logits [N, L]``, ``probabilities [N, K]`` and, when guarded, ``scores [N, D]``,
    ``fused [N]``, ``quality [N]``, ``taps [N, sum d]``. Outputs that a call does not need are
    not asked for.

    Worker threads sleep between runs instead of spinning (``session.intra_op.allow_spinning``
    is 0): they share their cores with decoding and the event loop.
    """

    def __init__(
        self,
        graph: bytes | Path,
        *,
        provider: Provider = "cpu",
        threads: int | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        """Load a graph.

        Args:
            graph: the ONNX file or its content.
            provider: what runs it. TensorRT leaves what it cannot run to CUDA, CUDA to the CPU.
            threads: CPU threads of one run; one per core when None.
            sizes: batches that come often. On CUDA each has a session of its own, weights and all:
                a convolution keeps its plan for the last shape alone, and making another takes
                longer than running it.

        Raises:
            EngineProblem: the provider is not installed, the file cannot be read, is not ONNX,
                or has not the inputs and outputs above.
        """
        self._session = _open(graph, provider, threads)
        self.provider: Provider = provider
        _check_contract(self._session, _name(graph))
        self.output_names: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())
        """What the graph can be asked for, in its own order."""
        self._asked = tuple(name for name in READING if name in self.output_names)
        self._bound = None if provider == "cpu" else _Bound(self._session)
        own = sizes if provider == "cuda" else ()
        self._sized = {size: _Bound(_open(graph, provider, threads)) for size in own}

    def run(self, images: Batch) -> Readings:
        """Run one batch. A bare model's ``scores`` are ``[N, 0]``, its ``fused`` and ``quality``
        NaN.

        Raises:
            ValueError: not ``uint8[N, H, W, 1 or 3]``.
            EngineProblem: the runtime failed on this batch (out of memory, say).
        """
        return Readings.of(dict(zip(self._asked, self.outputs(images, self._asked), strict=True)))

    def features(self, images: Batch) -> Floats:
        """``float32[N, sum d]``: the taps, joined in network order. Raises as ``run`` does, and
        ``EngineProblem`` when the graph has no ``taps``."""
        return self.outputs(images, ("taps",))[0]

    def outputs(self, images: Batch, names: Sequence[str]) -> tuple[Floats, ...]:
        """The named outputs, in that order. Raises as ``run`` does, and ``EngineProblem`` for a
        name that the graph does not have."""
        check_batch(images)
        unknown = [name for name in names if name not in self.output_names]
        if unknown:
            raise EngineProblem(
                f"the graph has no output {unknown[0]!r}, only {', '.join(self.output_names)}; "
                "export it again with that output"
            )
        images = np.ascontiguousarray(images)
        try:
            bound = self._sized.get(len(images), self._bound)
            if bound is not None:
                return bound.run(images, names)
            return tuple(self._session.run(list(names), {INPUT: images}, _run_options(images)))
        except Exception as error:  # the runtime's errors have no common base
            raise EngineProblem(
                f"the graph failed on a batch of shape {list(images.shape)}: {_first_line(error)}"
            ) from error

    def warm_up(self) -> None:
        """Run one gray and one colour image, so that memory is allocated and kernels chosen, or so
        many where a size has a session of its own."""
        for channels in (1, 3):
            for size in self._sized or (1,):
                self.run(np.zeros((size, _WARM_UP_SIDE, _WARM_UP_SIDE, channels), np.uint8))


class OnnxGraph:
    """A graph of any inputs and outputs on the same runtime, thread-safe."""

    def __init__(
        self, graph: bytes, *, provider: Provider = "cpu", threads: int | None = None
    ) -> None:
        """Raises ``EngineProblem`` as ``OnnxEngine`` does."""
        self._session = _open(graph, provider, threads)
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], names: Sequence[str]
    ) -> tuple[Floats, ...]:
        """The named outputs, in that order. Raises ``EngineProblem``."""
        try:
            return tuple(self._session.run(list(names), dict(feeds)))
        except Exception as error:  # the runtime's errors have no common base
            raise EngineProblem(f"the graph failed: {_first_line(error)}") from error


class _Bound:
    """Runs on a GPU through I/O binding, from one page-locked buffer that grows to the largest
    batch: a copy from pageable memory would pass through the driver's own staging area and
    block. One run at a time, because they share the buffer."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._memory = _pinned_memory(session)
        self._buffer: Any = None
        self._capacity = 0

    def run(self, images: Batch, names: Sequence[str]) -> tuple[Floats, ...]:
        with self._lock:
            address = self._stage(images)
            binding = self._session.io_binding()
            binding.bind_input(INPUT, "cpu", 0, np.uint8, list(images.shape), address)
            for name in names:
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
            return tuple(binding.copy_outputs_to_cpu())

    def _stage(self, images: Batch) -> int:
        """Copy the batch into the buffer; its address."""
        if self._capacity < images.nbytes:
            self._buffer = ort.OrtValue.ortvalue_from_shape_and_type(
                [images.nbytes], np.uint8, **self._memory
            )
            self._capacity = images.nbytes
        address: int = self._buffer.data_ptr()
        ctypes.memmove(address, images.ctypes.data, images.nbytes)
        return address


def _pinned_memory(session: Any) -> dict[str, Any]:
    """Where to allocate page-locked memory; nothing (pageable) where the runtime has no such
    allocator for this session's provider to offer."""
    try:
        for device in ort.get_ep_devices():
            if device.ep_name == session.get_providers()[0]:
                info = device.memory_info(ort.OrtDeviceMemoryType.HOST_ACCESSIBLE)
                if info is not None:
                    ort.OrtValue.ortvalue_from_shape_and_type([1], np.uint8, memory_info=info)
                    return {"memory_info": info}
    except Exception:  # an older runtime, or one whose provider registers no allocator
        return {}
    return {}


def _open(graph: bytes | Path, provider: Provider, threads: int | None) -> Any:
    if _PROVIDERS[provider] not in ort.get_available_providers():
        raise EngineProblem(f"the {provider} provider is not installed: {_INSTALL[provider]}")
    if provider != "cpu":
        ort.preload_dlls()  # finds CUDA and cuDNN installed as wheels
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; they also arrive as exceptions
    options.enable_cpu_mem_arena = True
    # Patterns are kept for every input shape ever seen: a leak when strangers choose the shapes.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    chain = list(_PROVIDERS)[: list(_PROVIDERS).index(provider) + 1][::-1]
    try:
        session = ort.InferenceSession(
            graph if isinstance(graph, bytes) else _read(graph),
            options,
            providers=[(_PROVIDERS[p], _OPTIONS[p]) for p in chain],
        )
    except EngineProblem:
        raise
    except Exception as error:  # the runtime's errors have no common base
        raise EngineProblem(
            f"{_name(graph)} is not a graph that ONNX Runtime {ort.__version__} can load "
            f"({_first_line(error)}); export the model to ONNX again"
        ) from error
    if session.get_providers()[0] != _PROVIDERS[provider]:
        raise EngineProblem(
            f"the {provider} provider is installed but did not start on this machine: "
            f"{_INSTALL[provider]}, and see that the GPU is visible (nvidia-smi)"
        )
    return session


def _read(path: Path) -> str:
    try:
        with path.open("rb"):
            return str(path)  # by path, so that weights in a file beside it are found
    except OSError as error:
        raise EngineProblem(f"{path}: {error.strerror or error}; give an ONNX file") from None


def _name(graph: bytes | Path) -> str:
    return "the graph" if isinstance(graph, bytes) else str(graph)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _check_contract(session: Any, name: str) -> None:
    inputs = session.get_inputs()
    if [i.name for i in inputs] != [INPUT] or inputs[0].type != "tensor(uint8)":
        found = ", ".join(f"{i.name}: {i.type}" for i in inputs) or "none"
        raise EngineProblem(
            f"{name} must have one input, image: uint8[N, H, W, C], but has {found}; "
            "make it with `lazaret bundle export` or `lazaret fit`"
        )
    shape = inputs[0].shape
    if len(shape) != 4 or any(isinstance(axis, int) for axis in shape):
        raise EngineProblem(
            f"{name}: its input image must be [N, H, W, C] with every axis dynamic, not {shape}; "
            "export it again with dynamic axes"
        )
    ranks = {o.name: (o.type, len(o.shape or ())) for o in session.get_outputs()}
    for output, rank in RANKS.items():
        if output in ranks:
            found_type, found_rank = ranks[output]
            if found_type != "tensor(float)" or found_rank not in (rank, 0):
                raise EngineProblem(
                    f"{name}: its output {output} must be float32 with {rank} axes, not "
                    f"{found_type} with {found_rank}; export it again"
                )
        elif output in ("logits", "probabilities"):
            raise EngineProblem(
                f"{name} has no output {output!r}, only {', '.join(ranks)}; export it again with "
                "logits and probabilities"
            )


def _run_options(images: npt.NDArray[np.uint8]) -> Any:
    if images.nbytes <= _SHRINK_ABOVE:
        return None
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options
