"""``lazaret score``, ``bundle`` and ``doctor`` on real files."""

import inspect
import json
from pathlib import Path
from typing import get_args

import pytest
from tiny_bundle import ACCEPTED, REJECTED, flat
from typer.testing import CliRunner

from detectors.guard import IN_FULL, TRIAGE
from service.cli import app
from service.cli.fit import fit


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAZARET_PORT", "0")


def lazaret(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.output


def test_score_gives_one_line_a_file_and_goes_on_after_a_bad_one(bundle: Path) -> None:
    Path("good.png").write_bytes(flat(ACCEPTED))
    Path("bad.png").write_bytes(b"rubbish")
    Path("held.jpg").write_bytes(flat(REJECTED, form="JPEG"))
    files = ["good.png", "bad.png", "missing.png", "held.jpg"]
    status, output = lazaret("score", *files, "--bundle", bundle, "--json")
    assert status == 1
    lines = [json.loads(line) for line in output.splitlines()]
    assert [line["file"] for line in lines] == files
    assert lines[0]["verdict"] == "accept"
    assert lines[1]["status"] == 415
    assert lines[2]["status"] == 400
    assert (lines[3]["verdict"], lines[3]["diagnosis"], lines[3]["case_id"]) == (
        "reject", None, None,
    )  # fmt: skip
    assert lazaret("score", "good.png", "--bundle", bundle)[0] == 0
    assert list(Path().glob("*.sqlite3")) == []  # nothing is recorded


def test_bundle_inspect_and_verify(bundle: Path, tmp_path: Path) -> None:
    status, output = lazaret("bundle", "inspect", bundle)
    assert (status, "dark" in output, "mean" in output) == (0, True, True)
    assert lazaret("bundle", "verify", bundle)[0] == 0
    status, output = lazaret("bundle", "verify", tmp_path)
    assert (status, "manifest.json" in output) == (2, True)


def test_doctor_says_what_to_fix(bundle: Path, tmp_path: Path) -> None:
    assert lazaret("doctor", "--bundle", bundle)[0] == 0
    status, output = lazaret("doctor", "--bundle", tmp_path)
    assert (status, "lazaret fit" in " ".join(output.split())) == (1, True)


@pytest.mark.parametrize(
    "command", [["serve"], ["score"], ["doctor"], ["bundle", "inspect"], ["bundle", "verify"]]
)
def test_help_has_an_example(command: list[str]) -> None:
    status, output = lazaret(*command, "--help")
    assert (status, "Example:" in output) == (0, True)


def test_fit_names_the_default_detectors() -> None:
    """The command's words are its own, since importing the detectors would load torch."""
    _, option = get_args(inspect.get_annotations(fit, eval_str=True)["detectors"])
    for names in (IN_FULL, TRIAGE):
        assert ",".join(names) in option.help
