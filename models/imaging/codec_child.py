"""The process that decodes hostile codestreams: one after the other, until its input ends.

Run as a script by ``models.imaging.codec_pool``, with nothing of the project imported. A request
is a fixed header and the codestream, an answer a status byte and the samples: bytes both ways.
The process may write no file, dumps no core, and has bounds on memory and CPU for each request.
"""

from __future__ import annotations

import io
import os
import resource
import struct
from collections.abc import Callable
from typing import IO, Any

import numpy as np

REQUEST = struct.Struct("<8s5I2Q")
"""Codec; rows, columns, samples, bytes a sample; CPU seconds and bytes of memory that the request
may take; length of the codestream that follows."""
OK, FAILED, NO_MEMORY = b"\0", b"\1", b"\2"
READY = b"+"


def main() -> None:
    """Answer until the input ends."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # a library that prints must not reach the answers
        os.dup2(nowhere, stream)
    codecs = _codecs()
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    answers.write(READY)
    answers.flush()
    while head := questions.read(REQUEST.size):
        _answer(head, questions, answers, codecs)


def _answer(
    head: bytes, questions: IO[bytes], answers: IO[bytes], codecs: dict[str, Callable[[bytes], Any]]
) -> None:
    name, rows, columns, samples, bytes_each, seconds, memory, length = REQUEST.unpack(head)
    codec = codecs[name.rstrip(b"\0").decode()]
    data = questions.read(length)
    _limit(memory, seconds)
    try:
        found = np.asarray(codec(data))
        if found.ndim == 3 and found.shape[0] == samples != found.shape[2]:
            found = found.transpose(1, 2, 0)
        found = found.reshape(rows, columns, samples)
        if found.dtype.itemsize > bytes_each:
            found = found.astype(f"i{bytes_each}")
        elif found.dtype.itemsize < bytes_each:
            found = found.astype(f"<u{bytes_each}")
        sent = np.ascontiguousarray(found).data.cast("B")
    except MemoryError:
        answers.write(NO_MEMORY)
    except Exception:  # whatever a library makes of hostile bytes
        answers.write(FAILED)
    else:
        answers.write(OK)
        answers.write(sent)
    answers.flush()


def _limit(memory: int, seconds: int) -> None:
    """For the next request: ``memory`` bytes and ``seconds`` of CPU more than were used."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  # once a request; pathlib is slow
        used = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, hard))
    spent = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(spent.ru_utime + spent.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _codecs() -> dict[str, Callable[[bytes], Any]]:
    """By name, those that are installed; imported here, before there are limits."""
    from PIL import Image as Pillow
    from PIL import JpegImagePlugin

    Pillow.MAX_IMAGE_PIXELS = None  # the size was compared with the header's by now

    def jpeg8(data: bytes) -> Any:
        with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as file:
            return np.asarray(file)

    found: dict[str, Callable[[bytes], Any]] = {"jpeg8": jpeg8}
    try:
        import imagecodecs
    except ImportError:
        return found
    jpeg, jpegls = imagecodecs.jpeg8_decode, imagecodecs.jpegls_decode
    jpeg2k = imagecodecs.jpeg2k_decode
    found["jpeg"], found["jpegls"] = jpeg, jpegls
    found["jpeg2k"] = lambda data: jpeg2k(data, numthreads=1)
    return found


if __name__ == "__main__":
    main()
