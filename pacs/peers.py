"""Peers: who calls us and may do what, and whom we may call.

A DICOM application is known by its AE title, which anybody can claim. So a listed title counts only
from its host, or under a certificate that names it; from elsewhere it is turned away rather than
treated as a stranger. Strangers get what `dimse.unknown_callers` gives them, and never a query.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, Literal

from pacs.access import Action, Actor
from pacs.errors import BadQuery, Exhausted, Forbidden, Missing, Unavailable, Unreachable
from pacs.index import Index, audit, parties
from pacs.index.parties import Peer, Right

__all__ = ["Echo", "Peer", "Peers", "Right", "UnknownCallers", "certifies", "rights_of"]

UnknownCallers = Literal["store", "echo", "refuse"]

PEERS_MAX: Final = 1_000  # listed ones; a further one is refused, so that lists need no pages
ANYWHERE: Final = frozenset({"", "*"})  # the host of a peer that may call from any address
PORT_MAX: Final = 65_535
HOST_CHARACTERS_MAX: Final = 253  # of a name in the DNS (RFC 1035); a longer one is refused
NOTE_EVERY_S: Final = 10.0  # the same news of the same peer is written at most so often
NOTES_MAX: Final = 4_096  # news remembered for that; beyond it all are forgotten at once

_AE_TITLE: Final = re.compile(r"[ -\[\]-~]{1,16}")  # PS3.5 6.2: printable ASCII, no backslash
_HOST_NAME: Final = re.compile(r"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")

_ACTIONS: Final = {
    Right.STORE: Action.STORE,
    Right.QUERY: Action.SEARCH,
    Right.RETRIEVE: Action.RETRIEVE,
    Right.COMMIT: Action.VERIFY,
    Right.WORKITEMS: Action.WORKITEMS,
    Right.WORKLIST: Action.WORKLIST,
    Right.MPPS: Action.PERFORM,
}
_CALLED: Final = frozenset({Right.RECEIVE, Right.RECEIVE_MPPS, Right.NOTIFY})  # we call those
_OF_STRANGERS: Final[Mapping[UnknownCallers, frozenset[Action]]] = {
    "store": frozenset({Action.STORE}),
    "echo": frozenset(),
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Echo:
    """What became of a C-ECHO to a peer: its answer, or in plain words why there is none."""

    is_answered: bool
    reason: str
    elapsed_ms: float


class Peers:
    """The peers of a node, kept in its index."""

    def __init__(self, index: Index, *, unknown_callers: UnknownCallers = "store") -> None:
        self._index = index
        self._unknown_callers: UnknownCallers = unknown_callers
        self._lock = threading.Lock()
        self._noted: dict[tuple[str, str], float] = {}

    def list(self) -> list[Peer]:
        """Every peer, by AE title."""
        with self._index.read() as connection:
            return parties.listed(connection)

    def get(self, ae_title: str) -> Peer:
        """The peer of an AE title. Raises Missing."""
        peer = self._find(ae_title.strip())
        if peer is None:
            raise Missing("no peer has this AE title")
        return peer

    def _find(self, ae_title: str) -> Peer | None:
        with self._index.read() as connection:
            return parties.find(connection, ae_title)

    def put(self, actor: Actor, peer: Peer) -> bool:
        """Enter a peer, or replace what is said of it; True if it is new. Audited.

        Raises BadQuery for what cannot be a peer, Exhausted beyond 1,000 of them. Times and error
        of `peer` are not taken: they are ours to note.
        """
        check(peer)
        with self._index.write() as connection:
            is_new = parties.put(connection, peer)
            if is_new and parties.count(connection) > PEERS_MAX:
                raise Exhausted("this node lists as many peers as it can", peers_max=PEERS_MAX)
            subject = {
                "ae_title": peer.ae_title,
                "host": peer.host,
                "port": peer.port,
                "tls": peer.tls,
                "rights": sorted(right.value for right in peer.rights),
            }
            audit.append(connection, actor, "put peer", archive="", outcome="done", subject=subject)
        return is_new

    def remove(self, actor: Actor, ae_title: str) -> None:
        """Remove a peer. Audited. Raises Missing."""
        title = ae_title.strip()
        with self._index.write() as connection:
            if not parties.remove(connection, title):
                raise Missing("no peer has this AE title")
            subject = {"ae_title": title}
            audit.append(
                connection, actor, "remove peer", archive="", outcome="done", subject=subject
            )

    def echo(self, ae_title: str, ask: Callable[[Peer], None]) -> Echo:
        """Have a peer asked whether it is there, and note what it says.

        `ask` returns if the peer answers, and raises Unreachable with the reason. Raises Missing,
        and BadQuery for a peer that cannot be called.
        """
        peer = self.get(ae_title)
        if peer.host in ANYWHERE:
            raise BadQuery("this peer has no host that could be called")
        began, reason = time.perf_counter(), ""
        try:
            ask(peer)
        except Unreachable as error:
            reason = error.message
        elapsed_ms = (time.perf_counter() - began) * 1000
        self.note(peer.ae_title, reason)
        return Echo(not reason, reason, round(elapsed_ms, 1))

    def note(self, ae_title: str, error: str = "") -> None:
        """Note an association with a peer; with an error, what went wrong, in plain words.

        The same news is written at most once in ten seconds. A peer that is not listed is not
        noted, and an index that does not answer now is no reason to fail.
        """
        news, at = (ae_title.strip(), error), time.monotonic()
        with self._lock:
            if at - self._noted.get(news, -NOTE_EVERY_S) < NOTE_EVERY_S:
                return
            if len(self._noted) >= NOTES_MAX:
                self._noted.clear()
            self._noted[news] = at
        try:
            if self._find(news[0]) is None:
                return
            with self._index.write() as connection:
                parties.note(connection, *news)
        except Unavailable as unavailable:
            log.warning("news of a peer is lost: %s", unavailable)

    def actor(
        self,
        ae_title: str,
        address: str,
        implementation: str,
        certified_names: AbstractSet[str] | None = None,
    ) -> Actor:
        """Who calls, with the actions it may take; its association is noted.

        `certified_names` are those of the certificate that the caller proved to hold, None without
        one; they then decide whether it is the peer that it says it is, and its address does not.
        Raises Forbidden for a caller that may not even associate, and Unreachable while its host's
        name cannot be resolved.
        """
        title = ae_title.strip()
        peer = self._find(title)
        if peer is None:
            if self._unknown_callers == "refuse":
                raise Forbidden("only listed peers may associate")
            actions = _OF_STRANGERS[self._unknown_callers]
        else:
            self._recognise(peer, address, certified_names)
            actions = frozenset(_ACTIONS[right] for right in peer.rights if right in _ACTIONS)
            self.note(title)
        return Actor("peer", title, address, implementation, actions)

    def _recognise(self, peer: Peer, address: str, names: AbstractSet[str] | None) -> None:
        """Return if the caller is this peer. Raises Forbidden, or Unreachable."""
        if names is None:
            is_peer = peer.host in ANYWHERE or address_of(address) in addresses_of(peer.host)
            reason = f"somebody at {address}, which is not its host, used its AE title"
        else:
            is_peer = certifies(names, peer)
            reason = f"somebody at {address} used its AE title under a certificate of another name"
        if not is_peer:
            self.note(peer.ae_title, reason)
            raise Forbidden("this AE title belongs to another host")


def check(peer: Peer) -> None:
    """Return if this can be a peer. Raises BadQuery with what must change."""
    if not _AE_TITLE.fullmatch(peer.ae_title) or peer.ae_title != peer.ae_title.strip():
        raise BadQuery("an AE title is 1 to 16 printable ASCII characters without backslash")
    is_callable = peer.host not in ANYWHERE
    if is_callable and not is_host(peer.host):
        raise BadQuery("a host is a name or an address, or * for a peer that calls from anywhere")
    if not (1 if is_callable else 0) <= peer.port <= PORT_MAX:
        raise BadQuery("a port is 1 to 65,535; a peer that calls from anywhere may have 0")
    if _CALLED & peer.rights and not is_callable:
        raise BadQuery("a peer that receives or is notified needs a host")


def is_host(text: str) -> bool:
    """Whether this may be the name or the address of a host; nobody is asked for it."""
    try:
        address_of(text)
    except ValueError:
        return len(text) <= HOST_CHARACTERS_MAX and _HOST_NAME.fullmatch(text) is not None
    return True


def certifies(names: AbstractSet[str], peer: Peer) -> bool:
    """Whether the names of a certificate are a peer's: one is its AE title, or its host."""
    if peer.host in ANYWHERE:
        return peer.ae_title in names
    host = _canonical(peer.host)
    return peer.ae_title in names or any(_canonical(name) == host for name in names)


def _canonical(host: str) -> str:
    try:
        return str(address_of(host))
    except ValueError:
        return host.lower().removesuffix(".")


def rights_of(words: Iterable[str]) -> frozenset[Right]:
    """The rights that words name. Raises BadQuery for a word that names none."""
    known = {right.value: right for right in Right}
    wanted = set(words)
    if not wanted <= known.keys():
        raise BadQuery(f"the rights of a peer are {', '.join(known)}")
    return frozenset(known[word] for word in wanted)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def address_of(text: str) -> Address:
    """A numeric address without its zone; one of IPv4 written as IPv6 is taken as what it is."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def addresses_of(host: str) -> frozenset[Address]:
    """The addresses of a host. Raises Unreachable where its name cannot be resolved."""
    try:
        return frozenset({address_of(host)})
    except ValueError:
        pass  # a name, then
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unreachable("the host name of a peer cannot be resolved") from error
    return frozenset(address_of(str(entry[4][0])) for entry in found)
