"""A model that only answers: ONNX graphs without a torch counterpart, for black-box attacks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from detectors.feature_graph import feature_graph
from models.load import OnnxModel
from models.onnx_engine import OnnxEngine
from models.spec import ModelSpec


@dataclass(frozen=True)
class Oracle:
    """Pixels ``float32[N, H, W, C]`` in grey levels, rounded, to class logits ``[N, K]`` without a
    gradient."""

    graph: bytes
    spec: ModelSpec

    @classmethod
    def of(cls, model: OnnxModel) -> Oracle:
        """The model behind its own preprocessing."""
        return cls(feature_graph(model, squeezed=False).SerializeToString(), model.spec)

    @cached_property
    def _engine(self) -> OnnxEngine:
        return OnnxEngine(self.graph, threads=1)

    def __getstate__(self) -> dict[str, object]:
        """Without the session: a worker elsewhere opens its own."""
        return {"graph": self.graph, "spec": self.spec}

    def __call__(self, pixels: Tensor) -> Tensor:
        grid = pixels.detach().round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        (logits,) = self._engine.outputs(np.ascontiguousarray(grid), ("class_logits",))
        return torch.from_numpy(logits)
