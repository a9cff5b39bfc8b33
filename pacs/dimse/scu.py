"""Our side as requestor: files out by C-STORE, their data sets exactly as they lie on disk.

A file is proposed with its own SOP class and its own transfer syntax alone, so nothing is ever
decoded or converted on the way. Whatever is wrong with one file is that file's outcome; the others
are sent.
"""

from __future__ import annotations

import mmap
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from pynetdicom import evt

from pacs import peers
from pacs.dicom import uids
from pacs.dicom.part10 import IMPLICIT_VR_LITTLE_ENDIAN, Buffer, Part10, read_part10, scan
from pacs.dimse import reasons
from pacs.dimse.entity import VERIFICATION, application_entity
from pacs.dimse.messages import CONTEXTS_MAX
from pacs.dimse.status import SUCCESS
from pacs.dimse.tls import Credentials, SecureWire
from pacs.dimse.upper_layer import DimseLimits, PeerAssociation, Wire, associate
from pacs.errors import BadObject, NodeError, Unreachable

ZIP_MEMBERS_MAX: Final = 1_000_000  # of one zip archive; one with more is not opened
ZIP_MEMBER_BYTES_MAX: Final = 1 << 31  # uncompressed; a larger member is not sent
ANSWER_S: Final = 120.0  # a peer that has not answered a C-STORE by then is gone
CONNECTION_S: Final = 10.0
TRIES: Final = 2  # a line that breaks is opened again once

WARNINGS: Final = frozenset({0xB000, 0xB006, 0xB007})  # stored all the same (PS3.4 B.2.3)

_ZIP_ERRORS: Final = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError)


