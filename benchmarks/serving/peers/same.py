"""What every peer does with a body: decode it at a fraction of its size and run the bare model,
whose graph resizes and scales. No guard, no record.
"""

import io
import os

import numpy as np
import onnxruntime as ort
from PIL import Image

SIDE = int(os.environ["BENCH_SIDE"])
PORT = int(os.environ["BENCH_PORT"])
WORKERS = int(os.environ["BENCH_WORKERS"])


def pixels(body: bytes) -> np.ndarray:
    """``uint8[H, W, 3]``."""
    image = Image.open(io.BytesIO(body))
    image.draft("RGB", (SIDE, SIDE))
    return np.asarray(image.convert("RGB"))


class Model:
    """The bare model on one thread."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(
            os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, batch: np.ndarray) -> list[list[float]]:
        """Probabilities of ``uint8[N, H, W, 3]``."""
        return self._session.run(["probabilities"], {"image": batch})[0].tolist()
