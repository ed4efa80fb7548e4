"""A bundle is exchanged under traffic; one that must not be served never is, and is counted."""

import gc
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import serving
from fastapi.testclient import TestClient
from tiny_bundle import ACCEPTED, FLAGGED, REJECTED, flat, write_bundle
from typer.testing import CliRunner

from detectors.bundle import CALIBRATION, GRAPH, Bundle, write_manifest
from detectors.canaries import Canary, Kind, seal
from detectors.manifest_file import BundleProblem, Refusal
from detectors.signature import KeyProblem, private_key, public_keys
from service.cli import app
from service.settings import Settings, SettingsProblem

PNG = {"Content-Type": "image/png"}


@pytest.fixture
def watched(settings: Settings, bundle: Path, tmp_path: Path) -> Settings:
    """A folder of its own, looked at all the time."""
    folder = tmp_path / "served"
    bundle_copy(bundle, folder)
    return settings.model_copy(update={"bundles": (folder,), "bundle_seconds": 0.05})


def bundle_copy(source: Path, to: Path) -> Path:
    """As an operator's copying: the manifest first, so that a torn copy is looked at."""
    to.mkdir(exist_ok=True)
    for path in sorted(source.iterdir(), key=lambda p: p.name != "manifest.json"):
        (to / path.name).write_bytes(path.read_bytes())
        time.sleep(0.01)
    return to


def changed(bundle: Path, to: Path, **fields: object) -> Path:
    """The same guard under another manifest."""
    bundle_copy(bundle, to)
    manifest = Bundle.open(to).manifest
    write_manifest(to, manifest.model_copy(update=fields or {"provenance": {"second": True}}))
    return to


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def served(client: TestClient) -> str:
    return client.get("/models").json()[0]["bundle"]


def refused(client: TestClient, reason: str) -> float:
    name = f'lazaret_bundle_refusals_total{{reason="{reason}"}} '
    (line,) = [row for row in client.get("/metrics").text.splitlines() if row.startswith(name)]
    return float(line.removeprefix(name))


def verdict(client: TestClient, gray: int) -> str:
    return client.post("/diagnose", content=flat(gray), headers=PNG).json()["verdict"]


def engines() -> int:
    return sum(thread.name == "engine" for thread in threading.enumerate())


def test_another_bundle_is_served_without_a_restart(
    watched: Settings, bundle: Path, tmp_path: Path
) -> None:
    new = changed(bundle, tmp_path / "new")
    before = engines()
    with serving(watched) as client:
        old = served(client)
        assert verdict(client, FLAGGED) == "flag"
        bundle_copy(new, watched.bundles[0])
        until(lambda: served(client) == Bundle.open(new).digest)
        assert verdict(client, ACCEPTED) == "accept"
        assert verdict(client, REJECTED) == "reject"
        page = client.get("/metrics").text
        assert f'bundle="{old}",model="tiny",version="1"}} 0.0' in page
        assert f'bundle="{served(client)}",model="tiny",version="1"}} 1.0' in page
        assert sum(refused(client, reason) for reason in Refusal) == 0  # a copy is no damage
        gc.collect()
        until(lambda: engines() == before + 1)  # the first one's engine has ended
    gc.collect()
    until(lambda: engines() == before)


def test_no_answer_is_lost_while_bundles_change(
    watched: Settings, bundle: Path, tmp_path: Path
) -> None:
    others = [changed(bundle, tmp_path / f"b{i}", provenance={"n": i}) for i in range(3)]
    with serving(watched) as client:
        codes: list[int] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                codes.append(
                    client.post("/diagnose", content=flat(ACCEPTED), headers=PNG).status_code
                )

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for other in others:
                bundle_copy(other, watched.bundles[0])
                digest = Bundle.open(other).digest
                until(lambda digest=digest: served(client) == digest)
        finally:
            stop.set()
            asking.join()
        assert len(codes) > 3
        assert set(codes) == {200}


def spoil_graph(folder: Path) -> None:
    (folder / GRAPH).write_bytes(b"changed")


def spoil_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


def lose_calibration(folder: Path) -> None:
    (folder / CALIBRATION).unlink()


