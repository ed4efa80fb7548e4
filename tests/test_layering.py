"""Dependencies point one way, and serving starts without the offline half."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "models": {"models"},
    "detectors": {"detectors", "models"},
    "attacks": {"attacks", "detectors", "models"},
    "service": {"service", "attacks", "detectors", "models"},
}
OFFLINE = ("torch", "scipy", "sklearn", "onnx", "matplotlib")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_in_one_direction(package: str) -> None:
    forbidden = set(MAY_IMPORT) - MAY_IMPORT[package]
    for path in (ROOT / package).rglob("*.py"):
        assert not imported(path) & forbidden, path


def test_only_the_command_line_reaches_the_attacks() -> None:
    for path in (ROOT / "service").rglob("*.py"):
        if "attacks" in imported(path):
            assert path.parent.name == "cli", path


@pytest.mark.parametrize("module", ["service.app", "service.cli", "models.onnx_engine"])
def test_serving_imports_nothing_of_the_offline_half(module: str) -> None:
    code = f"import {module}, sys; print([m for m in {OFFLINE!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_nothing_is_a_pickle() -> None:
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            assert not imported(path) & {"pickle", "dill", "joblib", "marshal", "shelve"}, path
    stored = {path.suffix for path in (ROOT / "models" / "zoo").rglob("*") if path.is_file()}
    assert stored <= {".py", ".pyc", ".json", ".safetensors", ".onnx", ".md", ".png", ".dcm"}
