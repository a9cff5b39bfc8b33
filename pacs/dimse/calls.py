"""How a job calls a listed peer for one normalised service (PS3.7 clause 10), and what it notes.

A job lives on patience: whatever the peer answers but success, and whatever keeps us from asking, is
Unreachable, so that the queue asks again later, and stands at the peer in plain words meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pynetdicom import evt

from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from pacs.dimse import scu
from pacs.dimse.status import SUCCESS
from pacs.dimse.tls import Credentials
from pacs.dimse.upper_layer import PeerAssociation
from pacs.errors import Unreachable
from pacs.peers import Peer, Peers

ANSWER_S: Final = 30.0  # a peer that has not answered by then is called again later
SYNTAXES: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)

_WARNINGS: Final = frozenset((0x0001, 0x0107, 0x0116))  # and those that begin with B (PS3.7 C.4)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: our AE title, what we show by TLS, and where the outcome is noted."""

    peers: Peers
    ae_title: str
    credentials: Credentials
    answer_s: float = ANSWER_S

    @contextmanager
    def line(
        self,
        peer: Peer,
        sop_class_uid: str,
        *,
        is_scp: bool = False,
        handlers: Iterable[evt.EventHandlerType] = (),
    ) -> Iterator[PeerAssociation]:
        """An association for one SOP class, released afterwards; we are its SCP if `is_scp`.

        How it went is noted at the peer. Raises Unreachable.
        """
        try:
            association = scu.associated(
                scu.Peer.listed(peer, self.ae_title, self.credentials),
                [(sop_class_uid, *SYNTAXES)],
                scp_of=[sop_class_uid] if is_scp else (),
                handlers=handlers,
                answer_s=self.answer_s,
            )
            try:
                yield association
            finally:
                association.release()
        except Unreachable as error:
            self.peers.note(peer.ae_title, error.message)
            raise
        self.peers.note(peer.ae_title)


def context_of(association: PeerAssociation) -> tuple[int, str]:
    """The number and the transfer syntax of the one context that was accepted."""
    (context,) = association.accepted_contexts
    assert context.context_id is not None
    return context.context_id, str(context.transfer_syntax[0])


def check_status(status: int | None, what: str) -> None:
    """Return for success and for a warning. Raises Unreachable with the status."""
    if status is None or not (status == SUCCESS or status in _WARNINGS or status >> 12 == 0xB):
        raise Unreachable(f"it answers {what} with status {status or 0:04X}")
