# ruff: noqa: SLF001 - this is the one file that overrides private members of pynetdicom
"""Our event-driven upper layer beneath pynetdicom's association.

pynetdicom keeps negotiation, the state machine of PS3.8 chapter 9 and the DIMSE services. Replaced
are the parts that a hostile or a fast peer meets. Its reactor polls every millisecond, reads 4 KiB
at a time and believes any announced length; here a thread sleeps until its socket has something to
say, reads a whole PDU into place under a length cap and one deadline, and hands complete messages
on. Whoever sends does so in his own thread: the state machine is a monitor that both sides enter.

`tests/unit/dimse/test_upper_layer.py` fails loudly when pynetdicom's version, or one of the members
used here, changes.
"""

from __future__ import annotations

import logging
import queue
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final, TypeVar, cast

from pydicom.uid import UID
from pynetdicom import _config, evt
from pynetdicom._globals import MODE_ACCEPTOR, MODE_REQUESTOR
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import (
    C_FIND,
    C_GET,
    C_MOVE,
    C_STORE,
    N_ACTION,
    N_CREATE,
    N_EVENT_REPORT,
    DimsePrimitiveType,
    DimseServiceType,
)
from pynetdicom.dul import _PDU_TYPES, DULServiceProvider
from pynetdicom.fsm import TRANSITION_TABLE
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ, P_DATA_TF, _PDUType
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA, _PDUPrimitiveType
from pynetdicom.presentation import PresentationContext, build_role
from pynetdicom.service_class import StorageServiceClass, attempt
from pynetdicom.transport import (
    T_CONNECT,
    AddressInformation,
    AssociationServer,
    AssociationSocket,
    RequestHandler,
)

from pacs.access import Actor
from pacs.dicom.mapped import WINDOW_BYTES, forget
from pacs.dicom.part10 import Buffer
from pacs.dimse import messages, reasons
from pacs.dimse.doors import Door
from pacs.dimse.status import comment_of, is_pending
from pacs.errors import Refused, Unreachable
from pacs.store.spool import Spool

PYNETDICOM: Final = "3.0.4"  # the version whose private members are overridden here

TICK_S: Final = 1.0  # an idle reader looks at its timers this often
LINGER_S: Final = 1.0  # a peer that was told goodbye has this long to read it and close
SEND_DEADLINE_S: Final = 30.0  # a peer that takes no byte of ours for so long is gone
REFUSALS_MAX: Final = 16  # associations beyond the cap that get an A-ASSOCIATE-RJ; more: closed
REPLIES_WAITING_MAX: Final = 16  # answers to a question of ours; no PDU is read while more wait
REQUESTS_WAITING_MAX: Final = 8  # the window we negotiate is 1 (PS3.7 D.3.3.3); more: A-ABORT
STOP_STEP_S: Final = 0.1  # how often the listener looks whether it should stop
YIELD_S: Final = 0.002  # how long a receiver leaves a caller to one that has less to do
PAUSE_STEP_S: Final = 0.0001  # how often a sender looks whether the reactor has stepped aside
MESSAGE_IDS: Final = 65_535
BATCH_BYTES: Final = 1 << 19  # of a data set, sent at once; meanwhile nothing else is acted upon

_MAY_SEND_DATA: Final = frozenset(("Sta6", "Sta8"))  # established, or asked for its release

NOBODY: Final = Actor("peer", "", actions=frozenset())  # whoever has not been recognised yet

_HEADER: Final = struct.Struct(">BxI")
_DISCARD_BYTES: Final = 1 << 16
_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)  # Linux alone has it

Normalised = TypeVar("Normalised", N_ACTION, N_CREATE)

# What pynetdicom's decoders raise on bytes that are not what they say they are.
MALFORMED: Final = (
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)

log = logging.getLogger(__name__)

# These are settings of a whole process. pynetdicom's log handlers would format every PDU, and show
# data sets. What a UID may look like is for the archive to say, which answers A900 where pynetdicom
# would abort.
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.VALIDATORS["UI"] = lambda _: (True, "")


@dataclass(frozen=True, slots=True)
class DimseLimits:
    """What one peer may ask of us. Each limit says what happens when it is reached."""

    associations_max: int = 64  # further requests: A-ASSOCIATE-RJ 2,3,2
    associations_per_address_max: int = 64  # the same, counted for one network address
    associations_per_ae_max: int = 64  # the same, by each receiver for one calling AE title
    pdu_bytes_max: int = 131_072  # offered to the peer; a longer P-DATA-TF: A-ABORT
    associate_pdu_bytes_max: int = 1 << 20  # a longer A-ASSOCIATE: A-ABORT
    data_set_bytes_max: int = 8 << 30  # a longer data set: A700
    answers_max: int = 1_000_000  # matches of one C-FIND; more: A700 after so many
    artim_s: float = 15.0  # from the connection to its A-ASSOCIATE-RQ: A-ABORT
    pdu_deadline_s: float = 15.0  # from the first byte of a PDU to its last: A-ABORT
    idle_s: float = 30.0  # no PDU either way, and nothing being served: A-ABORT
    spool: Path | None = None  # the folder of long data sets while they arrive; None: the system's