@dataclass(frozen=True, slots=True)
class Peer:
    """Where instances are sent, and who we say we are."""

    host: str
    port: int
    called_ae_title: str = "ISOCENTER"
    calling_ae_title: str = "ISOCENTER"
    tls: Credentials | None = None  # None: in the clear

    @classmethod
    def listed(cls, peer: peers.Peer, calling_ae_title: str, credentials: Credentials) -> Peer:
        """A listed peer, called by TLS with these credentials if that is how it is called."""
        tls = credentials if peer.tls else None
        return cls(peer.host, peer.port, peer.ae_title, calling_ae_title, tls)


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or a member of a zip archive. A member's name is only shown, never used as a path."""

    path: Path
    member: str = ""

    @property
    def label(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """What became of one source: the peer's status and comment, or no status and our reason."""

    label: str
    status: int | None
    comment: str = ""

    @property
    def is_stored(self) -> bool:
        """Whether the peer has the instance now, be it with a warning."""
        return self.status == 0 or self.status in WARNINGS


class _Context(NamedTuple):
    sop_class_uid: str
    transfer_syntax_uid: str


class _Instance(NamedTuple):
    source: Source
    context: _Context
    sop_instance_uid: str


class NothingAccepted(Unreachable):
    """It accepts none of the SOP classes and transfer syntaxes, and will not before it is changed."""


def find(paths: Iterable[Path]) -> Iterator[Source]:
    """Every file below the paths, in order; zip archives are replaced by their members.

    Hidden files and DICOMDIRs are left out: they lie beside instances but are none.
    """
    for path in paths:
        if path.is_dir():
            yield from (source for entry in _files_below(path) for source in _opened(entry))
        else:
            yield from _opened(path)


def _files_below(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.rglob("*")):
        if entry.is_file() and not entry.name.startswith(".") and entry.name != "DICOMDIR":
            yield entry


def _opened(path: Path) -> Iterator[Source]:
    try:
        members = _members(path)
    except _ZIP_ERRORS:
        members = []
    if members:
        yield from (Source(path, name) for name in members)
    else:
        yield Source(path)  # what cannot be opened fails when it is read, with its reason


def _members(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if len(entries) > ZIP_MEMBERS_MAX:
        return []
    return [entry.filename for entry in entries if not entry.is_dir()]


def send(sources: Iterable[Source], peer: Peer) -> Iterator[SendOutcome]:
    """Send instances; one outcome per source, those that cannot be read first.

    All headers are read before the first association, since it must name every SOP class and
    transfer syntax. More than 128 such pairs make more associations.
    """
    instances = []
    for source in sources:
        try:
            instances.append(_examined(source))
        except NodeError as error:
            yield SendOutcome(source.label, None, error.message)
    contexts = list(dict.fromkeys(instance.context for instance in instances))
    for start in range(0, len(contexts), CONTEXTS_MAX):
        proposed = contexts[start : start + CONTEXTS_MAX]
        wanted = set(proposed)
        with _Line(peer, proposed) as line:
            for instance in instances:
                if instance.context in wanted:
                    yield line.store(instance)


def _examined(source: Source) -> _Instance:
    """What must be known of a source before it is sent. Raises BadObject."""
    part10 = read_part10(content(source))
    sop_class_uid, sop_instance_uid = _identity(part10)
    context = _Context(sop_class_uid, part10.transfer_syntax_uid)
    if not (uids.is_valid(sop_class_uid) and uids.is_valid(sop_instance_uid)):
        raise BadObject("the SOP class or instance UID is missing or invalid")
    return _Instance(source, context, sop_instance_uid)


def _identity(part10: Part10) -> tuple[str, str]:
    """SOP class and instance UID: of the meta group, or of the data set where that is silent."""
    if part10.sop_class_uid and part10.sop_instance_uid:
        return part10.sop_class_uid, part10.sop_instance_uid
    scanned = scan(part10.data_set, part10.transfer_syntax_uid)
    return scanned.text("SOPClassUID"), scanned.text("SOPInstanceUID")


def content(source: Source) -> Buffer:
    """The bytes of a source. Raises BadObject where they cannot be had."""
    return _member_bytes(source) if source.member else _mapped(source.path)


def _mapped(path: Path) -> Buffer:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise BadObject("the file is empty") from error
    except OSError as error:
        raise BadObject("the file cannot be read") from error


def _member_bytes(source: Source) -> bytes:
    try:
        with zipfile.ZipFile(source.path) as archive, archive.open(source.member) as member:
            content = member.read(ZIP_MEMBER_BYTES_MAX + 1)
    except (*_ZIP_ERRORS, KeyError) as error:
        raise BadObject("the member of the zip archive cannot be read") from error
    if len(content) > ZIP_MEMBER_BYTES_MAX:
        raise BadObject("the member of the zip archive is too large")
    return content


class _Line:
    """Associations to one peer for one list of contexts, one after the other."""

    def __init__(self, peer: Peer, contexts: list[_Context]) -> None:
        self._peer = peer
        self._contexts = contexts
        self._association: PeerAssociation | None = None
        self._accepted: dict[_Context, int] = {}
        self._given_up = ""  # why no further association is tried

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        if self._association is not None:
            self._association.release()

    def store(self, instance: _Instance) -> SendOutcome:
        """Send one instance; if the line breaks, once more on a new one."""
        reason = self._given_up
        for _ in range(0 if reason else TRIES):
            try:
                return self._try(instance)
            except Unreachable as error:
                self._association, reason = None, error.message
            except NodeError as error:
                return SendOutcome(instance.source.label, None, error.message)
        return SendOutcome(instance.source.label, None, reason)

    def _try(self, instance: _Instance) -> SendOutcome:
        association = self._association or self._associated()
        context_id = self._accepted.get(instance.context)
        if context_id is None:
            reason = "the peer accepts no such SOP class with this transfer syntax"
            return SendOutcome(instance.source.label, None, reason)
        status, comment = association.store(
            context_id,
            instance.context.sop_class_uid,
            instance.sop_instance_uid,
            read_part10(content(instance.source)).data_set,
        )
        return SendOutcome(instance.source.label, status, comment)

    def _associated(self) -> PeerAssociation:
        """A new association. Raises Unreachable; the peer is not asked again then."""
        try:
            association = associated(self._peer, self._contexts)
        except Unreachable as error:
            self._given_up = error.message
            raise
        self._accepted = {
            _Context(str(accepted.abstract_syntax), str(accepted.transfer_syntax[0])): number
            for accepted in association.accepted_contexts
            if (number := accepted.context_id) is not None
        }
        self._association = association
        return association


def associated(
    peer: Peer,
    contexts: Iterable[tuple[str, ...]],
    scp_of: Iterable[str] = (),
    spool: Path | None = None,
    *,
    handlers: Iterable[evt.EventHandlerType] = (),
    answer_s: float | None = None,
) -> PeerAssociation:
    """An association with a peer: each context a SOP class and its transfer syntaxes.

    `scp_of` and `handlers` are those of `associate`; long data sets that come wait in `spool`, and
    an answer is waited for as long as `answer_s`, by default ANSWER_S.

    Raises Unreachable with the reason in plain words, in which "it" is the peer, and Broken where
    our own credentials are of no use.
    """
    limits = replace(DimseLimits(), spool=spool)
    wire: Callable[..., Wire] = Wire
    if peer.tls is not None:
        wire = partial(SecureWire, context=peer.tls.calling(), host=peer.host)
    ae = application_entity(peer.calling_ae_title, limits)
    ae.dimse_timeout, ae.network_timeout = answer_s or ANSWER_S, None
    ae.connection_timeout = CONNECTION_S
    try:
        address = (peer.host, peer.port)
        association = associate(
            *(ae, address, peer.called_ae_title, contexts, limits, wire),
            scp_of=scp_of,
            handlers=handlers,
        )
    except (OSError, UnicodeError) as error:
        raise Unreachable(reasons.UNKNOWN_HOST) from error
    if not association.is_established:
        if association.rejected_contexts and not association.accepted_contexts:
            raise NothingAccepted(reasons.NOTHING_IN_COMMON)
        raise Unreachable(association.trouble or reasons.NO_ANSWER)
    return association


def echo(peer: Peer) -> None:
    """Ask a peer whether it is there (C-ECHO, PS3.4 A.4); return if it answers with success.

    Raises Unreachable with the reason in plain words; "it" is the peer.
    """
    association = associated(peer, [(VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN)])
    status = association.send_c_echo().get("Status")
    if association.is_established:
        association.release()
    if status is None:
        raise Unreachable(association.trouble or "it did not answer the C-ECHO in time")
    if status != SUCCESS:
        raise Unreachable(f"it answers C-ECHO with status {status:04X}")
