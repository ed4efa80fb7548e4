"""What KServe's own client, unmodified, finds where it looks: run by an environment that has it.

``python kserve_client.py HTTP_ADDRESS GRPC_ADDRESS`` prints JSON: what each client was told.
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request(grays: list[int], *, binary: bool) -> InferRequest:
    pixels = np.stack([np.full((32, 32, 1), gray, np.uint8) for gray in grays])
    given = InferInput("image", list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels, binary_data=binary)
    return InferRequest(model_name="tiny", infer_inputs=[given], request_id="k1")


def told(answer) -> dict:
    outputs = {output.name: output.as_numpy() for output in answer.outputs}
    return {
        "id": answer.id,
        "model": answer.model_name,
        "verdicts": [v.decode() if isinstance(v, bytes) else str(v) for v in outputs["verdict"]],
        "first": outputs["probabilities"][0].astype(float).tolist(),
    }


async def over_http(address: str, grays: list[int]) -> dict:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    found = {
        "live": await client.is_server_live(address),
        "ready": await client.is_server_ready(address),
        "model ready": await client.is_model_ready(address, "tiny"),
        "other ready": await client.is_model_ready(address, "other"),
    }
    for binary in (False, True):
        answer = await client.infer(
            address, request(grays, binary=binary), model_name="tiny", timeout=30
        )
        found["binary" if binary else "json"] = told(answer)
    await client.close()
    return found


async def over_grpc(address: str, grays: list[int]) -> dict:
    client = InferenceGRPCClient(address, retries=0)
    found = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model ready": await client.is_model_ready("tiny"),
        "answer": told(await client.infer(request(grays, binary=True), timeout=30)),
    }
    await client.close()
    return found


async def main(http: str, grpc: str, grays: list[int]) -> None:
    print(json.dumps({"http": await over_http(http, grays), "grpc": await over_grpc(grpc, grays)}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], [int(gray) for gray in sys.argv[3:]]))
