"""The image: linted, hardened, and everything that it would do, done without a container engine."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deploy.dockerfile import DOCKERFILE, stages

ROOT = Path(__file__).parents[2]
SERVED = ("cpu", "gpu")


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")  # a dependency of this environment
    found = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("name", SERVED)
def test_what_is_served_is_small_and_has_no_rights(name: str) -> None:
    built = stages()
    stage = built[name]
    assert stage.user == "10001:10001"  # by number: runAsNonRoot cannot judge a name
    assert stage.health == ["python", "-m", "service.probe"]
    assert stage.entrypoint == ["lazaret"]
    ancestry = [stage]
    while ancestry[-1].base in built:
        ancestry.append(built[ancestry[-1].base])
    assert ancestry[-1].base == "python:${PYTHON}"
    after_user = False
    for part in reversed(ancestry):
        for word, rest in part.instructions:
            after_user |= word == "USER"
            assert word != "ADD"
            if word == "RUN":  # no compiler, no package manager, nothing fetched
                assert not after_user
                assert not any(tool in rest for tool in ("pip", "apt", "curl", "wget")), rest
            if word == "COPY" and not rest.startswith("--from"):
                assert rest.startswith("models/zoo/phantom/bundle ")
            if word in ("ENV", "ARG"):
                assert not any(s in rest.upper() for s in ("PASSWORD", "SECRET", "TOKEN", "KEY"))
    assert f"--from=sbom-{name} /opt/lazaret" in dict(stage.instructions)["COPY"]


def test_the_base_image_is_of_an_exact_version() -> None:
    (python,) = re.findall(r"^ARG PYTHON=(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert re.match(r"\d+\.\d+\.\d+-", python)


def test_the_default_target_runs_anywhere() -> None:
    assert list(stages())[-1] == "cpu"


def test_the_sbom_lists_what_the_image_installs() -> None:
    arguments = [rest for word, rest in stages()["installed-cpu"].instructions if word == "ARG"]
    (extras,) = [rest.removeprefix("EXTRAS=") for rest in arguments if rest.startswith("EXTRAS")]
    assert f"'.[{extras}]'" in (ROOT / "Makefile").read_text()
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= set(declared["optional-dependencies"])


def test_the_builder_sees_only_what_it_needs() -> None:
    lines = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    sent = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for stage in stages().values()
        for word, rest in stage.instructions
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert all(source.partition("/")[0] in sent for source in copied)
    assert all((ROOT / source).exists() for source in copied)
    assert sent <= {source.partition("/")[0] for source in copied}


def test_a_wheel_serves_as_a_stranger_on_a_read_only_root() -> None:
    rehearsal = [sys.executable, "-m", "deploy.rehearse", "--dependencies-of-this-python"]
    found = subprocess.run(rehearsal, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "diagnosed clean-1.png: accept" in found.stdout
    assert "stopped with status 0; the data folder holds lazaret.sqlite3" in found.stdout