def other_model(folder: Path) -> None:
    write_bundle(folder, name="another")


def wrong_canary(folder: Path) -> None:
    seal(folder, Bundle.open(folder).manifest, [Canary(Kind.CLEAN, flat(REJECTED))])


def no_onnx(folder: Path) -> None:
    manifest = Bundle.open(folder).manifest
    (folder / GRAPH).write_bytes(b"not a graph")
    from detectors.bundle import sha256

    files = {**manifest.files, GRAPH: sha256(b"not a graph")}
    write_manifest(folder, manifest.model_copy(update={"files": files}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_graph, "hash"),
        (spoil_manifest, "schema"),
        (lose_calibration, "unreadable"),
        (other_model, "schema"),
        (wrong_canary, "canary"),
        (no_onnx, "engine"),
    ],
)
def test_a_bad_bundle_is_refused_once_and_the_old_one_serves(
    spoil: Callable[[Path], None], reason: str, watched: Settings
) -> None:
    with serving(watched) as client:
        old = served(client)
        spoil(watched.bundles[0])
        until(lambda: refused(client, reason) == 1)
        time.sleep(0.3)  # several more looks
        assert refused(client, reason) == 1
        assert served(client) == old
        assert verdict(client, FLAGGED) == "flag"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Made as the documentation says."""
    folder = tmp_path_factory.mktemp("keys")
    secret, public = folder / "release.pem", folder / "release.pub"
    make = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(secret)]
    subprocess.run(make, check=True, capture_output=True)
    show = ["openssl", "pkey", "-in", str(secret), "-pubout", "-out", str(public)]
    subprocess.run(show, check=True, capture_output=True)
    return secret, public


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300"})
    return done.exit_code, done.output


def test_only_a_trusted_signature_opens_a_bundle(
    bundle: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    secret, public = keys
    folder = bundle_copy(bundle, tmp_path / "signed")
    status, said = run("bundle", "verify", folder, "--keys", public)
    assert status == 2
    assert "not signed" in said
    digest = Bundle.open(folder).digest
    assert run("bundle", "sign", folder, "--key", secret)[0] == 0
    assert Bundle.open(folder, public_keys(public)).digest == digest
    status, said = run("bundle", "verify", folder, "--keys", public)
    assert status == 0
    assert "signed" in said
    changed(folder, folder)  # the signature is of another manifest now
    with pytest.raises(BundleProblem) as problem:
        Bundle.open(folder, public_keys(public))
    assert problem.value.reason is Refusal.SIGNATURE
    (folder / "manifest.sig").write_text("!")
    with pytest.raises(BundleProblem, match="no signature"):
        Bundle.open(folder, public_keys(public))
    assert run("bundle", "sign", folder, "--key", public)[0] == 2


def test_what_is_no_key_is_a_sentence(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    secret, public = keys
    rsa = tmp_path / "rsa.pem"
    make = ["openssl", "genpkey", "-algorithm", "rsa", "-out", str(rsa)]
    subprocess.run(make, check=True, capture_output=True)
    for path in (rsa, public, tmp_path / "none"):
        with pytest.raises(KeyProblem, match=path.name):
            private_key(path)
    for path in (secret, tmp_path / "none"):
        with pytest.raises(KeyProblem, match=path.name):
            public_keys(path)


def test_a_service_that_trusts_keys_takes_nothing_unsigned(
    watched: Settings, bundle: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    secret, public = keys
    folder = watched.bundles[0]
    strict = watched.model_copy(update={"bundle_keys": public})
    with pytest.raises(BundleProblem, match="not signed"), serving(strict):
        pass
    with (
        pytest.raises(SettingsProblem, match="bundle_keys"),
        serving(strict.model_copy(update={"bundle_keys": secret})),
    ):
        pass
    assert run("bundle", "sign", folder, "--key", secret)[0] == 0
    with serving(strict) as client:
        old = served(client)
        changed(bundle, folder)
        until(lambda: refused(client, "signature") == 1)
        assert served(client) == old
        assert run("bundle", "sign", folder, "--key", secret)[0] == 0
        until(lambda: served(client) != old)
        assert verdict(client, ACCEPTED) == "accept"
