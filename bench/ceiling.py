"""The ceiling of ingest: parse PDUs, write, sync file and folder, answer. Nothing else.

No index, no checks, no metadata, one thread an association. What a real archive does beyond this
costs something, and the distance between the two is what its design decides. Durable like the
node: an instance is answered once it would survive a power cut; and like the node it acknowledges
segments at once, for which stock senders wait.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from bench import wire
from pacs.dimse import messages
from pacs.errors import Unreachable

READ_BYTES: Final = 1 << 20

_number = count()


@contextmanager
def receiving(folder: Path) -> Iterator[tuple[str, int]]:
    """A bare receiver in a process of its own; its address."""
    fresh = multiprocessing.get_context("spawn")
    ours, theirs = fresh.Pipe()
    process = fresh.Process(target=_serve, args=(theirs, folder), daemon=True)
    process.start()
    try:
        yield "127.0.0.1", ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Connection, folder: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    pipe.send(listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_receive, args=(connection, folder), daemon=True).start()


def _receive(connection: socket.socket, folder: Path) -> None:
    """Serve one association until it is released or its peer is gone."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, suppress(Unreachable):
        requests = _Requests(connection)
        connection.sendall(wire.associate_accept(requests.association()))
        while requests.has_next():
            _keep(requests.data_set, folder)
            connection.sendall(_answer(requests.context_id, requests.command))
        connection.sendall(wire.pdu(messages.RELEASE_RP, bytes(4)))


class _Requests:
    """The C-STORE requests of an association, each data set read into the same place."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = BufferedReader(connection.makefile("rb", 0), READ_BYTES)
        self._buffer = bytearray(READ_BYTES)
        self._size = 0
        self.context_id = 0
        self.command = b""

    def association(self) -> bytes:
        """The body of the A-ASSOCIATE-RQ."""
        return wire.read_pdu(self._stream)[1]

    @property
    def data_set(self) -> memoryview:
        return memoryview(self._buffer)[: self._size]

    def has_next(self) -> bool:
        """Read the next request; False where the peer releases. Raises Unreachable."""
        self._size, self.command = 0, b""
        is_whole = False
        while not is_whole:
            wire.acknowledge_at_once(self._connection)
            head = wire.read_exactly(self._stream, wire.PDU_HEADER.size)
            kind, length = wire.PDU_HEADER.unpack(head)
            if kind == messages.RELEASE_RQ:
                return False
            if kind != messages.P_DATA:
                raise Unreachable("the peer aborted the association")
            while length:
                size, is_whole = self._read_value()
                length -= size
        return True

    def _read_value(self) -> tuple[int, bool]:
        """Read one presentation data value; its size, and whether it ends the data set."""
        head = wire.read_exactly(self._stream, wire.PDV_HEADER.size)
        length, self.context_id, control = wire.PDV_HEADER.unpack(head)
        if control & messages.COMMAND:
            self.command += wire.read_exactly(self._stream, length - 2)
        else:
            self._fill(length - 2)
        return length + 4, control == messages.LAST

    def _fill(self, size: int) -> None:
        missing = self._size + size - len(self._buffer)
        if missing > 0:
            self._buffer += bytes(max(missing, len(self._buffer)))
        with memoryview(self._buffer) as view:
            if self._stream.readinto(view[self._size : self._size + size]) < size:
                raise Unreachable("the peer closed the connection")
        self._size += size


def _keep(data_set: memoryview, folder: Path) -> None:
    """Write a file; it survives a power cut once this returns."""
    file = os.open(folder / str(next(_number)), os.O_CREAT | os.O_WRONLY)
    while data_set:
        data_set = data_set[os.write(file, data_set) :]
    os.fsync(file)
    os.close(file)
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def _answer(context_id: int, encoded: bytes) -> bytes:
    """The C-STORE-RSP for a command set: success, in one PDU and one segment."""
    command = messages.read_command(encoded)
    response = messages.write_command(
        [
            (messages.AFFECTED_CLASS, messages.uid(command, messages.AFFECTED_CLASS)),
            (messages.COMMAND_FIELD, messages.C_STORE_RSP),
            (messages.RESPONDED_TO, messages.number(command, messages.MESSAGE_ID) or 0),
            (messages.DATA_SET_TYPE, messages.NO_DATA_SET),
            (messages.STATUS, 0),
            (messages.AFFECTED_INSTANCE, messages.uid(command, messages.AFFECTED_INSTANCE)),
        ]
    )
    return wire.p_data(context_id, messages.COMMAND | messages.LAST, response)
