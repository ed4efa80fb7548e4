"""Warm processes that decode compressed frames, each of which may be killed.

A codec is a large program in C that reads an attacker's bytes. Here it can crash, hang or ask for
all memory, and the worst that happens is one refused image. See ``models.imaging.codec_child``.
"""

from __future__ import annotations

import atexit
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import LifoQueue
from time import monotonic
from typing import Final

import numpy as np
import numpy.typing as npt

from models.imaging.codec_child import FAILED, NO_MEMORY, OK, READY, REQUEST

_CHILD: Final = Path(__file__).with_name("codec_child.py")
_START_SECONDS: Final = 30.0
_WALL_TO_CPU: Final = 3.0
"""A busy machine may take so much longer than the CPU seconds that a request is allowed."""
_BASE_MEMORY: Final = 64 * 2**20
_BYTES_A_SAMPLE: Final = 16
"""Most that a codec takes for each sample: OpenJPEG, two copies of 32 bits and the output twice."""
_KEPT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG")
"""What a child gets of the environment: nothing that could be a secret."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One codestream and what its samples must be."""

    codec: str
    data: bytes
    rows: int
    columns: int
    samples: int
    bytes_each: int


class CodecFailed(Exception):
    """The codestream could not be decoded. ``cause`` is one of ``damaged``, ``memory``,
    ``timeout`` and ``signal``; with the last two a process died."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class CodecPool:
    """At most ``size`` processes, started when they are first needed and again when one died.

    Args:
        seconds: of CPU that a frame may take; on the clock three times as many.
    """

    def __init__(self, size: int, seconds: float = 10.0) -> None:
        self.on_death: Callable[[str], None] = lambda _: None
        """Told the cause of each death: ``timeout`` or ``signal``."""
        self._seconds = seconds
        self._slots: LifoQueue[_Child | None] = LifoQueue()
        for _ in range(size):
            self._slots.put(None)

    def warm(self) -> None:
        """Start a process, so that the first frame does not wait for it."""
        child = self._slots.get()
        self._slots.put(child or _Child())

    def decode(self, frame: Frame) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
        """``[rows, columns, samples]`` of 8 or 16 bits, signed ones as their bits.

        Blocks while every process is busy. Raises ``CodecFailed``.
        """
        child = self._slots.get()
        try:
            child = child or _Child()
            return child.decode(frame, self._seconds)
        except CodecFailed:
            raise  # it answered, and may be asked again
        except BaseException as error:  # interrupts too: the child is in mid-answer
            # what has not been read to its end would be taken for the next frame's answer
            if child is not None:
                child.close()
                child = None
            if not isinstance(error, _Died):
                raise
            self.on_death(error.cause)
            child = _Child()  # warm again before the next frame comes
            raise CodecFailed(error.cause) from None
        finally:
            self._slots.put(child)

    def close(self) -> None:
        """End every idle process."""
        for _ in range(self._slots.qsize()):
            child = self._slots.get()
            if child is not None:
                child.close()
            self._slots.put(None)


class _Died(Exception):
    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class _Child:
    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        self._process = subprocess.Popen(  # noqa: S603  this file's neighbour
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # threads of a numeric library take address space and are of no use here
            env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        _widen(self._to)
        _widen(self._from)
        self._ready = False

    def decode(
        self, frame: Frame, seconds: float
    ) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
        if not self._ready:
            if bytes(self._receive(1, monotonic() + _START_SECONDS)) != READY:
                raise _Died("signal")
            self._ready = True
        deadline = monotonic() + seconds * _WALL_TO_CPU
        count = frame.rows * frame.columns * frame.samples
        head = REQUEST.pack(
            frame.codec.encode(), frame.rows, frame.columns, frame.samples, frame.bytes_each,
            max(1, round(seconds)), _BASE_MEMORY + _BYTES_A_SAMPLE * count, len(frame.data),
        )  # fmt: skip
        self._send(head, deadline)
        self._send(frame.data, deadline)
        status = bytes(self._receive(1, deadline))
        if status == OK:
            found = self._receive(count * frame.bytes_each, deadline)
            shape = frame.rows, frame.columns, frame.samples
            if frame.bytes_each == 1:
                return found.reshape(shape)
            return found.view(np.uint16).reshape(shape)
        if status in (FAILED, NO_MEMORY):
            raise CodecFailed("damaged" if status == FAILED else "memory")
        raise _Died("signal")

    def close(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()

    def _send(self, data: bytes, deadline: float) -> None:
        left = memoryview(data)
        while left:
            self._wait(self._to, select.POLLOUT, deadline)
            try:
                left = left[os.write(self._to, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._death() from None

    def _receive(self, size: int, deadline: float) -> npt.NDArray[np.uint8]:
        found = np.empty(size, np.uint8)
        left = found.data
        while left:
            self._wait(self._from, select.POLLIN, deadline)
            read = os.readv(self._from, [left])
            if read == 0:
                raise self._death()
            left = left[read:]
        return found

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(0.0, deadline - monotonic()) * 1000):
            raise _Died("timeout")

    def _death(self) -> _Died:
        """Its output ended: why."""
        status = self._process.wait()
        return _Died("timeout" if -status == _SIGXCPU else "signal")


_SIGXCPU: Final = 24  # signal(7); the signal module lacks it on some systems
_PIPE_BYTES: Final = 2**20
_F_SETPIPE_SZ: Final = 1031  # fcntl(2), Linux


def _widen(pipe: int) -> None:
    """A pipe of 64 KiB makes both sides wait for each other sixteen times a megabyte."""
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:  # the user's pipes have had their share
            return


_shared: CodecPool | None = None
_lock = threading.Lock()


def shared() -> CodecPool:
    """The process's pool: one child per core."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = CodecPool(os.cpu_count() or 1)
            atexit.register(_shared.close)
        return _shared


def _forget() -> None:
    """A forked process must not talk to its parent's children, nor end them."""
    global _shared, _lock
    if _shared is not None:
        atexit.unregister(_shared.close)
    _shared, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