class Wire(AssociationSocket):
    """A non-blocking socket that is read and written in whole PDUs, each against a deadline.

    What a secure wire does otherwise stands in methods of its own: `pacs/dimse/tls.py`.
    """

    is_greeting = False  # whether a handshake must be made before the first PDU
    certified_names: frozenset[str] | None = None  # of a certificate that the peer proved to hold

    def __init__(
        self,
        assoc: PeerAssociation,
        client_socket: socket.socket | None = None,
        address: AddressInformation | None = None,
    ) -> None:
        super().__init__(assoc, client_socket=client_socket, address=address)
        if client_socket is not None:
            _prepare(client_socket)

    def connect(self, primitive: T_CONNECT) -> None:
        """Connect as requestor. The result is an event of the state machine."""
        try:
            self.reach(primitive.address_info)
        except OSError as error:
            cast(PeerAssociation, self.assoc).trouble = reasons.of_connection(error)
            self._shutdown_socket()
            self.socket = None
            primitive.result = "Evt17"
        else:
            self._is_connected = True
            primitive.result = "Evt2"
        self.provider_queue.put(primitive)
        self._ready.set()

    def reach(self, address: AddressInformation) -> None:
        """Connect and make the socket ready for use. Raises OSError."""
        assert self.socket is not None, "a requestor connects once, and first of all"
        self.socket.settimeout(self.assoc.connection_timeout)
        self.socket.connect(address.as_tuple)
        self.assoc.requestor.address_info = AddressInformation.from_tuple(self.socket.getsockname())
        _prepare(self.socket)

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands, waiting up to one tick for one that is being made."""
        return self._ready.wait(TICK_S) and self._is_connected

    def wait(self, event: int, until: float) -> bool:
        """Sleep until the socket is ready for event or the moment `until` comes.

        Raises EOFError for a socket that was closed meanwhile, as another thread may.
        """
        connection = self._connection()
        poll = select.poll()  # unlike select, it does not stop at descriptor 1,023
        try:
            poll.register(connection, event)
        except ValueError:
            raise EOFError from None
        return bool(poll.poll(max(0.0, until - time.monotonic()) * 1000))

    def greet(self, until: float) -> None:
        """Go on with the handshake until it is made or the moment comes. Raises OSError."""

    def begins(self, until: float) -> bool:
        """Whether a PDU begins before the moment `until`. Raises EOFError or OSError."""
        return self.wait(select.POLLIN, until)

    def receive_into(self, buffer: memoryview) -> int:
        """Read some of what has come; 0 at the end. Raises BlockingIOError if nothing has."""
        return self._connection().recv_into(buffer)

    def transmit(self, data: memoryview) -> int:
        """Write some; how much. Raises BlockingIOError if nothing can be written now."""
        return self._connection().send(data)

    def _connection(self) -> socket.socket:
        """The socket, unless it was closed. Raises EOFError."""
        connection = self.socket
        if connection is None:
            raise EOFError
        return connection

    def part(self) -> None:
        """Say that nothing more will come, where the transport has words for it."""

    def fill(self, buffer: memoryview, until: float) -> None:
        """Read until the buffer is full. Raises EOFError, TimeoutError or another OSError."""
        while buffer:
            try:
                count = self.receive_into(buffer)
            except BlockingIOError:
                if not self.wait(select.POLLIN, until):
                    raise TimeoutError from None
                continue
            if count == 0:
                raise EOFError
            buffer = buffer[count:]
            acknowledge(self._connection())
            if buffer and time.monotonic() > until:
                raise TimeoutError

    def read_pdu(self, limits: DimseLimits) -> tuple[int, bytearray]:
        """The next PDU, header included. Its length is judged before any memory is taken.

        Raises Refused for what PS3.8 or a limit forbids; EOFError or OSError when the peer is gone.
        """
        until = time.monotonic() + limits.pdu_deadline_s
        header = bytearray(_HEADER.size)
        try:
            self.fill(memoryview(header), until)
            kind, length = _HEADER.unpack(header)
            longest = messages.length_max(
                kind,
                associate_bytes_max=limits.associate_pdu_bytes_max,
                data_bytes_max=limits.pdu_bytes_max,
            )
            if length > longest:
                raise Refused("a PDU is too long", kind=kind, length=length, bytes_max=longest)
            pdu = bytearray(_HEADER.size + length)
            pdu[: _HEADER.size] = header
            self.fill(memoryview(pdu)[_HEADER.size :], until)
        except TimeoutError:
            raise Refused("a PDU took too long", deadline_s=limits.pdu_deadline_s) from None
        return kind, pdu

    def send(self, bytestream: bytes) -> None:
        """Write one PDU in as few pieces as the kernel allows. Failure is event 17."""
        rest, until = memoryview(bytestream), time.monotonic() + SEND_DEADLINE_S
        try:
            while rest:
                try:
                    rest = rest[self.transmit(rest) :]
                except BlockingIOError:
                    if not self.wait(select.POLLOUT, until):
                        raise TimeoutError from None
        except (OSError, EOFError) as error:
            self.lost(error)

    def lost(self, error: OSError | EOFError) -> None:
        """The peer is gone: event 17."""
        association = cast(PeerAssociation, self.assoc)
        association.trouble = association.trouble or reasons.of_loss(
            error, is_established=association.is_established
        )
        self.event_queue.put("Evt17")

    def _shutdown_socket(self) -> None:
        """Close the socket for good; a peer that reset the connection is no reason to keep it."""
        connection = self.socket
        if connection is None:
            return
        self.part()
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def farewell(self) -> None:
        """Let the peer read our last PDU: end our half, take what still comes, then close.

        Closing at once with unread bytes would send a reset, and a reset overtakes the A-ABORT.
        """
        until = time.monotonic() + LINGER_S
        self.part()
        with suppress(OSError, EOFError):  # who closed first, peer or we, did what we wait for
            self._connection().shutdown(socket.SHUT_WR)
            while self.wait(select.POLLIN, until):
                if not self._connection().recv(_DISCARD_BYTES) or time.monotonic() > until:
                    break
        self.close()


def _prepare(connection: socket.socket) -> None:
    """Small answers leave at once, dead peers are noticed, and no call blocks."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    acknowledge(connection)


def acknowledge(connection: socket.socket) -> None:
    """Acknowledge what came without the usual delay.

    Senders that write a PDU in two calls with Nagle's algorithm on, as DCMTK does, wait for this
    acknowledgement: 40 ms per instance otherwise. The kernel forgets the option, so it is set again
    after every read.
    """
    if _QUICKACK is not None:
        connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


class DataPdu(P_DATA_TF):
    """A P-DATA-TF whose values are views of the bytes read, not four copies of them."""

    def __init__(self, pdu: memoryview) -> None:
        super().__init__()
        self.values = messages.pdvs(pdu[_HEADER.size :])

    def to_primitive(self) -> P_DATA:
        """The indication of DT-2. It carries the parsed values beside pynetdicom's list."""
        return DataIndication(self.values)


