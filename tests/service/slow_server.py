"""The service with an engine that takes its time, as a script for tests of shutting down."""

import sys
import time
from pathlib import Path

from models.engine import Batch, Engine, Readings
from service.app import create_app
from service.guard import onnx_engine
from service.logs import configure
from service.server import run
from service.settings import Settings


class SlowEngine:
    """Takes ``seconds`` a batch."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self._engine = engine
        self._seconds = seconds

    def run(self, images: Batch) -> Readings:
        """Run, slowly."""
        time.sleep(self._seconds)
        return self._engine.run(images)

    def warm_up(self) -> None:
        """Warm up."""
        self._engine.warm_up()


if __name__ == "__main__":
    settings = Settings(bundles=(Path(sys.argv[1]),), batch_images=4)
    configure(settings.log_level)
    seconds = float(sys.argv[2])
    app = create_app(settings, lambda graph, s: SlowEngine(onnx_engine(graph, s), seconds))
    run(app, settings)
