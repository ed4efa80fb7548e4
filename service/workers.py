"""Several worker processes on one port, and the parent that keeps them.

The parent imports everything, opens nothing and forks: workers share the pages of the code, and one
that dies is replaced in the time that a bundle takes to load. Each has its own engine, records and
listening socket (SO_REUSEPORT), so the kernel deals connections out and a death costs only what
that worker was answering.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import structlog

from service.cores import cores
from service.metrics import Metrics
from service.metrics import catalogue as c
from service.metrics.shared import forget_present_values, keep_values_as
from service.settings import Settings

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
KILL_SECONDS = 5.0
"""How much longer than ``drain_seconds`` a worker may take before it is killed."""
SETTLED_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 30.0
"""A worker that dies younger than the first is replaced after a pause that doubles up to the
second."""

Answer = Callable[[int, Callable[[], object]], int]
"""A worker's life: told its place, from 1, and what to call once it listens; the exit status."""


def for_one_worker(settings: Settings) -> Settings:
    """A worker's share: cores and bounds are divided, so that the service as a whole keeps them."""
    workers = settings.workers
    return settings.model_copy(
        update={
            "threads": settings.threads or max(1, cores() // workers),
            "decode_threads": max(1, -(-settings.decode_threads // workers)),
            "max_in_flight": max(1, settings.max_in_flight // workers),
            "max_held_bytes": max(1, settings.max_held_bytes // workers),
        }
    )


@dataclass(slots=True)
class _Worker:
    pid: int
    place: int
    """Which of the workers it is; one that replaces another takes its place."""
    since: float
    listens: int
    """Read end of a pipe that holds a byte once the worker listens."""
    pause: float
    """Seconds to wait before it is replaced, should it die now."""


class Workers:
    """Keeps ``settings.workers`` processes alive until SIGTERM or SIGINT.

    Args:
        answer: runs in each worker.
    """

    def __init__(self, settings: Settings, answer: Answer) -> None:
        self._count = settings.workers
        self._patience = settings.drain_seconds + KILL_SECONDS
        self._answer = answer
        self._alive: dict[int, _Worker] = {}
        self._due: list[tuple[float, float]] = []
        """When replacements are due, and the pauses after which they are."""
        self._parent_lives = os.pipe()
        self._metrics = Metrics()
        self._log = structlog.get_logger()

    def run(self) -> int:
        """The exit status: 0 when stopped, the first worker's own when it cannot start."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        # It alone brings the database up to date and says what is wrong with the settings.
        if (status := self._start_first()) is not None:
            return status
        for _ in range(self._count - 1):
            self._start()
        while True:
            told = signal.sigtimedwait(SIGNALS, self._until_due())
            if told is not None and told.si_signo != signal.SIGCHLD:
                return self._stop()
            self._bury()
            self._replace()

    def _start_first(self) -> int | None:
        worker = self._start()
        if os.read(worker.listens, 1):
            return None
        _, status = os.waitpid(worker.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _start(self, pause: float = 0.0) -> _Worker:
        listens, tell = os.pipe()
        taken = {worker.place for worker in self._alive.values()}
        place = min(set(range(1, self._count + 1)) - taken)
        pid = os.fork()
        if pid == 0:
            os.close(listens)
            keep_values_as(place)
            self._work(place, tell)
        os.close(tell)
        worker = _Worker(pid, place, time.monotonic(), listens, pause)
        self._alive[pid] = worker
        return worker

    def _work(self, place: int, tell: int) -> NoReturn:
        """A worker's life. It ends without the parent's clean-up."""
        status = 1
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.close(self._parent_lives[1])
            threading.Thread(target=self._follow, name="parent", daemon=True).start()
            status = self._answer(place, lambda: os.write(tell, b"1"))
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else 1
        except BaseException:  # whatever it is, this process must end here
            self._log.error("worker failed", exc_info=True)
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _follow(self) -> None:
        """Stop as if told to when the parent has died, kill -9 included."""
        os.read(self._parent_lives[0], 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _until_due(self) -> float:
        """Seconds until a replacement is due, an hour at most."""
        soonest = min((at for at, _ in self._due), default=math.inf)
        return min(3600.0, max(0.0, soonest - time.monotonic()))

    def _bury(self) -> None:
        """Plan the replacement of every worker that has died."""
        for pid in list(self._alive):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            worker = self._forget(pid)
            now = time.monotonic()
            young = now - worker.since < SETTLED_SECONDS
            pause = min(max(0.5, 2 * worker.pause), LONGEST_PAUSE_SECONDS) if young else 0.0
            self._due.append((now + pause, pause))
            self._metrics.count(c.WORKER_RESTARTS)
            self._log.error(
                "worker died", status=os.waitstatus_to_exitcode(status), replaced_in=pause
            )

    def _replace(self) -> None:
        now = time.monotonic()
        due = [pause for at, pause in self._due if at <= now]
        self._due = [entry for entry in self._due if entry[0] > now]
        for pause in due:
            self._start(pause)

    def _stop(self) -> int:
        """Let every worker answer what it took; kill one that takes too long."""
        self._log.info("stopping workers", workers=len(self._alive))
        for pid in self._alive:
            os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + self._patience
        while self._alive and (left := until - time.monotonic()) > 0:
            signal.sigtimedwait([signal.SIGCHLD], min(left, 1.0))
            for pid in list(self._alive):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self._forget(pid)
        for pid in self._alive:
            self._log.error("worker killed", waited=self._patience)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return 0

    def _forget(self, pid: int) -> _Worker:
        worker = self._alive.pop(pid)
        os.close(worker.listens)
        forget_present_values(worker.place)
        return worker
