"""A scanner that speaks DICOM by hand, so that it can also speak it wrongly; and a node for it."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from pacs.access import Actor
from pacs.archive import Archive, Instance, Scope
from pacs.dimse.scp import Receiver
from pacs.dimse.tls import Credentials, TlsPort
from pacs.dimse.upper_layer import DimseLimits
from pacs.index import open_index
from pacs.peers import Peer, Peers, Right
from pacs.store import open_store
from pacs.workitems import Workitems
from tests import make

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION: Final = "1.2.840.10008.1.1"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
IMPLICIT: Final = "1.2.840.10008.1.2"

NO_CREDENTIALS: Final = Credentials()
OPERATOR: Final = Actor(kind="operator", name="test")


class Context(NamedTuple):
    """A presentation context to propose: its transfer syntaxes in order."""

    sop_class_uid: str
    transfer_syntax_uids: Sequence[str] = (EXPLICIT,)


@dataclass(frozen=True)
class Reply:
    """A response's status and comment."""

    status: int
    comment: str


class Gone(Exception):
    """The node closed the connection without a PDU."""


class Scanner:
    """One association, or what passes for one."""

    def __init__(
        self, port: int, *, timeout_s: float = 20.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.accepted: dict[int, str] = {}

    def __enter__(self) -> Scanner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def associate(
        self,
        *contexts: Context,
        called: str = "ISOCENTER",
        calling: str = "SCANNER",
        application: str = "1.2.840.10008.3.1.1.1",
    ) -> tuple[int, bytes]:
        """Ask for an association; the kind and body of the PDU that answers."""
        self.pdu(
            1,
            associate_rq(
                contexts or (Context(CT), Context(VERIFICATION)), called, calling, application
            ),
        )
        kind, body = self.answer()
        if kind == 2:
            self.accepted = accepted_in(body)
        return kind, body

    def pdu(self, kind: int, body: bytes) -> None:
        """Send a PDU."""
        self.socket.sendall(struct.pack(">BxI", kind, len(body)) + body)

    def value(self, context_id: int, control: int, fragment: bytes) -> None:
        """Send one presentation data value in a PDU of its own."""
        self.pdu(4, struct.pack(">IBB", len(fragment) + 2, context_id, control) + fragment)

    def command(self, context_id: int, *elements: tuple[int, bytes]) -> None:
        """Send a whole command set."""
        self.value(context_id, 3, command_set(elements))

    def store_request(
        self, sop_instance_uid: str, *, sop_class_uid: str = CT, context_id: int = 1
    ) -> None:
        """Send a C-STORE-RQ's command, which a data set must follow."""
        self.command(
            context_id,
            (0x0002, padded(sop_class_uid)),
            (0x0100, b"\1\0"),
            (0x0110, b"\7\0"),
            (0x0700, b"\0\0"),
            (0x0800, b"\1\0"),
            (0x1000, padded(sop_instance_uid)),
        )

    def store(
        self,
        data_set: bytes,
        sop_instance_uid: str,
        *,
        sop_class_uid: str = CT,
        context_id: int = 1,
        fragment_bytes: int = 60_000,
    ) -> Reply:
        """C-STORE; the status that comes back."""
        self.store_request(sop_instance_uid, sop_class_uid=sop_class_uid, context_id=context_id)
        for start in range(0, len(data_set), fragment_bytes):
            is_last = start + fragment_bytes >= len(data_set)
            self.value(context_id, 2 * is_last, data_set[start : start + fragment_bytes])
        return self.reply()

    def echo(self, context_id: int = 3) -> Reply:
        """C-ECHO; the status that comes back."""
        self.command(
            context_id,
            (0x0002, padded(VERIFICATION)),
            (0x0100, b"\x30\0"),
            (0x0110, b"\1\0"),
            (0x0800, b"\1\1"),
        )
        return self.reply()

    def reply(self) -> Reply:
        """Read a response."""
        kind, body = self.answer()
        assert kind == 4, f"PDU {kind} instead of a response"
        elements = read_command_set(body[6:])
        comment = elements.get(0x0902, b"").decode("ascii").rstrip()
        return Reply(int.from_bytes(elements[0x0900], "little"), comment)

    def answer(self) -> tuple[int, bytes]:
        """Read a PDU. Raises Gone at the end of the connection."""
        kind, length = struct.unpack(">BxI", self._read(6))
        return kind, self._read(length)

    def _read(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            try:
                piece = self.socket.recv(size - len(got))
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Gone
            got += piece
        return got

    def release(self) -> None:
        """Release the association as one should."""
        self.pdu(5, b"\0\0\0\0")
        kind, _ = self.answer()
        assert kind == 6
        self.socket.close()

    def reset(self) -> None:
        """Vanish: the connection ends with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def item(kind: int, body: bytes) -> bytes:
    """An item of an A-ASSOCIATE PDU."""
    return struct.pack(">BxH", kind, len(body)) + body


def associate_rq(contexts: Iterable[Context], called: str, calling: str, application: str) -> bytes:
    """The body of an A-ASSOCIATE-RQ."""
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    body += item(0x10, application.encode())
    for number, context in enumerate(contexts):
        syntaxes = b"".join(item(0x40, uid.encode()) for uid in context.transfer_syntax_uids)
        abstract = item(0x30, context.sop_class_uid.encode())
        body += item(0x20, struct.pack(">B3x", 2 * number + 1) + abstract + syntaxes)
    user = item(0x51, struct.pack(">I", 16_384)) + item(0x52, b"1.2.3")
    return body + item(0x50, user)


def accepted_in(body: bytes) -> dict[int, str]:
    """Context -> transfer syntax of every context that an A-ASSOCIATE-AC accepts."""
    accepted, at = {}, 68
    while at < len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        value = body[at + 4 : at + 4 + length]
        if kind == 0x21 and value[2] == 0:
            accepted[value[0]] = value[8:].decode()
        at += 4 + length
    return accepted


def padded(uid: str) -> bytes:
    """A UID of even length."""
    raw = uid.encode()
    return raw + b"\0" * (len(raw) % 2)


def command_set(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """A command set with its group length."""
    body = b"".join(struct.pack("<HHI", 0, tag, len(value)) + value for tag, value in elements)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def read_command_set(encoded: bytes) -> dict[int, bytes]:
    """Element -> value."""
    found, at = {}, 0
    while at < len(encoded):
        _, element, length = struct.unpack_from("<HHI", encoded, at)
        found[element] = encoded[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def instance(**attributes: object) -> Dataset:
    """A small CT instance of a study and series that no other test has."""
    return make.data_set(
        study_instance_uid=generate_uid(),
        series_instance_uid=generate_uid(),
        **attributes,  # type: ignore[arg-type]  # they are set by keyword, whatever they are
    )


class Node(NamedTuple):
    """An archive over real files and a real index, with a receiver on a free port."""

    archive: Archive
    receiver: Receiver
    peers: Peers
    workitems: Workitems

    @property
    def port(self) -> int:
        return self.receiver.port

    def instances(self, study_instance_uid: str) -> list[Instance]:
        """What is held of a study. Raises Missing where that is nothing."""
        return self.archive.retrieve(OPERATOR, Scope(study_instance_uid))

    def answers(self) -> bool:
        """Whether a fresh association gets its C-ECHO."""
        with Scanner(self.port) as scanner:
            if scanner.associate()[0] != 2:
                return False
            replied = scanner.echo().status == 0
            scanner.release()
            return replied


@contextmanager
def node(
    folder: Path,
    limits: DimseLimits | None = None,
    tls: TlsPort | None = None,
    credentials: Credentials = NO_CREDENTIALS,
) -> Iterator[Node]:
    """A node below a folder, stopped at the end of the block. SCANNER may ask it for everything."""
    index = open_index(f"sqlite:///{folder}/index.db")
    index.migrate()
    archive = Archive("identified", open_store(f"file://{folder}/store", "identified"), index)
    peers = Peers(index)
    peers.put(OPERATOR, Peer("SCANNER", "127.0.0.1", 104, rights=frozenset(Right)))
    workitems = Workitems(index, archive.id, archive.name)
    receiver = Receiver(
        archive,
        peers,
        port=0,
        limits=limits or DimseLimits(),
        tls=tls,
        credentials=credentials,
        workitems=workitems,
    )
    receiver.start()
    try:
        yield Node(archive, receiver, peers, workitems)
    finally:
        receiver.stop()
        index.close()
