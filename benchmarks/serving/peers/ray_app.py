"""Ray Serve, one replica a core."""

import time

import ray
from ray import serve
from same import PORT, WORKERS, Model, pixels


@serve.deployment(num_replicas=WORKERS, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
class Bench:
    def __init__(self):
        self.model = Model()

    async def __call__(self, request):
        body = await request.body()
        return {"logits": self.model(pixels(body)[None])[0]}


if __name__ == "__main__":
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Bench.bind(), route_prefix="/predict")
    while True:
        time.sleep(60)
