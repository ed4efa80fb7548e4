"""Received instances on disk, from their receipt until a verdict on them is on record.

One file an instance, ``files/KEY.dcm``: a DICOM file whose data set is byte for byte what was
received. KEY is made of the hashes of the SOP Instance UID and of the data set, so the same
instance sent again lands on itself, and no name from outside becomes a path.

A file is written under another name, renamed, then flushed together with its folder. Killing the
process at any point leaves whole files only. Cutting the power may leave a renamed file without
its bytes; it was not acknowledged, and the next start finds it by its hash and removes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import structlog

from service.pacs.part10 import head, take_apart
from service.pacs.pixel_digest import pixel_digest, same_encoding
from service.pacs.received import Received
from service.pacs.spool_entry import (
    Added,
    Entry,
    Held,
    Reuse,
    SpoolFull,
    SpoolProblem,
    key_of,
    whole,
)
from service.pacs.spool_index import Index, Row, State

PAGE = 256
"""Entries read from the index at a time."""
STALE_SECONDS = 600.0
"""An unfinished file this old belongs to a process that is gone."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Spool:
    """The folder. Use one object from many threads; other processes may have their own on the
    same folder, and see each other's entries.

    Args:
        folder: made if missing; readable by its owner alone.
        reserve_bytes: refuse before less than this is free on the disk.
        alarm: told of every entry whose UID has named other pixels before.

    Raises:
        SpoolProblem: the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        reserve_bytes: int = 2**30,
        alarm: Callable[[Entry], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._files = folder / "files"
        self._incoming = folder / "incoming"
        self._reserve = reserve_bytes
        self._alarm = alarm
        self._arrived = threading.Condition()
        self._unsynced = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._files.mkdir(mode=0o700, exist_ok=True)
            self._incoming.mkdir(mode=0o700, exist_ok=True)
            self._files_fd = os.open(self._files, os.O_RDONLY | os.O_DIRECTORY)
            self._index = Index(folder / "index.sqlite3")
            self._last = self._index.latest()
            self._reconcile()
        except (OSError, sqlite3.Error) as error:
            raise SpoolProblem(f"{folder} cannot hold received instances: {error}") from None

    def close(self) -> None:
        """Flush and close; waiting entries stay."""
        self._index.close()
        os.close(self._files_fd)

    # Coming in

    def add(
        self,
        dataset: bytes | memoryview,
        received: Received,
        *,
        aside: str | None = None,
        sync: Callable[[int], None] | None = None,
    ) -> Added:
        """Keep one instance; durable when this returns.

        Args:
            dataset: encoded in ``received.transfer_syntax``, without file meta information.
            aside: set it aside at once, for this reason.
            sync: given the open file instead of flushing it; who gives it acknowledges nothing
                before the file and ``sync_folder`` are flushed.

        Raises:
            SpoolFull: nothing was kept; the sender should try again later.
            SpoolProblem: nothing was kept.
        """
        meta = head(received)
        key = key_of(received.uid_digest, dataset)
        size = len(meta) + len(dataset)
        try:
            known = self._known(key, received)
            if known is not None:
                self._flush_again(known, sync)
                return Added(known, new=False)
            if self.free_bytes() < size:
                raise SpoolFull("the disk of the spool is nearly full")
            path = self._write(key, meta, dataset, sync)
            return self._note(key, received, size, path, aside)
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise SpoolFull("the disk of the spool is full") from None
            raise SpoolProblem(f"an instance could not be kept: {type(error).__name__}") from None

    def sync_folder(self) -> None:
        """Make the names of files that were added with ``sync`` durable."""
        os.fsync(self._files_fd)

    def free_bytes(self) -> int:
        """What may still be taken in."""
        return shutil.disk_usage(self._files).free - self._reserve

    # Going out

    def waiting(self, after: int = 0) -> Iterator[Entry]:
        """What waits, in order of arrival, also what came before a restart; ends when there is no
        more. ``after`` continues behind an entry's ``sequence``."""
        return self._all(State.WAITING, after)

    def set_aside_entries(self) -> Iterator[Entry]:
        """What was set aside, in order of arrival."""
        return self._all(State.ASIDE, 0)

    def seen(self, sop_instance: str) -> bool:
        """Whether any instance of this UID is in the spool or was."""
        return self._index.seen(hashlib.sha256(sop_instance.encode()).hexdigest())

    def holds(self, key: str) -> bool:
        """Whether this instance is here, waiting or set aside."""
        row = self._index.find(key)
        return row is not None and row.state is not State.DONE

    def wait(self, after: int, seconds: float) -> bool:
        """Whether something waits behind ``after``; wait for it at most this long."""
        until = time.monotonic() + seconds
        with self._arrived:
            while True:
                if self._index.page(State.WAITING, after, 1):
                    return True
                left = until - time.monotonic()
                if left <= 0:
                    return False
                # Another process that adds cannot wake us.
                self._arrived.wait(min(left, 1.0))

    def done(self, *entries: Entry) -> None:
        """Their verdicts are on record: durably remember the UIDs, then remove the files."""
        try:
            self._index.end([(entry.key, self._pixels(entry.path)) for entry in entries])
            for entry in entries:
                entry.path.unlink(missing_ok=True)
        except (OSError, sqlite3.Error) as error:
            raise SpoolProblem(f"the spool cannot be written: {type(error).__name__}") from None

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Keep what cannot be judged out of the way. ``reason`` is a short fixed word."""
        self._move(entry, State.ASIDE, reason)

    def restore(self, entry: Entry) -> None:
        """Let what was set aside wait again."""
        self._move(entry, State.WAITING, None)
        with self._arrived:
            self._arrived.notify_all()

    def held(self) -> Held:
        """How much there is."""
        counts = self._index.counts()
        waiting, aside = counts.get(State.WAITING, (0, 0)), counts.get(State.ASIDE, (0, 0))
        return Held(waiting[0], aside[0], waiting[1] + aside[1], self.free_bytes())

    def oldest_seconds(self) -> float:
        """Age of what has waited longest; 0 when nothing waits."""
        first = self._index.page(State.WAITING, 0, 1)
        return max(0.0, time.time() - first[0].sequence / 1e9) if first else 0.0

    def forget(self, days: float) -> int:
        """Forget UIDs that were done this long ago; how many."""
        return self._index.forget(time.time() - days * 86400)

    def _known(self, key: str, received: Received) -> Entry | None:
        row = self._index.find(key)
        if row is None:
            return None
        entry = self._entry(row, received)
        if row.state is State.DONE or entry.path.is_file():
            return entry
        self._index.drop(key)  # somebody removed its file: take it as new
        return None

    def _flush_again(self, entry: Entry, sync: Callable[[int], None] | None) -> None:
        """Whoever brought it first may not have flushed it yet."""
        with suppress(FileNotFoundError):  # it is done with
            file = os.open(entry.path, os.O_RDONLY)
            if sync is not None:
                sync(file)
                return
            os.fsync(file)
            os.close(file)
            self.sync_folder()

    def _move(self, entry: Entry, state: State, reason: str | None) -> None:
        try:
            self._index.move(entry.key, state, reason)
        except sqlite3.Error as error:
            raise SpoolProblem(f"the spool cannot be written: {type(error).__name__}") from None

    def _all(self, state: State, after: int) -> Iterator[Entry]:
        while rows := self._index.page(state, after, PAGE):
            for row in rows:
                yield self._entry(row, Received.from_json(row.received))
            after = rows[-1].sequence

    def _entry(self, row: Row, received: Received) -> Entry:
        return Entry(
            key=row.key,
            sequence=row.sequence,
            received=received,
            size=row.size,
            reuse=None if row.reuse is None else Reuse(row.reuse),
            reason=row.reason,
            path=self._files / f"{row.key}.dcm",
        )

    def _write(
        self,
        key: str,
        meta: bytes,
        dataset: bytes | memoryview,
        sync: Callable[[int], None] | None,
    ) -> Path:
        path, unfinished = self._files / f"{key}.dcm", self._incoming / uuid4().hex
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _write_all(file, meta, dataset)
            os.rename(unfinished, path)  # noqa: PTH104  # the hot path
            if sync is None:
                os.fsync(file)
                self.sync_folder()
            else:
                sync(file)
        except BaseException:  # whatever stops it, nothing half written stays
            unfinished.unlink(missing_ok=True)
            raise
        finally:
            if sync is None:
                os.close(file)
        return path

    def _note(
        self, key: str, received: Received, size: int, path: Path, aside: str | None
    ) -> Added:
        with self._index.writing():
            earlier = self._index.seen_inside(received.uid_digest)
            for row in earlier:
                if row.key == key:  # it came on two associations at once
                    return Added(self._entry(row, received), new=False)
            reuse = self._compare(earlier, received, path) if earlier else None
            self._last = max(self._last + 1, time.time_ns())
            row = Row(
                key=key,
                uid=received.uid_digest,
                syntax=received.transfer_syntax,
                pixels="",
                state=State.WAITING if aside is None else State.ASIDE,
                sequence=self._last,
                size=size,
                received=received.to_json(),
                reuse=reuse,
                reason=aside,
            )
            self._index.insert(row)
        entry = self._entry(row, received)
        with self._arrived:
            self._arrived.notify_all()
        if entry.alarming:
            self._alarm(entry)
        return Added(entry, new=True)

    def _compare(self, earlier: list[Row], received: Received, path: Path) -> Reuse:
        pixels = self._pixels(path)
        same_encodings = False
        for row in earlier:
            if (row.pixels or self._pixels(self._files / f"{row.key}.dcm")) == pixels:
                return Reuse.SAME_PIXELS
            same_encodings |= same_encoding(row.syntax, received.transfer_syntax)
        return Reuse.OTHER_PIXELS if same_encodings else Reuse.OTHER_ENCODING

    @staticmethod
    def _pixels(path: Path) -> str:
        try:
            return pixel_digest(path.read_bytes())
        except FileNotFoundError:
            return ""

    # Starting

    def _reconcile(self) -> None:
        """Bring files and index together after whatever ended the last run."""
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.is_file() else uuid4().hex
        rebooted = self._index.fact("boot") != boot
        indexed = [entry for state in (State.WAITING, State.ASIDE) for entry in self._all(state, 0)]
        present = {path.stem for path in self._files.glob("*.dcm")}
        for entry in indexed:
            # After a power cut, what was not flushed may be anything; else files are whole.
            if entry.key not in present or (rebooted and not self._check(entry.path)):
                self._lost(entry.key)
            present.discard(entry.key)
        for key in sorted(present, key=lambda key: (self._files / f"{key}.dcm").stat().st_mtime_ns):
            self._adopt(key)
        self._index.remember("boot", boot)

    def _lost(self, key: str) -> None:
        row = self._index.find(key)
        if row is not None and row.state is not State.DONE:
            structlog.get_logger().error("spooled file lost", state=row.state)
            self._index.drop(key)

    def _adopt(self, key: str) -> None:
        """Index a file that was written just before the process ended, or finish removing one."""
        path = self._files / f"{key}.dcm"
        row = self._index.find(key)
        if row is not None and row.state is not State.DONE:  # another process has just added it
            return
        if row is not None or not self._check(path):
            path.unlink(missing_ok=True)
            return
        data = path.read_bytes()
        received = Received.from_json(take_apart(data).private)
        self._note(key, received, len(data), path, None)

    def _check(self, path: Path) -> bool:
        """Whether the file is whole; what is not, is removed."""
        try:
            if whole(path.stem, path.read_bytes()):
                return True
        except OSError:
            return False
        path.unlink(missing_ok=True)
        return False


def _write_all(file: int, *pieces: bytes | memoryview) -> None:
    left = [memoryview(piece) for piece in pieces]
    while left:
        written = os.writev(file, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]
