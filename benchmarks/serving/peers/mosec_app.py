"""mosec: decode and model in one stage, so that no tensor crosses processes."""

import os
import sys

from mosec import Server, Worker
from same import PORT, WORKERS, Model, pixels

BATCH = int(os.environ.get("BENCH_BATCH", "1"))


class Infer(Worker):
    def __init__(self):
        self.model = Model()

    def deserialize(self, data):
        return pixels(data)

    def forward(self, data):
        if BATCH == 1:
            return {"logits": self.model(data[None])[0]}
        import numpy as np

        return [{"logits": row} for row in self.model(np.stack(data))]


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", str(PORT), "--log-level", "warning"]
    server = Server()
    server.append_worker(Infer, num=WORKERS, max_batch_size=BATCH, max_wait_time=1)
    server.run()
