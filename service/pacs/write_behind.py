"""Flushing many files together, behind the answers to them.

With it an instance is acknowledged once the operating system has it, which outlives the process,
and is on the disk milliseconds later; the end of its association is answered only when all of its
instances are on the disk. Without it every instance waits for a flush of its own.
"""

from __future__ import annotations

import os
import threading
from collections import deque

from service.pacs.spool import Spool
from service.pacs.spool_entry import SpoolProblem

MOST_BEHIND = 32
"""Files that may be unflushed; the next one waits."""


class Together:
    """Files of one request, flushed together before it is answered."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._files: list[int] = []

    def hand(self, file: int) -> None:
        """Take over an open, renamed file."""
        self._files.append(file)
        if len(self._files) >= MOST_BEHIND:
            self.flush()

    def flush(self) -> None:
        """Return once all of them are on the disk. Raises ``SpoolProblem``."""
        files, self._files = self._files, []
        try:
            for file in files:
                os.fsync(file)
            if files:
                self._spool.sync_folder()
        except OSError:
            raise SpoolProblem("the disk of the spool does not take what it is given") from None
        finally:
            for file in files:
                os.close(file)


class WriteBehind:
    """One thread that flushes what it is handed, as fast as the disk takes it."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._files: deque[int] = deque()
        self._changed = threading.Condition()
        self._handed = 0
        self._flushed = 0
        self._failed = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        self._thread.start()

    def hand(self, file: int) -> None:
        """Take over an open, renamed file. Raises ``SpoolProblem`` once a flush has failed."""
        with self._changed:
            while self._handed - self._flushed >= MOST_BEHIND and not self._failed:
                self._changed.wait()
            if self._failed:
                os.close(file)
                raise SpoolProblem("the disk of the spool does not take what it is given")
            self._files.append(file)
            self._handed += 1
            self._changed.notify_all()

    def flush(self) -> None:
        """Return once all that was handed over is on the disk. Raises ``SpoolProblem``."""
        with self._changed:
            until = self._handed
            while self._flushed < until and not self._failed:
                self._changed.wait()
            if self._failed:
                raise SpoolProblem("the disk of the spool does not take what it is given")

    def close(self) -> None:
        """Flush and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._files and not self._closed:
                    self._changed.wait()
                files = list(self._files)
                self._files.clear()
            if not files:
                return
            try:
                for file in files:
                    os.fsync(file)
                self._spool.sync_folder()
                failed = False
            except OSError:
                failed = True
            for file in files:
                os.close(file)
            with self._changed:
                self._flushed += len(files)
                # A failed flush may have dropped the pages: what is not on the disk is not known.
                self._failed |= failed
                self._changed.notify_all()
