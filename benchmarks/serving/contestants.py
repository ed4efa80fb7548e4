"""Who is measured and how each is started and asked."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
BOUNDARY = "benchmarkbenchmark"
Body = tuple[bytes, Mapping[str, str]]
"""A request's, with its headers."""


@dataclass(frozen=True)
class Contestant:
    """One server."""

    name: str
    command: tuple[str, ...]
    path: str = "/predict"
    form: str = "raw"
    """``raw``, the name of a form's part, ``kserve`` or ``tensor``."""
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = PEERS
    guarded: bool = False

    def body(self, image: bytes) -> Body:
        """The request's, of a JPEG or, for ``tensor``, of pixels, ``uint8[H, W, 3]`` with equal
        sides."""
        if self.form == "raw":
            return image, {"Content-Type": "image/jpeg"}
        if self.form == "tensor":
            side = isqrt(len(image) // 3)
            tensor = {
                "name": "image", "shape": [1, side, side, 3], "datatype": "UINT8",
                "parameters": {"binary_data_size": len(image)},
            }  # fmt: skip
            document = json.dumps({"inputs": [tensor]}).encode()
            length = {"Inference-Header-Content-Length": str(len(document))}
            return document + image, {"Content-Type": "application/octet-stream", **length}
        if self.form == "kserve":
            instances = {"instances": [{"b64": base64.b64encode(image).decode()}]}
            return json.dumps(instances).encode(), {"Content-Type": "application/json"}
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{self.form}"; '
            'filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        )
        tail = f"\r\n--{BOUNDARY}--\r\n"
        form = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return head.encode() + image + tail.encode(), form


def lazaret(
    bundle: Path,
    port: int,
    workers: int,
    folder: Path,
    threads: int | None = 1,
    guard: str = "in full",
) -> Contestant:
    """Us: guarded, recorded, durable before the answer.

    Args:
        threads: of each worker's engine; None: the cores divided by the workers.
        guard: the bundle's, in words.
    """
    command = (
        sys.executable, "-m", "service", "serve", "--bundle", str(bundle), "--port", str(port),
        "--workers", str(workers), "--log-level", "warning",
        "--database", f"sqlite:///{folder}/records{workers}.sqlite3",
    )  # fmt: skip
    plural = "s" if workers > 1 else ""
    return Contestant(
        f"lazaret, {guard}, {workers} worker{plural}: verdict, durable record",
        command, "/diagnose", folder=Path.cwd(), guarded=True,
        environment={
            "LAZARET_CANARY_SECONDS": "0", **({"LAZARET_THREADS": str(threads)} if threads else {})
        },
    )  # fmt: skip


def peers(environments: Path, port: int) -> list[Contestant]:
    """Those that are installed, each in its own environment under ``environments``."""

    def python(name: str) -> str:
        return str(environments / name / "bin" / "python")

    def script(name: str) -> str:
        return str(environments / name / "bin" / name)

    everyone = [
        Contestant("FastAPI on uvicorn", (python("plain"), "fastapi_app.py")),
        Contestant("LitServe", (python("litserve"), "litserve_app.py"), form="request"),
        Contestant("mosec", (python("mosec"), "mosec_app.py"), "/inference"),
        Contestant(
            "mosec, batches", (python("mosec"), "mosec_app.py"), "/inference",
            environment={"BENCH_BATCH": "8"},
        ),
        Contestant(
            "BentoML",
            (python("bentoml"), "-m", "bentoml", "serve", "bentoml_app:Bench", "--port", str(port),
             "--host", "127.0.0.1"),
            form="image",
        ),
        Contestant(
            "MLServer", (script("mlserver"), "start", str(PEERS / "mlserver")),
            environment={
                "MLSERVER_HTTP_PORT": str(port), "MLSERVER_GRPC_PORT": str(port + 1),
                "MLSERVER_METRICS_PORT": str(port + 2), "MLSERVER_PARALLEL_WORKERS": "0",
                "MLSERVER_MODEL_NAME": "bench", "MLSERVER_MODEL_IMPLEMENTATION": "model.Bench",
                "PYTHONPATH": f"{PEERS}:{PEERS / 'mlserver'}",
            },
        ),
        Contestant(
            "KServe", (python("kserve"), "kserve_app.py"), "/v1/models/bench:predict", "kserve"
        ),
        Contestant("Ray Serve", (python("ray"), "ray_app.py")),
    ]  # fmt: skip
    return [one for one in everyone if Path(one.command[0]).exists()]
