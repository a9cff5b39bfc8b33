"""DICOM TLS: the BCP 195 profile (PS3.15 B.12, RFC 9325), and a wire that speaks it.

TLS 1.2 and 1.3 alone, with ephemeral keys and authenticated encryption. The handshake is made by
the association's own thread against the deadline of a PDU, so that a slow one holds up nobody.
Where a caller proves to hold a certificate, the names in it decide which peer it may be.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

from pynetdicom.transport import AddressInformation

from pacs.dimse.upper_layer import PeerAssociation, Wire, acknowledge
from pacs.errors import Broken

ClientCertificate = Literal["none", "request", "require"]

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all of this kind

_DEMANDS: Final[Mapping[ClientCertificate, ssl.VerifyMode]] = {
    "none": ssl.CERT_NONE,
    "request": ssl.CERT_OPTIONAL,
    "require": ssl.CERT_REQUIRED,
}


class TlsPort(NamedTuple):
    """A port that speaks TLS alone, and how."""

    port: int
    context: ssl.SSLContext


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM files: who we are, and whose word we take for who others are.

    The files are read whenever a context is made, so that a renewed certificate counts for the
    next call.
    """

    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None  # None: those that the operating system trusts

    def accepting(self, client_certificate: ClientCertificate) -> ssl.SSLContext:
        """The context of a port. Raises Broken where the files are of no use."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = _DEMANDS[client_certificate]
        # Nothing is resumed: every association shows its certificate anew.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        return self._in_profile(context)

    def calling(self) -> ssl.SSLContext:
        """The context of a call: the peer's certificate must bear its host's name. Raises Broken."""
        return self._in_profile(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _in_profile(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, _no_password)
            if self.authorities is not None:
                context.load_verify_locations(self.authorities)
            else:
                context.load_default_certs(
                    ssl.Purpose.SERVER_AUTH if context.check_hostname else ssl.Purpose.CLIENT_AUTH
                )
        except (OSError, ValueError) as error:
            raise Broken(
                "the TLS certificate, its key or the authorities cannot be read"
            ) from error
        return context


def _no_password() -> str:
    """An encrypted key is refused; OpenSSL would ask for its password on the terminal."""
    raise ValueError("the key is encrypted")


def names_of(certificate: Mapping[str, Any] | None) -> frozenset[str] | None:
    """The names that a verified certificate gives to its holder; None without a certificate.

    They are its common name, which may be an AE title, and its alternative names of the DNS and
    addresses. A pattern such as `*.example.org` names nobody in particular, and so matches nobody.
    """
    if not certificate:
        return None
    subject = (pair for rdn in certificate.get("subject", ()) for pair in rdn)
    common = {value for kind, value in subject if kind == "commonName"}
    others = certificate.get("subjectAltName", ())
    return frozenset(common | {value for kind, value in others if kind in ("DNS", "IP Address")})


class SecureWire(Wire):
    """A wire inside TLS.

    OpenSSL's connection must not be entered by two threads, and ours is read by one while others
    write. All calls are brief, since the socket never blocks, and take turns behind a lock.
    """

    def __init__(
        self,
        assoc: PeerAssociation,
        client_socket: socket.socket | None = None,
        address: AddressInformation | None = None,
        *,
        context: ssl.SSLContext,
        host: str = "",
    ) -> None:
        """As acceptor around a connection, or as requestor towards the host of that name."""
        super().__init__(assoc, client_socket, address)
        self._context = context
        self._host = host
        self._guard = threading.Lock()
        self._early = b""  # the first byte of a PDU that has been taken from the connection
        self._has_parted = False
        self._greeting_until = time.monotonic() + assoc.dul.limits.pdu_deadline_s
        self.is_greeting = True
        if client_socket is not None:
            self.socket = self._wrapped(client_socket, is_server=True)

    def _wrapped(self, connection: socket.socket, *, is_server: bool) -> ssl.SSLSocket:
        return self._context.wrap_socket(
            connection,
            server_side=is_server,
            do_handshake_on_connect=False,
            server_hostname=None if is_server else self._host,
        )

    def reach(self, address: AddressInformation) -> None:
        """Connect and shake hands. Raises OSError."""
        super().reach(address)
        self._greeting_until = (
            time.monotonic() + cast(PeerAssociation, self.assoc).dul.limits.pdu_deadline_s
        )
        assert self.socket is not None, "it is connected"
        self.socket = self._wrapped(self.socket, is_server=False)
        while self.is_greeting:
            self.greet(self._greeting_until)

    def greet(self, until: float) -> None:
        """Go on with the handshake until it is made or the moment comes. Raises OSError."""
        connection = cast(ssl.SSLSocket, self.socket)
        try:
            with self._guard:
                connection.do_handshake()
        except ssl.SSLWantReadError:
            self._await(select.POLLIN, until)
        except ssl.SSLWantWriteError:
            self._await(select.POLLOUT, until)
        else:
            acknowledge(connection)  # the caller's request may be waiting for it
            self.certified_names = names_of(connection.getpeercert())
            self.is_greeting = False

    def _await(self, event: int, until: float) -> None:
        is_ready = self.wait(event, min(until, self._greeting_until))
        if not is_ready and time.monotonic() >= self._greeting_until:
            raise TimeoutError(errno.ETIME, os.strerror(errno.ETIME))

    def begins(self, until: float) -> bool:
        """Whether a PDU begins before the moment `until`; records of TLS's own are none.

        Raises EOFError or OSError when the peer is gone.
        """
        while not self._early:
            try:
                with self._guard:
                    self._early = self._open().recv(1)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if not self.wait(select.POLLIN, until):
                    return False
                continue
            if not self._early:
                raise EOFError
        return True

    def receive_into(self, buffer: memoryview) -> int:
        """Read some of what has come; 0 at the end. Raises BlockingIOError if nothing has."""
        if self._early:
            buffer[:1], self._early = self._early, b""
            return 1
        try:
            with self._guard:
                return self._open().recv_into(buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def transmit(self, data: memoryview) -> int:
        """Write some; how much. Raises BlockingIOError if nothing can be written now."""
        try:
            with self._guard:
                return self._open().send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def _open(self) -> socket.socket:
        """The connection while it is secure; once that ends, its socket would give raw bytes."""
        if self.socket is None or self._has_parted:
            raise EOFError
        return self.socket

    def part(self) -> None:
        """Tell the peer that nothing more will come (close_notify), without waiting for its own."""
        connection = cast("ssl.SSLSocket | None", self.socket)
        with self._guard, suppress(OSError, ValueError):
            if connection is not None and not self._has_parted and not self.is_greeting:
                self._has_parted = True
                connection.unwrap()
