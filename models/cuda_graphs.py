"""Replay a forward pass as a CUDA graph: one launch in place of one for every kernel."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

Outputs = dict[str, Tensor]
Forward = Callable[[Tensor, tuple[str, ...]], Outputs]

# A graph holds its own input and workspace: for the sizes of the busiest senders, not for all.
_REMEMBERED = 16
_WARM_UP_RUNS = 3  # as torch.cuda.make_graphed_callables does before it captures


class _Shape(Enum):
    SEEN = "once, so not yet worth a capture"
    REFUSED = "cannot be captured"


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    batch: Tensor
    outputs: Outputs
    held: tuple[Tensor, ...]
    """Tensors outside the graph's own memory that its kernels read."""


class CudaGraphs:
    """Captures ``forward`` for every batch shape that comes a second time, and replays it.

    Not thread-safe: the results lie in the graph's memory until the next run.
    """

    def __init__(self, forward: Forward, held: Callable[[], tuple[Tensor, ...]]) -> None:
        """Wrap a forward pass.

        Args:
            forward: from a batch on the device and output names to those outputs.
            held: tensors, beside the weights, that a pass just made may read again.
        """
        self._forward = forward
        self._held = held
        self._shapes: OrderedDict[object, _Captured | _Shape] = OrderedDict()

    def run(self, batch: Tensor, names: tuple[str, ...]) -> Outputs:
        """The named outputs for a batch on the device."""
        key = (tuple(batch.shape), names)
        known = self._shapes.get(key)
        if known is None:
            known = _Shape.SEEN
        elif known is _Shape.SEEN:
            known = self._capture(batch, names)
        self._shapes[key] = known
        self._shapes.move_to_end(key)
        if len(self._shapes) > _REMEMBERED:
            self._shapes.popitem(last=False)
        if isinstance(known, _Shape):
            return self._forward(batch, names)
        known.batch.copy_(batch)
        known.graph.replay()
        return known.outputs

    def _capture(self, batch: Tensor, names: tuple[str, ...]) -> _Captured | _Shape:
        static = batch.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's stub
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_RUNS):
                self._forward(static, names)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: other engines of this process may use the device meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = self._forward(static, names)
        except RuntimeError:  # it reads a value back, or allocates pinned memory
            torch.cuda.synchronize()
            return _Shape.REFUSED
        return _Captured(graph, static, outputs, self._held())
