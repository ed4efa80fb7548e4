"""Does what the image does, without a container engine: ``python -m deploy.rehearse``.

Builds the wheel, installs it into a fresh environment, and starts the Dockerfile's own command with
its own environment variables: as its user, without capabilities, on a root file system that is
read-only but for the data folder. Then its health check must succeed, an image must be diagnosed,
and SIGTERM must end it cleanly. Users and mounts need root; without, it runs as whoever asks.

``--dependencies-of-this-python`` takes the libraries that are installed already, which is quick;
without it they come from the package index, as in the image's build.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from deploy.dockerfile import Stage, stages
from deploy.make_secrets import make

ROOT = Path(__file__).parents[1]
READY_SECONDS = 60.0
STOP_SECONDS = 40.0
CLEAN = ROOT / "models" / "zoo" / "phantom" / "demo" / "clean-1.png"
SEALED = (
    'mount --bind "$1" "$1" && mount -o remount,ro,bind / && shift && '
    'if touch /etc/is-it-read-only 2>/dev/null; then echo "the root can be written" >&2; exit 9; '
    'fi && exec "$@"'
)
"""In a mount namespace of its own: only ``$1`` stays writable."""


def main() -> None:
    """Rehearse, or exit with a sentence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dependencies-of-this-python", action="store_true")
    quick = parser.parse_args().dependencies_of_this_python
    folder = Path(tempfile.mkdtemp(prefix="lazaret-image-"))
    folder.chmod(0o755)
    try:
        started = time.monotonic()
        python = install(folder, quick)
        _say(f"installed in {time.monotonic() - started:.1f} s, {_size(folder / 'opt'):.0f} MB")
        rehearse(folder, python, stages()["cpu"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def install(folder: Path, quick: bool) -> Path:
    """The stages ``wheel`` and ``installed-cpu``. Returns the environment's ``bin``."""
    source = folder / "src"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("attacks", "detectors", "models", "service"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    isolation = ["--no-build-isolation"] if quick else []
    _run(*pip, "wheel", "-q", "--no-deps", *isolation, "-w", folder / "wheels", source)
    (wheel,) = (folder / "wheels").glob("lazaret-*.whl")
    shutil.rmtree(source)
    environment = folder / "opt"
    without = ["--without-pip"] if quick else []
    _run(public_python(), "-m", "venv", *without, environment)
    bin_ = environment / "bin"
    if quick:
        (site,) = (environment / "lib").glob("python*/site-packages")
        _run(*pip, "--python", bin_ / "python", "install", "-q", "--no-deps", "--no-index", wheel)
        parents = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (site / "dependencies.pth").write_text("\n".join(parents))
    else:
        extras = dict(
            rest.split("=", 1)
            for word, rest in stages()["installed-cpu"].instructions
            if word == "ARG"
        )["EXTRAS"]
        constraints = ["-c", ROOT / "constraints.txt"]
        _run(bin_ / "pip", "install", "-q", *constraints, f"{wheel}[{extras}]")
    return bin_


def public_python() -> str:
    """A Python of this version that another user can reach; ours may lie in somebody's home."""
    for candidate in (getattr(sys, "_base_executable", sys.executable), "/usr/bin/python3"):
        path = Path(candidate).resolve()
        version = ".".join(map(str, sys.version_info[:2]))
        open_to_all = all(parent.stat().st_mode & 0o001 for parent in path.parents)
        if open_to_all and path.name in (f"python{version}", "python3", "python"):
            return str(path)
    sys.exit(f"no Python {version} that other users can run; install Debian's python3")


def rehearse(folder: Path, bin_: Path, image: Stage) -> None:
    """Start it as the image would be started, and use it."""
    data, bundle = folder / "data", folder / "phantom"
    data.mkdir()
    shutil.copytree(ROOT / "models" / "zoo" / "phantom" / "bundle", bundle)
    make(folder / "secrets")
    (folder / "secrets").chmod(0o755)  # Compose mounts the files one by one
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {"/opt/lazaret/bin": str(bin_), "/srv/bundles/phantom": str(bundle)}
    environment = {}
    for name, value in image.environment.items():
        for there, here in places.items():
            value = value.replace(there, here)
        environment[name] = value.replace("$PATH", os.environ["PATH"])
    environment["LAZARET_PORT"] = str(port)
    environment["LAZARET_API_KEYS_FILE"] = str(folder / "secrets" / "api_keys")
    user = image.user.split(":")
    as_user: list[str] = []
    sealed: list[str] = []
    if os.geteuid() == 0:
        os.chown(data, int(user[0]), int(user[1]))
        as_user = ["setpriv", "--reuid", user[0], "--regid", user[1], "--clear-groups",
                   "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]  # fmt: skip
        sealed = ["unshare", "--mount", "--", "sh", "-c", SEALED, "sh", str(data)]
    log = (folder / "log").open("w+b")
    served = subprocess.Popen(
        [*sealed, *as_user, *image.entrypoint, *image.command],
        cwd=data, env=environment, stderr=log,
    )  # fmt: skip
    try:
        started = time.monotonic()
        check = [*as_user, *image.health]
        while subprocess.run(check, env=environment, cwd="/", stderr=log).returncode != 0:
            if served.poll() is not None or time.monotonic() - started > READY_SECONDS:
                log.seek(0)
                sys.exit(f"it did not become healthy:\n{log.read().decode()[-3000:]}")
            time.sleep(0.5)
        _say(f"healthy {time.monotonic() - started:.1f} s after its start")
        _diagnose(port, (folder / "secrets" / "api_key").read_text())
        served.send_signal(signal.SIGTERM)
        status = served.wait(STOP_SECONDS)
        if status != 0:
            sys.exit(f"SIGTERM ended it with status {status}")
        kept = sorted(path.name for path in data.iterdir())
        _say(f"stopped with status 0; the data folder holds {', '.join(kept)}")
    finally:
        served.kill()
        served.wait()
        log.close()


def _diagnose(port: int, key: str) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        if client.post("/diagnose", content=CLEAN.read_bytes()).status_code != 401:
            sys.exit("it answered a stranger")
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
        answer = client.post("/diagnose", content=CLEAN.read_bytes(), headers=headers)
        if answer.status_code != 200:
            sys.exit(f"it answered {answer.status_code}: {answer.text}")
        _say(f"diagnosed {CLEAN.name}: {answer.json()['verdict']}")


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True)


def _size(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*")) / 2**20


def _say(sentence: str) -> None:
    print(sentence, flush=True)


if __name__ == "__main__":
    main()
