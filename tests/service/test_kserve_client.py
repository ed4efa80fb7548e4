"""KServe's own client, unmodified, must find everything where it looks.

It asks for an older protobuf than ours, so it lives in an environment of its own.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import server_process
from test_grpc import LIMITS, grpc_address
from test_service_process import serve
from tiny_bundle import ACCEPTED, REJECTED

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parents[1] / ".venv" / "kserve"


def test_both_clients_of_kserve(bundle: Path, tmp_path: Path) -> None:
    python = Path(os.environ.get("LAZARET_TEST_KSERVE", ENVIRONMENT)) / "bin" / "python"
    if not python.exists():
        missing = "KServe's client is not installed; make .venv/.kserve"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with server_process(serve(bundle), tmp_path, LIMITS) as server:
        asked = subprocess.run(
            [python, HERE / "kserve_client.py", server.url, grpc_address(server),
             str(ACCEPTED), str(REJECTED)],
            capture_output=True, text=True, env=inherited, timeout=300,
        )  # fmt: skip
    assert asked.returncode == 0, asked.stderr[-3000:]
    found = json.loads(asked.stdout.splitlines()[-1])
    http, grpc = found["http"], found["grpc"]
    for protocol in (http, grpc):
        assert [protocol[question] for question in ("live", "ready", "model ready")] == [True] * 3
    assert not http["other ready"]
    for answer in (http["json"], http["binary"], grpc["answer"]):
        assert answer["id"] == "k1"
        assert answer["model"] == "tiny"
        assert answer["verdicts"] == ["accept", "reject"]
        assert sum(answer["first"]) == pytest.approx(1)
