"""One file a way of sending, each a ``Sender``; ``sender_for`` picks by the peer's kind.

A sender says of each object whether the peer has it, may have it later, or never will. It holds
no state that matters: an object that was sent and not settled is sent again, and because its
identifiers follow from what it says, the peer has it once.
"""

from __future__ import annotations

from service.pacs.peers import DicomwebPeer, DimsePeer, FhirPeer, Peer
from service.pacs.senders.sender import Outcome, Sender, Sent, Unreachable

__all__ = ["Outcome", "Sender", "Sent", "Unreachable", "sender_for"]


def sender_for(peer: Peer) -> Sender:
    """The sender for a peer; its libraries are imported here and not before."""
    if isinstance(peer, DimsePeer):
        from service.pacs.senders.dimse import DimseSender

        return DimseSender(peer)
    if isinstance(peer, DicomwebPeer):
        from service.pacs.senders.stow import StowSender

        return StowSender(peer)
    if isinstance(peer, FhirPeer):
        from service.pacs.senders.fhir import FhirSender

        return FhirSender(peer)
    from service.pacs.senders.syslog import SyslogSender

    return SyslogSender(peer)
