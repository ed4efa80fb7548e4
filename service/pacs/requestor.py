"""Asking a DIMSE peer: the association that is asked for, and a request of bytes that are encoded
already, which pynetdicom has no way to. Deliveries and the terminal share it."""

from __future__ import annotations

import logging
import time
from typing import Any, Final, cast

from pynetdicom import _config
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from service.pacs.implementation import CLASS_UID, VERSION_NAME
from service.pacs.peers import DimsePeer

MOST_CONTEXTS: Final = 128
"""Of one association (PS3.8 section 9.3.2.2: odd numbers of one byte)."""
PDU_BYTES: Final = 128 * 2**10
"""A quarter less CPU than with pynetdicom's 16 KiB."""

# Its log lines quote titles and UIDs; what happens is told by this package's own events.
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


def entity(peer: DimsePeer) -> ApplicationEntity:
    """Us, as the peer knows us, with the peer's patience."""
    ae = ApplicationEntity(peer.calling_ae_title)
    ae.implementation_class_uid = cast(Any, CLASS_UID)
    ae.implementation_version_name = VERSION_NAME
    ae.maximum_pdu_size = PDU_BYTES
    ae.connection_timeout = ae.acse_timeout = peer.timeout_seconds
    ae.dimse_timeout = ae.network_timeout = peer.timeout_seconds
    return ae


def exchange(association: Association, request: C_STORE, context: int) -> C_STORE | None:
    """Send a request as it is. The answer; None when there was none in time, and then the
    association is aborted."""
    # As Association.send_c_store does: its own loop must not take the answer.
    association._reactor_checkpoint.clear()
    while not association._is_paused and association.is_established:
        time.sleep(0.0001)
    try:
        if not association.is_established:
            return None
        association.dimse.send_msg(request, context)
        _, answer = association.dimse.get_msg(block=True)
    finally:
        association._reactor_checkpoint.set()
    if answer is None and association.is_established:
        association.abort()
    return cast(C_STORE | None, answer)
