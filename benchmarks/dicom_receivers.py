"""One receiver in a process of its own, until it is killed.

    python benchmarks/dicom_receivers.py lazaret PORT FOLDER

``plain`` is pynetdicom as its documentation shows it, writing the bytes it got to a file.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

AE_TITLE = "RECEIVER"


def lazaret(port: int, folder: Path, flush_each: bool) -> None:
    """Ours: flushed to the disk at each instance, or behind it and before the release."""
    from service.metrics import Metrics
    from service.pacs.callers import Callers
    from service.pacs.receiver import Receiver, ReceiverConfig
    from service.pacs.spool import Spool
    from service.pacs.tally import Tally

    config = ReceiverConfig(
        "127.0.0.1", port, AE_TITLE, Callers({}, open_=True), flush_each=flush_each
    )
    Receiver(config, Spool(folder, reserve_bytes=0), Tally(Metrics())).start()


def plain(port: int, folder: Path, pdu_bytes: int, flush: bool) -> None:
    """pynetdicom."""
    import os

    from pynetdicom import AE, AllStoragePresentationContexts, evt

    folder.mkdir(parents=True, exist_ok=True)

    def store(event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        with (folder / uid).open("wb") as file:
            file.write(event.encoded_dataset())
            if flush:
                file.flush()
                os.fsync(file.fileno())
        return 0

    ae = AE(AE_TITLE)
    ae.maximum_pdu_size = pdu_bytes
    ae.supported_contexts = AllStoragePresentationContexts
    ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])


RECEIVERS = {
    "lazaret": lambda port, folder: lazaret(port, folder, flush_each=True),
    "lazaret-behind": lambda port, folder: lazaret(port, folder, flush_each=False),
    "plain-16k": lambda port, folder: plain(port, folder, 16382, False),
    "plain-128k": lambda port, folder: plain(port, folder, 131072, False),
    "plain-128k-fsync": lambda port, folder: plain(port, folder, 131072, True),
}

if __name__ == "__main__":
    RECEIVERS[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))
    threading.Event().wait()
