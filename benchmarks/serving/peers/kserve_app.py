"""KServe's own server, version 1 of its protocol: the file in base64 inside JSON."""

import base64

from kserve import Model as KServeModel
from kserve import ModelServer
from same import PORT, Model, pixels


class Bench(KServeModel):
    def __init__(self, name):
        super().__init__(name)
        self.model = Model()
        self.ready = True

    def load(self):
        self.ready = True
        return True

    def predict(self, payload, headers=None):
        bodies = [base64.b64decode(entry["b64"]) for entry in payload["instances"]]
        return {"predictions": [self.model(pixels(body)[None])[0] for body in bodies]}


if __name__ == "__main__":
    ModelServer(http_port=PORT, workers=1, enable_grpc=False, access_log_format=None).start(
        [Bench("bench")]
    )
