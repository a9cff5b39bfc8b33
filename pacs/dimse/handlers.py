"""One function per request. A handler translates; the archive decides."""

from __future__ import annotations

import logging
from typing import cast

from pydicom.dataset import Dataset
from pynetdicom.events import Event

from pacs.access import Actor
from pacs.archive import Archive, Incoming
from pacs.dimse.status import (
    SOP_CLASS_NOT_SUPPORTED,
    STORE,
    STORED_WITH_WARNING,
    SUCCESS,
    comment_of,
    status_of,
)
from pacs.dimse.upper_layer import PeerAssociation, StoreRequest
from pacs.errors import BadObject, NodeError

log = logging.getLogger(__name__)


def on_c_echo(_event: Event) -> int:
    """Answer one C-ECHO-RQ (PS3.4 A.4): whoever has an association may verify it."""
    return SUCCESS


def on_c_store(event: Event, archive: Archive) -> int | Dataset:
    """Answer one C-STORE-RQ (PS3.4 B.2.3).

    Many senders delete their copy on Success. So the bytes are kept as they came, never decoded and
    written again, and 0x0000 goes out only when both they and their row would survive a power cut.
    Anything but a NodeError is a bug of ours: pynetdicom logs it and answers 0xC211.
    """
    actor, request = actor_of(event), cast(StoreRequest, event.request)
    if request.AffectedSOPClassUID != event.context.abstract_syntax:
        return answer(SOP_CLASS_NOT_SUPPORTED, "the SOP class is not that of its context")
    try:
        stored = archive.store(
            actor,
            received(request, str(event.context.transfer_syntax)),
            expect={
                "SOPClassUID": request.AffectedSOPClassUID or "",
                "SOPInstanceUID": request.AffectedSOPInstanceUID or "",
            },
        )
    except NodeError as error:
        log.warning("C-STORE refused: %s", error, extra={"actor": actor, "facts": error.facts})
        return answer(status_of(error, STORE), error.message)
    if stored.warning:
        return answer(STORED_WITH_WARNING, stored.warning)
    return SUCCESS


def received(request: StoreRequest, transfer_syntax_uid: str) -> Incoming:
    """The data set of a C-STORE-RQ as it came. Raises BadObject or Exhausted."""
    if request.spool is None:
        raise BadObject("the request has no data set")
    return Incoming(request.spool.buffer(), transfer_syntax_uid)


def actor_of(event: Event) -> Actor:
    """The peer that asks, as it was recognised when its association began."""
    return cast(PeerAssociation, event.assoc).actor


def answer(status: int, comment: str) -> Dataset:
    """A response's status with its Error Comment (PS3.7 C.3)."""
    response = Dataset()
    response.Status = status
    response.ErrorComment = comment_of(comment)
    return response
