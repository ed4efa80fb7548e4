"""FastAPI on uvicorn, the model in a thread pool."""

import uvicorn
from fastapi import FastAPI, Request
from same import PORT, WORKERS, Model, pixels
from starlette.concurrency import run_in_threadpool

app = FastAPI()
model = Model()


def work(body: bytes) -> list[float]:
    return model(pixels(body)[None])[0]


@app.post("/predict")
async def predict(request: Request) -> dict[str, list[float]]:
    return {"logits": await run_in_threadpool(work, await request.body())}


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_app:app", host="127.0.0.1", port=PORT, workers=WORKERS, access_log=False,
        log_level="warning",
    )  # fmt: skip
