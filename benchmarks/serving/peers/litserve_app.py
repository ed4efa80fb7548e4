"""LitServe; files come as a form, which is what it reads."""

import litserve
from same import PORT, WORKERS, Model, pixels


class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = Model()

    def decode_request(self, request):
        return pixels(request["request"].file.read())

    def predict(self, x):
        return self.model(x[None])[0]

    def encode_response(self, output):
        return {"logits": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=WORKERS)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