class DataIndication(P_DATA):
    """A P-DATA indication primitive with its values parsed."""

    def __init__(self, values: Sequence[messages.Pdv]) -> None:
        super().__init__()
        self.values = values


class UpperLayer(DULServiceProvider):
    """The state machine's thread: reads PDUs, watches the timers, ends the connection.

    Local requests do not wait for this thread. `send_pdu` steps the state machine in the caller's
    thread; `_monitor` keeps the two apart. Reading happens outside the monitor, so that an answer
    can leave while the next request arrives.
    """

    def __init__(self, assoc: PeerAssociation, limits: DimseLimits) -> None:
        super().__init__(assoc)
        self.daemon = True
        self.limits = limits
        self.work: queue.SimpleQueue[None] = queue.SimpleQueue()  # wakes the association's thread
        self._monitor = threading.RLock()

    def send_pdu(self, primitive: _PDUPrimitiveType) -> None:
        """Act on a local request now, in the caller's thread."""
        with self._monitor:
            super().send_pdu(primitive)
            while self._process_recv_primitive():
                request = self.to_provider_queue.queue[0]
                self._act()
                if self.to_provider_queue.queue and self.to_provider_queue.queue[0] is request:
                    self.to_provider_queue.get(False)  # the state it came too late for left it
            self._idle_timer.restart()

    def send_data(self, pdus: bytes) -> None:
        """Send whole P-DATA-TF PDUs: action DT-1 (PS3.8 9.2.3), many at once and without objects."""
        with self._monitor:
            if self.state_machine.current_state in _MAY_SEND_DATA:
                cast(Wire, self.socket).send(pdus)
                self._idle_timer.restart()
                self._act()

    def _act(self) -> None:
        """Let the state machine take every waiting event."""
        with self._monitor:
            while not self.event_queue.empty():
                event = self.event_queue.get(False)
                # An event without a transition met a connection that ended meanwhile.
                if (event, self.state_machine.current_state) in TRANSITION_TABLE:
                    self.state_machine.do_action(event)

    def run_reactor(self) -> None:
        """The thread's main function. It ends with the socket closed and the association awake."""
        self._idle_timer.start()
        self.assoc._dul_ready.set()
        wire = cast(Wire, self.socket)
        try:
            self._act()
            while not self._kill_thread:
                self._turn(wire)
        finally:
            wire.close()
            self.to_user_queue.put(None)  # who waits for an answer learns that none will come
            self.assoc.dimse.msg_queue.put((None, None))
            self.work.put(None)

    def _turn(self, wire: Wire) -> None:
        """Wait for one thing to happen, act on it, and wake the association if that concerns it."""
        if not wire.is_connected:
            self._kill_thread |= wire.socket is None
        elif wire.is_greeting:
            self._greet(wire)
        elif self.artim_timer.expired:
            # The standard would close without a word (AA-2); an A-ABORT tells the peer why.
            event = "Evt19" if self.state_machine.current_state == "Sta2" else "Evt18"
            self.event_queue.put(event)
        elif self.state_machine.current_state == "Sta13":
            wire.farewell()
        else:
            self._listen(wire)
        self._act()
        has_news = self.assoc.dimse.msg_queue.qsize() or self.to_user_queue.qsize()
        if has_news or self.idle_timer_expired():
            self.work.put(None)

    def _greet(self, wire: Wire) -> None:
        """Go on with the handshake for a tick; its failure is event 17, and a matter of security."""
        try:
            wire.greet(time.monotonic() + TICK_S)
        except (OSError, EOFError) as error:
            reason = reasons.of_connection(error)
            log.warning("security: %s: %s", self.assoc.name, reason)
            cast(PeerAssociation, self.assoc).trouble = reason
            self.event_queue.put("Evt17")

    def _listen(self, wire: Wire) -> None:
        """Read one PDU if one begins within a tick, and its answers do not pile up here."""
        if not cast(PeerAssociation, self.assoc).dimse.has_room(TICK_S):
            return
        try:
            if wire.begins(time.monotonic() + TICK_S):
                self._read_pdu_data()
                self._idle_timer.restart()
        except (OSError, EOFError) as error:
            wire.lost(error)

    def _read_pdu_data(self) -> None:
        """Read one PDU and queue its event; what is refused becomes event 19, an A-ABORT."""
        try:
            kind, pdu = cast(Wire, self.socket).read_pdu(self.limits)
            decoded, event = self._decoded(kind, pdu)
        except Refused as refusal:
            log.warning("association aborted: %s", refusal, extra={"facts": refusal.facts})
            self._blame(refusal.message)
        except MALFORMED as error:
            log.warning("association aborted: a PDU is malformed (%s)", type(error).__name__)
            self._blame("a PDU is malformed")
        except (OSError, EOFError) as error:
            cast(Wire, self.socket).lost(error)
        else:
            cast(PeerAssociation, self.assoc).trouble = _trouble_in(decoded)
            self._recv_pdu.put(decoded)
            self.event_queue.put(event)

    def _blame(self, reason: str) -> None:
        """The peer broke a rule: event 19, an A-ABORT."""
        cast(PeerAssociation, self.assoc).trouble = reasons.of_breach(reason)
        self.event_queue.put("Evt19")

    def _decoded(self, kind: int, pdu: bytearray) -> tuple[_PDUType, str]:
        """The PDU and the state machine's event for it. Raises Refused, or one of MALFORMED."""
        view = memoryview(pdu)
        pdu_class, event = _PDU_TYPES[bytes(view[:1])]
        if kind == messages.P_DATA:
            return DataPdu(view), event
        if kind in (messages.ASSOCIATE_RQ, messages.ASSOCIATE_AC):
            messages.check_associate(view[_HEADER.size :])
        decoded = pdu_class()
        decoded.decode(bytes(pdu))
        primitive = decoded.to_primitive()  # so that a value it cannot hold is found here
        if kind == messages.ASSOCIATE_RQ:
            _check_contexts(cast(A_ASSOCIATE, primitive).presentation_context_definition_list)
        return decoded, event

    def stop_dul(self) -> bool:
        """Ask the thread to end if the connection has, and wait a moment for it."""
        if self.state_machine.current_state == "Sta1":
            self._kill_thread = True
        if threading.current_thread() is not self:
            self.join(TICK_S)
        return not self.is_alive()


