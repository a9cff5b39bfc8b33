"""Peers for query and retrieval: a requestor and a destination, both pynetdicom's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, cast

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.presentation import build_context, build_role

from pacs.dimse.query import FIND_ROOTS, GET_ROOTS, MOVE_ROOTS
from pacs.peers import Peer, Right
from tests import make
from tests.unit.dimse.scanner import CT, OPERATOR, Node

PATIENT_FIND, STUDY_FIND = FIND_ROOTS
PATIENT_MOVE, STUDY_MOVE = MOVE_ROOTS
PATIENT_GET, STUDY_GET = GET_ROOTS

Replies = list[tuple[Dataset, Dataset | None]]


def identifier(level: str = "STUDY", **keys: object) -> Dataset:
    """An identifier of a level with its keys."""
    made = Dataset()
    made.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(made, keyword, value)
    return made


@contextmanager
def requestor(
    node: Node,
    *models: str,
    ae_title: str = "SCANNER",
    options: bytes = b"",
    receives: Sequence[tuple[str, str]] = (),
    on_store: Callable[[evt.Event], int] | None = None,
) -> Iterator[Association]:
    """An association that asks; `receives` are SOP classes and syntaxes of which it is the SCP."""
    entity = ApplicationEntity(ae_title)
    entity.dimse_timeout = 30
    negotiation: list[Any] = [
        build_role(UID(uid), scp_role=True) for uid in dict.fromkeys(uid for uid, _ in receives)
    ]
    if options:
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid = UID(models[0])
        item.service_class_application_information = options
        negotiation.append(item)
    association = entity.associate(
        "127.0.0.1",
        node.port,
        [build_context(model) for model in models]
        + [build_context(uid, syntax) for uid, syntax in receives],
        ae_title="ISOCENTER",
        ext_neg=negotiation,
        evt_handlers=[(evt.EVT_C_STORE, on_store)] if on_store else None,
    )
    assert association.is_established
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        association.join()


def find(
    association: Association, asked: Dataset, model: str = STUDY_FIND
) -> tuple[list[Dataset], list[int]]:
    """The matches, and the status of every response."""
    replies = list(association.send_c_find(asked, model))
    return (
        [match for _, match in replies if match is not None],
        [int(reply.Status) for reply, _ in replies],
    )


def counts(reply: Dataset) -> tuple[int | None, int, int, int]:
    """Remaining, completed, failed and warning sub-operations of a response."""
    return (
        reply.get("NumberOfRemainingSuboperations"),
        reply.NumberOfCompletedSuboperations,
        reply.NumberOfFailedSuboperations,
        reply.NumberOfWarningSuboperations,
    )


@dataclass
class Destination:
    """A store that keeps what it is sent, or answers as `judge` says."""

    ae_title: str = "DEST"
    judge: Callable[[evt.Event], int] = lambda _: 0
    requests: list[Dataset] = field(default_factory=list)
    received: list[tuple[str, str, bytes]] = field(default_factory=list)  # UID, syntax, data set
    associations: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def on_store(self, event: evt.Event) -> int:
        status = self.judge(event)
        request = cast(C_STORE, event.request)
        assert isinstance(request.DataSet, BytesIO)
        with self.lock:
            about = Dataset()
            about.MoveOriginatorApplicationEntityTitle = (
                request.MoveOriginatorApplicationEntityTitle
            )
            about.MoveOriginatorMessageID = request.MoveOriginatorMessageID
            self.requests.append(about)
            if status == 0:
                uid, syntax = request.AffectedSOPInstanceUID, event.context.transfer_syntax
                self.received.append((str(uid), str(syntax), request.DataSet.getvalue()))
        return status

    def on_accepted(self, _event: evt.Event) -> None:
        with self.lock:
            self.associations += 1


@contextmanager
def destination(
    node: Node,
    *,
    takes: Sequence[tuple[str, tuple[str, ...]]] = ((CT, (make.EXPLICIT, make.IMPLICIT)),),
    judge: Callable[[evt.Event], int] = lambda _: 0,
    rights: frozenset[Right] = frozenset({Right.RECEIVE}),
) -> Iterator[Destination]:
    """A destination that the node lists as DEST."""
    made = Destination(judge=judge)
    entity = ApplicationEntity(made.ae_title)
    for sop_class_uid, syntaxes in takes:
        entity.add_supported_context(sop_class_uid, list(syntaxes))
    server = entity.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[(evt.EVT_C_STORE, made.on_store), (evt.EVT_ACCEPTED, made.on_accepted)],
    )
    assert server is not None
    port = int(server.server_address[1])
    node.peers.put(OPERATOR, Peer(made.ae_title, "127.0.0.1", port, rights=rights))
    try:
        yield made
    finally:
        server.shutdown()
        until = time.monotonic() + 5
        while server.active_associations and time.monotonic() < until:
            time.sleep(0.01)
