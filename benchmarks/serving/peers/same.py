"""What every peer does with a body: decode at a fraction of the size, resize, scale, run.

The same model as Lazaret's, bare, as its owner would serve it: no guard, no record.
"""

import io
import os

import numpy as np
import onnxruntime as ort
from PIL import Image

SIDE = int(os.environ["BENCH_SIDE"])
MEAN, STD = float(os.environ["BENCH_MEAN"]), float(os.environ["BENCH_STD"])
PORT = int(os.environ["BENCH_PORT"])
WORKERS = int(os.environ["BENCH_WORKERS"])


def pixels(body: bytes) -> np.ndarray:
    """``float32[1, side, side]``."""
    image = Image.open(io.BytesIO(body))
    image.draft("L", (SIDE, SIDE))
    image = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return ((np.asarray(image, np.float32) / 255 - MEAN) / STD)[None]


class Model:
    """The bare model on one thread."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(
            os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def __call__(self, batch: np.ndarray) -> list[list[float]]:
        """Logits of ``float32[N, 1, side, side]``."""
        return self._session.run([self._output], {self._input: batch})[0].tolist()
