"""Every hostile file gets a typed refusal, soon, in little memory, and the process goes on."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import hostile_dicom
import pytest
from dicom_files import GRAY

from models.imaging import ImageProblem, codec_pool, encode
from models.imaging.decode import decode

pytest.importorskip("imagecodecs", reason="pip install 'lazaret[dicom]'")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc")

SECONDS = 2.0
MEBIBYTES = 300


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    codec_pool.shared().warm()
    decode(hostile_dicom.jpeg_2000(hostile_dicom.small("jpeg2k"), 24, 32))


def family() -> list[int]:
    """This process and the decoders that it started."""
    found = [os.getpid()]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(stat.parent.name))
    return found


def memory(field: str) -> dict[int, int]:
    """KiB of each process."""
    found = {}
    for process in family():
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            continue
        lines = [line.split()[1] for line in status.splitlines() if line.startswith(field)]
        found[process] = int(lines[0]) if lines else 0
    return found


def forget_peaks() -> None:
    for process in family():
        try:
            Path(f"/proc/{process}/clear_refs").write_text("5")
        except OSError:
            continue


@pytest.mark.parametrize("name", hostile_dicom.FILES)
def test_a_hostile_file_is_refused_soon_and_in_little_memory(name: str) -> None:
    data = hostile_dicom.FILES[name]()
    forget_peaks()
    before = memory("VmRSS")
    seconds = SECONDS
    for _ in range(2):  # a busy machine may stretch one of them
        started = time.perf_counter()
        with pytest.raises(ImageProblem) as caught:
            decode(data, "application/dicom", frame=0)
        seconds = min(seconds, time.perf_counter() - started)
    grown = sum(peak - before.get(process, 0) for process, peak in memory("VmHWM").items()) // 1024
    assert seconds < SECONDS
    assert grown < MEBIBYTES
    assert caught.value.__cause__ is None
    assert caught.value.detail.endswith(".")
    assert decode(encode.dicom(GRAY)).pixels.shape == GRAY.shape


@pytest.mark.parametrize("name", hostile_dicom.FILES)
def test_no_frame_of_a_hostile_file_is_a_picture(name: str) -> None:
    if "2048" in name or "12000" in name or "6000" in name:
        pytest.skip("too large to try twice")
    with pytest.raises(ImageProblem):
        decode(hostile_dicom.FILES[name](), "application/dicom")
