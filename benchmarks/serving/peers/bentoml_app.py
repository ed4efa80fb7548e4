"""BentoML; the file comes as a form."""

from pathlib import Path

import bentoml
from same import WORKERS, Model, pixels


@bentoml.service(workers=WORKERS, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Bench:
    def __init__(self):
        self.model = Model()

    @bentoml.api(route="/predict")
    def predict(self, image: Path) -> list[float]:
        return self.model(pixels(image.read_bytes())[None])[0]
