"""MLServer with a handler of its own, so that the body stays a file."""

from fastapi import Request, Response
from mlserver import MLModel
from mlserver.handlers import custom_handler
from same import Model, pixels


class Bench(MLModel):
    async def load(self) -> bool:
        self.model = Model()
        return True

    @custom_handler(rest_path="/predict")
    async def predict_file(self, request: Request) -> Response:
        import json

        logits = self.model(pixels(await request.body())[None])[0]
        return Response(json.dumps({"logits": logits}), media_type="application/json")