def _trouble_in(pdu: _PDUType) -> str:
    """What a PDU that ends an association says; empty for any other.

    A rejection is read here since pynetdicom takes one that comes at once for a failed connection.
    """
    if isinstance(pdu, A_ASSOCIATE_RJ):
        return reasons.of_rejection(pdu.source or 0, pdu.reason_diagnostic or 0)
    return reasons.ABORTED if isinstance(pdu, A_ABORT_RQ) else ""


def _check_contexts(contexts: Sequence[PresentationContext]) -> None:
    """Refuse presentation contexts that negotiation could not answer one by one (PS3.8 9.3.2.2)."""
    numbers = Counter(context.context_id for context in contexts)
    if not 1 <= len(contexts) <= messages.CONTEXTS_MAX or max(numbers.values()) > 1:
        raise Refused("presentation contexts are missing, too many or not distinct")
    if not all(context.abstract_syntax and context.transfer_syntax for context in contexts):
        raise Refused("a presentation context lacks its abstract or transfer syntax")


class Messages(DIMSEServiceProvider):
    """Joins fragments to messages and checks them before pynetdicom builds anything of them.

    C-STORE, the message that comes and goes a thousand times a second, is coded here without a
    pydicom data set for its command. All others go through pynetdicom's own coding.
    """

    def __init__(self, assoc: PeerAssociation, limits: DimseLimits) -> None:
        super().__init__(assoc)
        self._assembler = messages.Assembler(limits.data_set_bytes_max, limits.spool)
        self._sending = threading.Lock()  # two threads may send, but one message after the other
        self.asked: tuple[int, int] | None = None  # what an answer must have: its field, and number

    @property
    def is_receiving(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._assembler.is_receiving

    def has_room(self, within_s: float) -> bool:
        """Whether more may be read. A peer that answers faster than we heed it is held back so."""
        waiting = self.msg_queue
        with waiting.not_full:  # which the queue notifies whenever something is taken from it
            return waiting.not_full.wait_for(
                lambda: len(waiting.queue) < REPLIES_WAITING_MAX, within_s
            )

    def discard(self) -> None:
        """Give back what data sets hold that nobody will be asked for any more."""
        self._assembler.close()
        with suppress(queue.Empty):
            while True:
                _, waiting = self.msg_queue.get(False)
                if isinstance(waiting, StoreRequest) and waiting.spool is not None:
                    waiting.spool.close()
        self.msg_queue.put((None, None))  # who waits for an answer learns that none will come

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the values of one P-DATA-TF; a broken rule is event 19, an A-ABORT."""
        try:
            for pdv in cast(DataIndication, primitive).values:
                self._receive(pdv)
        except Refused as refusal:
            log.warning("association aborted: %s", refusal, extra={"facts": refusal.facts})
            cast(UpperLayer, self.dul)._blame(refusal.message)
        except MALFORMED as error:
            log.warning("association aborted: a command is malformed (%s)", type(error).__name__)
            cast(UpperLayer, self.dul)._blame("a command is malformed")

    def _receive(self, pdv: messages.Pdv) -> None:
        if pdv.context_id not in self.assoc._accepted_cx:
            raise Refused("a presentation context was not accepted", context=pdv.context_id)
        message = self._assembler.add(pdv)
        if message is None:
            return
        field = messages.number(message.command, messages.COMMAND_FIELD)
        if field in _REPLIES:
            self._receive_reply(message, field)
            return
        if self.msg_queue.qsize() >= REQUESTS_WAITING_MAX:
            raise Refused("requests come without waiting for answers", max=REQUESTS_WAITING_MAX)
        if field == messages.C_STORE_RQ:
            self.msg_queue.put((message.context_id, _store_request(message)))
            return
        if field == messages.C_STORE_RSP:
            self.msg_queue.put((message.context_id, _store_response(message)))
            return
        if field == messages.N_EVENT_REPORT_RQ:  # pynetdicom would start a thread for each
            self.msg_queue.put((message.context_id, _event_report(message)))
            return
        if field in (messages.C_FIND_RQ, messages.C_GET_RQ, messages.C_MOVE_RQ):
            # A C-CANCEL that crossed the last response must not end this one of the same number.
            self.cancel_req.clear()
        self._pass_on(message)

    def _receive_reply(self, message: messages.Message, field: int) -> None:
        """Queue an answer to the question that was asked. Raises Refused for any other."""
        if self.asked != (field, messages.number(message.command, messages.RESPONDED_TO)):
            raise Refused("an answer belongs to nothing that was asked")
        reply = messages.read_reply(message)
        self.msg_queue.put((message.context_id, cast(C_FIND, reply)))

    def _pass_on(self, message: messages.Message) -> None:
        """Give pynetdicom a whole message as the two values that it expects at least."""
        command = P_DATA()
        command.presentation_data_value_list.append((message.context_id, b"\3" + message.encoded))
        super().receive_primitive(command)
        if message.data_set is not None:
            cast(DIMSEMessage, self.message).data_set = BytesIO(message.data_set.buffer())
            message.data_set.close()
            end = P_DATA()
            end.presentation_data_value_list.append((message.context_id, b"\2"))
            super().receive_primitive(end)

    def send_msg(self, primitive: DimsePrimitiveType, context_id: int) -> None:
        """Send a message; a C-STORE response without a detour through pydicom."""
        if not (isinstance(primitive, C_STORE) and primitive.MessageIDBeingRespondedTo is not None):
            super().send_msg(primitive, context_id)
            return
        self.send_fragments(context_id, messages.COMMAND, _response(primitive))

    def send_message(self, context_id: int, command: bytes, data_set: Buffer | None) -> None:
        """Send an encoded command set and, if there is one, its data set."""
        with self._sending:
            self.send_fragments(context_id, messages.COMMAND, command)
            if data_set is not None:
                self.send_fragments(context_id, 0, data_set)

    def send_fragments(self, context_id: int, kind: int, whole: Buffer) -> None:
        """Send a command set (`messages.COMMAND`) or a data set (0) as the peer can take it."""
        layer = cast(PeerAssociation, self.assoc).dul
        ours = layer.limits.pdu_bytes_max
        room = min(self.maximum_pdu_size or ours, ours) - messages.PDV_HEADER_BYTES
        step = max(2, room & ~1)  # fragments are of even length (PS3.8 E.1)
        per_batch = max(1, BATCH_BYTES // step) * step
        view = memoryview(whole)
        for start in range(0, max(1, len(view)), per_batch):
            if not self.assoc.is_established:
                return
            end = min(start + per_batch, len(view))
            is_last = end == len(view)
            pieces = messages.data_pdus(context_id, kind, view[start:end], step, is_last=is_last)
            layer.send_data(pieces)
            if len(view) > WINDOW_BYTES:
                forget(view)


class StoreRequest(C_STORE):
    """A C-STORE request whose data set waits in a spool, which may be a file."""

    spool: Spool | None = None


# Judges an instance that came by C-GET in a context: the status and Error Comment of the answer.
OnStore = Callable[[StoreRequest, PresentationContext], tuple[int, str]]


def _store_request(message: messages.Message) -> StoreRequest:
    """pynetdicom's C-STORE primitive for a message (PS3.7 9.3.1.1)."""
    request = StoreRequest()
    request._context_id = message.context_id
    request.MessageID = messages.number(message.command, messages.MESSAGE_ID)
    if request.MessageID is None:
        raise Refused("a C-STORE has no Message ID")
    request.AffectedSOPClassUID = messages.uid(message.command, messages.AFFECTED_CLASS)
    request.AffectedSOPInstanceUID = messages.uid(message.command, messages.AFFECTED_INSTANCE)
    request.spool = message.data_set
    return request


def _store_response(message: messages.Message) -> C_STORE:
    """pynetdicom's C-STORE primitive for the answer to one of ours (PS3.7 9.3.1.2)."""
    response = C_STORE()
    response._context_id = message.context_id
    response.MessageIDBeingRespondedTo = messages.number(message.command, messages.RESPONDED_TO)
    response.Status = messages.number(message.command, messages.STATUS)
    comment = message.command.get(messages.ERROR_COMMENT, b"").decode("ascii", "replace")
    response.ErrorComment = comment_of(comment) or None  # type: ignore[assignment]  # it is text
    return response


def _store_command(
    message_id: int,
    sop_class_uid: str,
    sop_instance_uid: str,
    originator: tuple[str, int] | None,
) -> bytes:
    """The command set of a C-STORE request (PS3.7 9.3.1.1)."""
    elements: list[tuple[int, int | str]] = [
        (messages.AFFECTED_CLASS, sop_class_uid),
        (messages.COMMAND_FIELD, messages.C_STORE_RQ),
        (messages.MESSAGE_ID, message_id),
        (messages.PRIORITY, messages.MEDIUM),
        (messages.DATA_SET_TYPE, messages.WITH_DATA_SET),
        (messages.AFFECTED_INSTANCE, sop_instance_uid),
    ]
    if originator is not None:
        elements.append((messages.MOVE_ORIGINATOR, originator[0]))
        elements.append((messages.MOVE_ORIGINATOR_MESSAGE_ID, originator[1]))
    return messages.write_command(elements)


def _event_report(message: messages.Message) -> N_EVENT_REPORT:
    """pynetdicom's N-EVENT-REPORT primitive for a message (PS3.7 10.3.1.1)."""
    report = N_EVENT_REPORT()
    report._context_id = message.context_id
    report.MessageID = messages.number(message.command, messages.MESSAGE_ID)
    report.AffectedSOPClassUID = messages.uid(message.command, messages.AFFECTED_CLASS)
    report.AffectedSOPInstanceUID = messages.uid(message.command, messages.AFFECTED_INSTANCE)
    report.EventTypeID = messages.number(message.command, messages.EVENT_TYPE)
    if message.data_set is not None:
        report.EventInformation = BytesIO(message.data_set.buffer())
    if not report.is_valid_request:
        raise Refused("an N-EVENT-REPORT lacks a mandatory element")
    return report


def _response(primitive: C_STORE) -> bytes:
    """The command set of a C-STORE response (PS3.7 9.3.1.2)."""
    elements: list[tuple[int, int | str | None]] = [
        (messages.AFFECTED_CLASS, primitive.AffectedSOPClassUID),
        (messages.COMMAND_FIELD, messages.C_STORE_RSP),
        (messages.RESPONDED_TO, primitive.MessageIDBeingRespondedTo),
        (messages.DATA_SET_TYPE, messages.NO_DATA_SET),
        (messages.STATUS, primitive.Status),
        (messages.ERROR_COMMENT, primitive.ErrorComment),
        (messages.AFFECTED_INSTANCE, primitive.AffectedSOPInstanceUID),
    ]
    return messages.write_command((tag, value) for tag, value in elements if value is not None)


# What answers a question of ours.
_REPLIES: Final = frozenset((messages.C_FIND_RSP, messages.C_GET_RSP, messages.C_MOVE_RSP))


# The requests whose handlers yield `messages.Answer`s: their event, the Command Field of a response,
# and the status of what our own code did not foresee.
_ANSWERED: Final[Mapping[type, tuple[evt.InterventionEvent, int, int]]] = {
    C_FIND: (evt.EVT_C_FIND, messages.C_FIND_RSP, 0xC311),
    C_GET: (evt.EVT_C_GET, messages.C_GET_RSP, 0xC411),
    C_MOVE: (evt.EVT_C_MOVE, messages.C_MOVE_RSP, 0xC511),
}


class PeerAssociation(Association):
    """An association whose threads sleep until there is work."""

    def __init__(self, ae: ApplicationEntity, mode: str, limits: DimseLimits) -> None:
        super().__init__(ae, mode)
        self.dul: UpperLayer = UpperLayer(self, limits)
        self.dimse: Messages = Messages(self, limits)
        # These two setters also set the timers of the layer, which is a new one now.
        self.acse_timeout = ae.acse_timeout
        self.network_timeout = ae.network_timeout
        self._message_id = 0
        self.actor = NOBODY
        self.trouble = ""  # what ended it before its time, in plain words
        self.is_serving = False
        self.is_over_the_cap = False
        self.on_end: Callable[[PeerAssociation], None] = _nothing

    @property
    def is_busy(self) -> bool:
        """Whether a request is being received or served."""
        return self.is_serving or self.dimse.is_receiving

    @property
    def is_standing(self) -> bool:
        """Whether what is sent now can still arrive."""
        return self.is_established and self.dul.state_machine.current_state == "Sta6"

    def is_cancelled(self, message_id: int) -> bool:
        """Whether the peer has sent a C-CANCEL for a request (PS3.7 9.3.2.3)."""
        return message_id in self.dimse.cancel_req

    @property
    def quiet_s(self) -> float:
        """Seconds since the last PDU either way."""
        timer = self.dul._idle_timer
        return (timer.timeout or 0.0) - timer.remaining

    def dismiss(self) -> None:
        """Abort without waiting; a peer that has not yet asked for an association is cut off."""
        if self.is_established:
            self.abort(block=False)
        else:
            self.dul.kill_dul()

    def run_reactor(self) -> None:
        """The thread's main function. However it ends, its slot comes back."""
        try:
            super().run_reactor()
        finally:
            self.dul.kill_dul()
            cast(Wire, self.dul.socket).close()
            if self.dul.is_alive():
                self.dul.join(TICK_S)
            self.dimse.discard()
            self.on_end(self)

    def _run_reactor(self) -> None:
        """Serve requests one after another until the association ends.

        While one of the `send_*` methods waits for its response, `_reactor_checkpoint` is closed
        and `_is_paused` tells it that this thread will not take the response away.
        """
        while not self._kill:
            self._is_paused = True
            self.dul.work.get()
            self._reactor_checkpoint.wait()
            self._is_paused = False
            if not self._reactor_checkpoint.is_set():
                self.dul.work.put(None)  # closed between the two lines: the work stays to be done
                continue
            context_id, message = self.dimse.get_msg(block=False)
            if message is not None:
                self._serve_request(message, cast(int, context_id))
                self.dul.work.put(None)  # another may have come with it
            elif self._has_ended():
                self.kill()

    def _has_ended(self) -> bool:
        """Whether the peer or a timer ended the association; if so, the last words are said."""
        if self.is_established and self.acse.is_release_requested():
            self.acse.send_release(is_response=True)
            self.is_released = True
            self.is_established = False
            evt.trigger(self, evt.EVT_RELEASED, {})
            return True
        if self.acse.is_aborted():
            self.dul.receive_pdu(wait=False)
            self.is_aborted = True
            self.is_established = False
            evt.trigger(self, evt.EVT_ABORTED, {})
            return True
        if self.dul.idle_timer_expired():
            log.warning("association aborted: idle for %s s", self.network_timeout)
            self.trouble = "it was silent for too long"
            self.abort(block=False)
            return True
        return not self.dul.is_alive()

    def store(
        self,
        context_id: int,
        sop_class_uid: str,
        sop_instance_uid: str,
        data_set: Buffer,
        originator: tuple[str, int] | None = None,
    ) -> tuple[int, str]:
        """C-STORE one data set as it is, as SCU; the peer's status and Error Comment.

        `originator` is the AE title that asked for it by C-MOVE, and the Message ID it asked with.
        Raises Unreachable if the association ends before the answer, which leaves open whether the
        peer has the instance: sending it again is right.
        """
        with self._conversation() as message_id:
            command = _store_command(message_id, sop_class_uid, sop_instance_uid, originator)
            response = self._answer_to(context_id, command, data_set)
        if not isinstance(response, C_STORE) or response.Status is None:
            self.abort()
            raise Unreachable("the association ended before the answer came")
        return response.Status, cast("str | None", response.ErrorComment) or ""

    def report_event(
        self,
        context_id: int,
        sop_class_uid: str,
        sop_instance_uid: str,
        event_type: int,
        information: Buffer,
    ) -> int:
        """N-EVENT-REPORT what happened, as SCP; the peer's status (PS3.7 10.1.1).

        Raises Unreachable if the association ends before the answer.
        """
        with self._conversation() as message_id:
            elements: list[tuple[int, int | str]] = [
                (messages.AFFECTED_CLASS, sop_class_uid),
                (messages.COMMAND_FIELD, messages.N_EVENT_REPORT_RQ),
                (messages.MESSAGE_ID, message_id),
                (messages.DATA_SET_TYPE, messages.WITH_DATA_SET),
                (messages.AFFECTED_INSTANCE, sop_instance_uid),
                (messages.EVENT_TYPE, event_type),
            ]
            command = messages.write_command(elements)
            response = self._answer_to(context_id, command, information)
        if not isinstance(response, N_EVENT_REPORT) or response.Status is None:
            self.abort()
            raise Unreachable("the association ended before the answer came")
        return response.Status

    def exchange(self, request: Normalised, context_id: int) -> Normalised:
        """Send a request of a normalised service (PS3.7 clause 10), as SCU; the response.

        Requests of the peer that come before it are served. Raises Unreachable if the association
        ends before the response.
        """
        with self._conversation() as message_id:
            self._finish_serving()
            request.MessageID = message_id
            self.dimse.send_msg(request, context_id)
            for _ in range(REQUESTS_WAITING_MAX):
                number, message = self.dimse.get_msg(block=True)
                if message is None or message.MessageIDBeingRespondedTo is not None:
                    break
                self._serve_request(message, cast(int, number))
                self._is_paused = True  # as the reactor left it
        if type(message) is not type(request) or message.MessageIDBeingRespondedTo is None:
            self.abort()
            raise Unreachable(self.trouble or "the association ended before the answer came")
        return message

    def release(self) -> None:
        """Release the association, once the peer has the answer to what it asked meanwhile."""
        self._finish_serving()
        super().release()

    def _finish_serving(self) -> None:
        """Wait for the reactor to answer the request that it is serving."""
        assert threading.current_thread() is not self, "a handler would wait for itself"
        while self.is_serving and not self._kill:
            time.sleep(PAUSE_STEP_S)

    def _answer_to(self, context_id: int, command: bytes, data_set: Buffer) -> object:
        """Send a request; its response, None without one."""
        self.dimse.send_message(context_id, command, data_set)
        return self.dimse.get_msg(block=True)[1]

    @contextmanager
    def _conversation(self) -> Iterator[int]:
        """Keep what the peer says for the caller's thread; the Message ID to ask under.

        Raises Unreachable where the association has ended.
        """
        self._message_id = self._message_id % MESSAGE_IDS + 1
        self._reactor_checkpoint.clear()
        try:
            while not self._is_paused:
                if self._kill:  # a reactor that has ended never pauses
                    raise Unreachable("the association has ended")
                time.sleep(PAUSE_STEP_S)
            yield self._message_id
        finally:
            self._reactor_checkpoint.set()

    def ask(
        self, context_id: int, question: messages.Question, on_store: OnStore | None = None
    ) -> Generator[messages.Reply, None, None]:
        """Ask as SCU; each response until the last one.

        What a C-GET sends on this association goes to `on_store`, which gives status and comment.
        A caller that stops early aborts the association. Raises Unreachable if it ends before the
        last response does.
        """
        is_over = False
        with self._conversation() as message_id:
            self.dimse.asked = (question.field | messages.RESPONSE, message_id)
            try:
                self.dimse.send_message(
                    context_id, question.command(message_id), question.identifier
                )
                while not is_over:
                    reply = self._next_reply(on_store)
                    is_over = reply is not None and not is_pending(reply.status)
                    if reply is not None:
                        yield reply
            finally:
                self.dimse.asked = None
                if not is_over:
                    self.abort(block=False)

    def _next_reply(self, on_store: OnStore | None) -> messages.Reply | None:
        """The next response; None where an instance came instead. Raises Unreachable."""
        context_id, message = cast("tuple[int | None, object]", self.dimse.get_msg(block=True))
        if isinstance(message, messages.Reply):
            return message
        if isinstance(message, StoreRequest) and on_store is not None and context_id is not None:
            self._take(message, context_id, on_store)
            return None
        raise Unreachable(self.trouble or "the association ended before the answer came")

    def _take(self, request: StoreRequest, context_id: int, on_store: OnStore) -> None:
        """Have an instance judged that came by C-GET, and answer for it."""
        try:
            status, comment = on_store(request, self._accepted_cx[context_id])
        finally:
            if request.spool is not None:
                request.spool.close()
        response = C_STORE()
        response.MessageIDBeingRespondedTo = request.MessageID
        response.AffectedSOPClassUID = request.AffectedSOPClassUID
        response.AffectedSOPInstanceUID = request.AffectedSOPInstanceUID
        response.Status = status
        response.ErrorComment = comment_of(comment) or None  # type: ignore[assignment]  # it is text
        self.dimse.send_msg(response, context_id)

    def cancel(self, context_id: int) -> None:
        """Send a C-CANCEL for what was asked last; its answers go on until the peer heeds it."""
        self.dimse.send_message(context_id, messages.cancellation(self._message_id), None)

    def _serve_request(self, msg: DimseServiceType, context_id: int) -> None:
        """Hand a request to its service; C-STORE to storage, whatever its SOP class."""
        if isinstance(cast(object, msg), messages.Reply):
            return  # it answers a question that its asker has given up
        self.is_serving = True
        try:
            if isinstance(msg, C_STORE) and self.is_acceptor:
                StorageServiceClass(self).SCP(msg, self._accepted_cx[context_id])
            elif isinstance(msg, C_FIND | C_GET | C_MOVE) and self.is_acceptor:
                self._answer(msg, context_id)
            else:
                super()._serve_request(msg, context_id)
        finally:
            self.is_serving = False
            if isinstance(msg, StoreRequest) and msg.spool is not None:
                msg.spool.close()

    def _answer(self, request: C_FIND | C_GET | C_MOVE, context_id: int) -> None:
        """Send what the handler of a C-FIND, C-GET or C-MOVE yields, until it or the peer ends."""
        if not request.is_valid_request:
            log.warning("a request without its mandatory elements is not answered")
            return
        event, field, unforeseen = _ANSWERED[type(request)]
        self._is_paused = True  # so that C-GET may store on this association meanwhile
        apology = type(request)()
        apology.MessageIDBeingRespondedTo = request.MessageID
        apology.AffectedSOPClassUID = request.AffectedSOPClassUID
        about = {"request": request, "context": self._accepted_cx[context_id].as_tuple}
        with attempt(apology, self.dimse, context_id) as tried:
            tried.error_msg, tried.error_status = f"{event.name} failed", unforeseen
            yielded = cast(Generator[messages.Answer, None, None], evt.trigger(self, event, about))
            with closing(yielded) as answers:
                for answer in answers:
                    if not self.is_standing:
                        return
                    command = answer.command(
                        field, str(request.AffectedSOPClassUID), cast(int, request.MessageID)
                    )
                    self.dimse.send_message(context_id, command, answer.identifier or None)


def _nothing(_: PeerAssociation) -> None:
    """Nobody asked to hear of the end of an association."""


class Doorkeeper(RequestHandler):
    """Makes an association of a connection that was accepted."""

    server: Listener

    def handle(self) -> None:
        """Start the association; without a thread for it, its slot comes back at once."""
        association = self._create_association()
        try:
            association.start()
        except RuntimeError:
            association.on_end(association)
            raise

    def _create_association(self) -> PeerAssociation:
        server = self.server
        association = PeerAssociation(self.ae, MODE_ACCEPTOR, server.limits)
        association._server = server
        association.name = f"association {self.client_address[0]}:{self.client_address[1]}"
        association.set_socket(server.wire(association, client_socket=self.request))
        association.acceptor.maximum_length = self.ae.maximum_pdu_size
        association.acceptor.ae_title = server.ae_title
        association.acceptor.address_info = self.local
        association.requestor.address_info = self.remote
        for event, bound in server._handlers.items():
            pairs = bound if isinstance(bound, list) else [bound]  # many for a notification
            for handler, arguments in pairs:
                association.bind(event, handler, arguments)
        server.admit(association, self.client_address[0])
        return association


class Listener(AssociationServer):
    """Accepts connections at a door and counts them, in all and per address."""

    def __init__(
        self,
        ae: ApplicationEntity,
        door: Door,
        limits: DimseLimits,
        handlers: list[evt.EventHandlerType],
        on_end: Callable[[PeerAssociation], None] = _nothing,
        wire: Callable[..., Wire] = Wire,
    ) -> None:
        self.limits = limits
        self.wire = wire
        self._door = door
        self._on_end = on_end
        self._lock = threading.Lock()
        self._slots: dict[PeerAssociation, int | None] = {}
        door.ledger.clear()
        super().__init__(
            ae,
            door.socket.getsockname()[:2],
            ae.ae_title,
            [],
            evt_handlers=handlers,
            request_handler=Doorkeeper,
        )
        self._thread = threading.Thread(
            target=self.serve_forever, args=(STOP_STEP_S,), name="DIMSE listener", daemon=True
        )

    def server_bind(self) -> None:
        """Take the door's socket, which is bound already, in place of one that is not."""
        assert self.socket is not None
        self.socket.close()
        self.socket = self._door.socket
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """The door is listening already."""

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection, after a moment in which a receiver with less to do may have it."""
        if not self._door.ledger.is_lightest:
            time.sleep(YIELD_S)
        return super().get_request()

    @property
    def active_associations(self) -> list[PeerAssociation]:  # type: ignore[override]  # ours
        """The associations that hold a slot, and those being refused one."""
        with self._lock:
            return list(self._slots)

    def admit(self, association: PeerAssociation, address: str) -> None:
        """Count an association until its thread ends, and note whether it is one too many."""
        slot = self._door.ledger.take(
            address,
            in_all_max=self.limits.associations_max,
            per_address_max=self.limits.associations_per_address_max,
        )
        association.is_over_the_cap = slot is None
        with self._lock:
            self._slots[association] = slot
        association.on_end = self._forget

    def _forget(self, association: PeerAssociation) -> None:
        with self._lock:
            slot = self._slots.pop(association, None)
        if slot is not None:
            self._door.ledger.give_back(slot)
        self._on_end(association)

    def verify_request(self, _request: object, _client_address: object) -> bool:
        """Whether a connection is answered at all: a flood beyond the cap is closed unread."""
        return len(self.active_associations) < self.limits.associations_max + REFUSALS_MAX

    def handle_error(self, _request: object, client_address: object) -> None:
        """A connection that failed before its association began is closed; the others go on."""
        log.exception("a connection from %s failed", client_address)

    def service_actions(self) -> None:
        """pynetdicom collects garbage here, and stops the world; the collector needs no help."""

    @property
    def port(self) -> int:
        """The port that is bound: the one asked for, or the one the system chose for 0."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Accept connections, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Accept no more connections and free the port."""
        if self._thread.is_alive():
            super(AssociationServer, self).shutdown()
            self._thread.join()
        self.server_close()


def associate(
    ae: ApplicationEntity,
    address: tuple[str, int],
    called_ae_title: str,
    contexts: Iterable[tuple[str, ...]],
    limits: DimseLimits,
    wire: Callable[..., Wire] = Wire,
    *,
    scp_of: Iterable[str] = (),
    handlers: Iterable[evt.EventHandlerType] = (),
) -> PeerAssociation:
    """Request an association; a SOP class with its transfer syntaxes becomes one context.

    Of the classes in `scp_of` we propose to be the SCP (PS3.7 D.3.3.4). `handlers` answer what the
    peer asks of us.

    The association returned is established, or says by its flags and its `acceptor.primitive` why
    not. Its peer is waited for as long as ae's time-outs say.
    """
    local, remote = AddressInformation("", 0), AddressInformation(*address)
    if remote.is_ipv6:
        local = AddressInformation("::0", 0)
    association = PeerAssociation(ae, MODE_REQUESTOR, limits)
    association.name = f"association to {address[0]}:{address[1]}"
    association.set_socket(wire(association, address=local))
    association.acceptor.ae_title = called_ae_title
    association.acceptor.address_info = remote
    association.requestor.ae_title = ae.ae_title
    association.requestor.address_info = local
    association.requestor.maximum_length = limits.pdu_bytes_max
    association.requestor.requested_contexts = _numbered(contexts)
    for sop_class_uid in scp_of:
        association.requestor.add_negotiation_item(build_role(sop_class_uid, scp_role=True))
    for event, handler, *arguments in handlers:
        association.bind(event, handler, *arguments)
    association.request()
    if association.is_established:
        association.start()
    return association


def _numbered(contexts: Iterable[tuple[str, ...]]) -> list[PresentationContext]:
    proposed = []
    for number, (sop_class_uid, *transfer_syntax_uids) in enumerate(contexts):
        context = PresentationContext()
        context.context_id = 2 * number + 1
        context.abstract_syntax = sop_class_uid
        context.transfer_syntax = [UID(one) for one in transfer_syntax_uids]
        proposed.append(context)
    return proposed
