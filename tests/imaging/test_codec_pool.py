"""A decoder that crashes, hangs or eats memory is one refused image and a new process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.imaging import codec_child, codec_pool
from models.imaging.codec_pool import CodecFailed, CodecPool, Frame

CHILD = """
import os, sys, time
sys.path.insert(0, {folder!r})
import codec_child
def crash(data): os.kill(os.getpid(), 11)
def hang(data): time.sleep(3600)
def spin(data):
    while True: pass
def eat(data): return b"x" * (4 * 2**30)
def chatter(data):
    print("noise"); os.write(1, b"noise"); return codec_child.np.frombuffer(data, "u1")
def short(data): return codec_child.np.zeros(3, "u1")
codec_child._codecs = lambda: dict(crash=crash, hang=hang, spin=spin, eat=eat, chatter=chatter,
                                   short=short)
codec_child.main()
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A pool of one, whose codecs misbehave."""
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(folder=str(Path(codec_child.__file__).parent)))
    monkeypatch.setattr(codec_pool, "_CHILD", script)
    monkeypatch.setattr(codec_pool, "_WALL_TO_CPU", 1.5)
    pool = CodecPool(1, seconds=1.0)
    yield pool
    pool.close()


def frame(codec: str, data: bytes = bytes(range(6))) -> Frame:
    return Frame(codec, data, 2, 3, 1, 1)


@pytest.mark.parametrize(
    ("codec", "cause", "died"),
    [
        ("crash", "signal", True), ("hang", "timeout", True), ("spin", "timeout", True),
        ("eat", "memory", False), ("short", "damaged", False), ("unknown", "signal", True),
    ],
)  # fmt: skip
def test_whatever_a_codec_does_the_next_frame_is_decoded(
    pool: CodecPool, codec: str, cause: str, died: bool
) -> None:
    deaths: list[str] = []
    pool.on_death = deaths.append
    with pytest.raises(CodecFailed) as caught:
        pool.decode(frame(codec))
    assert caught.value.cause == cause
    assert deaths == ([cause] if died else [])
    assert pool.decode(frame("chatter")).ravel().tolist() == list(range(6))


def test_a_library_that_prints_does_not_spoil_the_answer(pool: CodecPool) -> None:
    for _ in range(3):
        assert pool.decode(frame("chatter")).ravel().tolist() == list(range(6))


def test_an_answer_that_was_not_read_is_never_another_frames(
    pool: CodecPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.decode(frame("chatter"))

    def no_memory(self: Any, size: int, deadline: float) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(codec_pool._Child, "_receive", no_memory)
        with pytest.raises(MemoryError):
            pool.decode(frame("chatter", b"secret"))
    assert pool.decode(frame("chatter")).ravel().tolist() == list(range(6))


def test_frames_wait_for_a_process_and_none_is_lost(pool: CodecPool) -> None:
    found: list[int] = []

    def one(value: int) -> None:
        found.append(int(pool.decode(frame("chatter", bytes([value] * 6)))[0, 0, 0]))

    threads = [threading.Thread(target=one, args=(value,)) for value in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(20))


def test_megabytes_cross_both_ways() -> None:
    pool = CodecPool(1)
    try:
        imagecodecs = pytest.importorskip("imagecodecs", reason="pip install 'lazaret[dicom]'")
        pixels = np.random.default_rng(0).integers(0, 32768, (1500, 1500)).astype(np.uint16)
        stream = bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True))
        assert len(stream) > 2**21
        decoded = pool.decode(Frame("jpeg2k", stream, 1500, 1500, 1, 2))
        assert np.array_equal(decoded[..., 0], pixels)
    finally:
        pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_children_get_no_secret_and_end_with_their_parent() -> None:
    script = (
        "import os, sys, subprocess; from models.imaging import codec_pool;"
        "codec_pool.shared().warm(); from pathlib import Path;"
        "pids = [p.parent.name for p in Path('/proc').glob('[0-9]*/stat') "
        "if p.read_text().rpartition(')')[2].split()[1] == str(os.getpid())];"
        "said = Path(f'/proc/{pids[0]}/environ').read_bytes();"
        "print(pids[0], said.count(b'SECRET'), flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"LAZARET_API_KEYS": "SECRET"}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == -signal.SIGKILL
    child, secrets = run.stdout.split()
    assert secrets == "0"
    for _ in range(100):
        if not Path(f"/proc/{child}").exists():
            break
        threading.Event().wait(0.05)
    else:
        pytest.fail("a decoder outlived its parent")
