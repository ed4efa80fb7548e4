"""The real service with an engine whose faults a file switches, as a script.

``python faulty_service.py CONTROL``: CONTROL holds nothing, ``error``, ``slow SECONDS``, or
``blind`` (every score is that of an ordinary image). Settings come from the environment.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from models.engine import Batch, Engine, Readings
from service.app import create_app
from service.guard import onnx_engine
from service.logs import configure
from service.server import run
from service.settings import Settings


class FaultyEngine:
    """Does what the file says."""

    def __init__(self, engine: Engine, control: Path) -> None:
        self._engine = engine
        self._control = control

    def run(self, images: Batch) -> Readings:
        """Run, with the fault of the moment."""
        fault, _, value = self._control.read_text().strip().partition(" ")
        if fault == "error":
            raise RuntimeError("the engine is broken")
        if fault == "slow":
            time.sleep(float(value))
        readings = self._engine.run(images)
        if fault == "blind":
            ordinary = np.full_like(readings.fused, 0.25)
            return replace(readings, fused=ordinary)
        return readings

    def warm_up(self) -> None:
        """Warm up, unless it is broken."""
        if self._control.read_text().strip() == "error":
            raise RuntimeError("the engine is broken")
        self._engine.warm_up()


if __name__ == "__main__":
    settings = Settings.load()
    configure(settings.log_level)
    control = Path(sys.argv[1])
    run(
        create_app(settings, lambda graph, s: FaultyEngine(onnx_engine(graph, s), control)),
        settings,
    )
