"""``lazaret attack`` as a user runs it: what it writes is what the service answers, wherever the
work was done and however often it was stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from conftest import server_process

from attacks.shards import read_manifest
from detectors.bundle import Bundle

pytestmark = pytest.mark.timeout(600)
BUNDLE = Path(__file__).parents[2] / "models" / "zoo" / "phantom" / "bundle"
LAZARET = ["-c", "from service.cli import app; app()"]
ATTACK = ("--attacks", "fgsm,pgd:steps=10,deepfool", "--epsilon", "2", "--images", "24")


def command(data: Path, out: Path, *more: object) -> list[str]:
    given = ("attack", "--bundle", BUNDLE, "--data", data, "--out", out, *more)
    return [sys.executable, *LAZARET, *map(str, given)]


def run(arguments: list[str], cache: Path, *, fails: bool = False) -> str:
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        env={**os.environ, "LAZARET_CACHE": str(cache)},
    )
    assert (done.returncode != 0) == fails, done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    making = ("phantom", "dataset", "--out", folder, "--images", "160", "--size", "128")
    subprocess.run([sys.executable, *LAZARET, *map(str, making)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def whole(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made at one go, by threads."""
    out = tmp_path_factory.mktemp("sets") / "whole"
    run(command(phantoms, out, *ATTACK), tmp_path_factory.mktemp("cache"))
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_delivered_file_gets_the_answer_that_the_manifest_promises(
    phantoms: Path, tmp_path: Path
) -> None:
    sets = []
    for container in ("png8", "jpeg:90", "dicom12"):
        out = tmp_path / container.replace(":", "-")
        attacks = ["pgd", "hopskipjump:queries=150"] if container == "png8" else ["pgd"]
        options = ("--attacks", ",".join(attacks), "--epsilon", "4", "--images", "10")
        run(
            command(phantoms, out, *options, "--container", container, "--files"),
            tmp_path / "cache",
        )
        sets += [manifest.parent for manifest in out.glob("*/manifest.json")]
    classes = Bundle.open(BUNDLE).manifest.model.classes
    fooled = 0
    with server_process([*LAZARET, "serve", "--bundle", str(BUNDLE)], tmp_path) as server:
        for folder in sets:
            for row in read_manifest(folder).images:
                assert row.file is not None
                answer = httpx.post(
                    f"{server.url}/diagnose", content=(folder / row.file).read_bytes(), timeout=30
                ).json()
                assert row.accepted == (answer["verdict"] == "accept"), (folder, row.key)
                if answer["diagnosis"] is not None:
                    assert classes.index(answer["diagnosis"]["label"]) == row.predicted
                fooled += row.success
    assert fooled >= 10, "the test must see successes"


def test_two_ray_workers_write_the_same_bytes(phantoms: Path, whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="pip install 'lazaret[ray]'")
    run(
        command(phantoms, tmp_path / "out", *ATTACK, "--ray", "local", "--workers", 2),
        tmp_path / "cache",
    )
    assert contents(tmp_path / "out") == contents(whole)


def test_what_was_killed_goes_on_and_ends_the_same(
    phantoms: Path, whole: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    arguments = command(phantoms, tmp_path / "out", *ATTACK, "--workers", 1)
    killed = subprocess.Popen(
        arguments, stderr=subprocess.DEVNULL, env={**os.environ, "LAZARET_CACHE": str(cache)}
    )
    while len(list(cache.rglob("*.safetensors"))) < 4:
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "out" / "deepfool" / "manifest.json").exists()
    run(arguments, cache)
    assert contents(tmp_path / "out") == contents(whole)
    run(command(phantoms, tmp_path / "out", *ATTACK, "--seed", 1), cache, fails=True)


def test_queries_of_black_box_attacks_are_kept_in_order(phantoms: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    out = tmp_path / "out"
    run(
        command(phantoms, out, "--attacks", "square:queries=20,eps=4", "--images", 3, "--traces"),
        tmp_path / "cache",
    )
    for row in read_manifest(out / "square-4").images:
        assert row.trace is not None
        queries = load_file(out / "square-4" / row.trace)["queries"]
        assert queries.shape[1:] == (128, 128, 1)
        assert 1 <= len(queries) <= row.forwards <= 21
        assert row.backwards == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--attacks", "fgsmm"), "no attack is called 'fgsmm'"),
        (("--attacks", "pgd:steps=0"), "pgd: steps: Input should be greater than 0"),
        (("--attacks", "joint_pgd"), "evades a guard: give --bundle BUNDLE --aware"),
        (("--attacks", "transfer"), "train one with `lazaret train --surrogate`"),
        (("--preset", "everything"), "no preset is called 'everything'"),
        (("--container", "bmp"), "no container is called 'bmp'"),
        (("--ray", "ray://127.0.0.1:1"), "no Ray cluster answers"),
    ],
)
def test_mistakes_are_answered_by_a_sentence(
    phantoms: Path, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    said = run(
        command(phantoms, tmp_path / "out", "--epsilon", 2, "--images", 2, *options),
        tmp_path / "cache",
        fails=True,
    )
    assert sentence in " ".join(said.split())
    assert "Traceback" not in said


def test_the_list_names_every_attack_with_its_source() -> None:
    from attacks.registry import methods

    shown = subprocess.run(
        [sys.executable, *LAZARET, "attack", "--list"], capture_output=True, text=True, check=True
    ).stdout
    for name, method in methods().items():
        assert f"\n{name}  " in f"\n{shown}"
        assert method.citation.split()[0] in shown
    assert "grey levels" in shown


def test_the_summary_says_the_same_as_the_manifests(whole: Path) -> None:
    rows = {row["attack"]: row for row in json.loads((whole / "summary.json").read_text())}
    for title, row in rows.items():
        images = read_manifest(whole / title).images
        right = [image for image in images if image.clean_correct]
        assert row["success"] == pytest.approx(sum(i.success for i in right) / len(right))
        harm = sum(bool(i.success and i.accepted) for i in right) / len(right)
        assert row["undetected_harm"] == pytest.approx(harm)
