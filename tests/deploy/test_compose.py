"""docker-compose.yml fits the compose specification and keeps what it promises."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyOptions

from deploy.make_secrets import make
from service.settings import Settings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"


def interpolated() -> str:
    """The file as Compose reads it where nothing is set."""
    text = FILE.read_text()
    assert not re.findall(r"\$\{[A-Z_]+(?!:-)[^A-Z_:}]", text)
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(interpolated())["services"]
    return found


def test_it_fits_the_specification() -> None:
    options = PyOptions()
    options.apply_merge = True
    compose = options.from_yaml(interpolated())
    compose.validate()
    assert {"gateway", "postgres", "redis", "prometheus", "alertmanager", "grafana"} <= set(
        compose.service_names()
    )


def test_a_misspelt_key_is_found() -> None:
    options = PyOptions()
    options.apply_merge = True
    with pytest.raises(ValueError, match="healtcheck"):
        options.from_yaml(interpolated().replace("healthcheck:", "healtcheck:"))


def test_one_command_starts_everything_in_order(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy", name
            assert "healthcheck" in services[other], other
    # the image of the gateway brings its own health check; exporters have none to offer
    without = {name for name, service in services.items() if "healthcheck" not in service}
    assert without <= {"gateway", "node-exporter", "dcgm-exporter"}


def test_every_service_is_hardened(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] or name in ("orthanc", "dcgm-exporter"), name
        assert "privileged" not in service
        image = service["image"]
        exact = re.search(r":v?\d+\.\d+(\.\d+)?", image)
        assert exact or name == "gateway", f"{image} names no exact version"


def test_ports_are_open_to_this_machine_alone(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    # what nobody outside needs is not published at all
    assert not any("ports" in services[name] for name in ("postgres", "redis"))
    networks = yaml.safe_load(interpolated())["networks"]
    assert networks["back"]["internal"]
    assert services["postgres"]["networks"] == services["redis"]["networks"] == ["back"]


def test_no_password_is_in_the_file(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|TOKEN", variable):
                assert value.startswith("/run/secrets/"), f"{name}: {variable}"
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD_FILE"]
    assert services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"]


def test_secrets_are_random_kept_and_closed(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    written = make(folder)
    contents = {path.name: path.read_text() for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert make(folder) == []
    assert {path.name: path.read_text() for path in folder.iterdir()} == contents
    other = tmp_path / "other"
    make(other)
    assert all((other / name).read_text() != contents[name] for name in written)
    declared = yaml.safe_load(interpolated())["secrets"].values()
    assert {Path(entry["file"]).name for entry in declared} <= set(contents)
    settings = tomllib.loads(contents["lazaret.toml"])
    assert contents["postgres_password"] in settings["database"]
    assert contents["redis_password"] in settings["redis"]
    assert contents["redis_password"] in contents["redis.conf"]
    assert set(settings) <= set(Settings.model_fields)
    digest = hashlib.sha256(contents["api_key"].encode()).hexdigest()
    assert contents["api_keys"].strip().endswith(digest)


def test_secrets_never_reach_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/secrets/" in ignored


def test_every_mounted_file_is_there(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and volume["source"].startswith("./deploy"):
                assert (ROOT / volume["source"]).exists(), name
                assert volume["read_only"], name


def test_a_stop_waits_for_the_drain(services: dict[str, Any]) -> None:
    gateway = services["gateway"]
    grace = float(gateway["stop_grace_period"].removesuffix("s"))
    assert grace > float(gateway["environment"]["LAZARET_DRAIN_SECONDS"]) + 1
    assert os.fspath(gateway["build"]["dockerfile"]) == "deploy/Dockerfile"
