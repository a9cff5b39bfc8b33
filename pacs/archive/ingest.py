"""Taking an instance in: check, keep, commit. Success may be said only after the last.

`examine` reads and judges before any byte is kept; `Ingest.keep` puts the bytes, and `enter` makes
the row, its audit and what follows from them in one transaction. A put whose row is then refused
is taken back, so a refusal leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from pacs.access import Actor
from pacs.archive.values import Duplicates, Incoming, Outcome, Stored
from pacs.dicom import uids
from pacs.dicom.attributes import Level
from pacs.dicom.frames import frame_table
from pacs.dicom.mapped import windows
from pacs.dicom.part10 import Buffer, Scan, preamble_and_meta, read_part10, scan
from pacs.dicom.query_tags import tag_values
from pacs.errors import BadObject, Conflict, Mismatch, Unreachable
from pacs.index import catalog, query_tags
from pacs.index.catalog import Kept, Values

INSTANCE_BYTES_MAX: Final = 8 << 30  # a larger data set is refused

_REQUIRED: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
OTHER_PATIENT: Final = "the study is held under another Patient ID"
OTHER_BYTES_KEPT: Final = "other bytes are held under this UID; these are kept as a version"
OTHER_BYTES_REPLACED: Final = "other bytes were held under this UID; they are kept as a version"


@dataclass(frozen=True, slots=True)
class Examined:
    """An instance judged fit to be kept."""

    incoming: Incoming
    values: Mapping[Level, Values]
    data_set_digest: str
    packed_frame_table: bytes
    patient_id: str
    walked: Scan

    @property
    def sop_instance_uid(self) -> str:
        """The UID that the data set itself states."""
        return str(self.values[Level.INSTANCE]["SOPInstanceUID"])

    def stored(self, outcome: Outcome, warning: str = "") -> Stored:
        """The success that this instance earned."""
        return Stored(
            outcome,
            self.values[Level.STUDY]["StudyInstanceUID"],
            self.values[Level.SERIES]["SeriesInstanceUID"],
            self.values[Level.INSTANCE]["SOPClassUID"],
            self.sop_instance_uid,
            warning,
            catalog.unfit(self.walked, self.values),
        )


def examine(incoming: Incoming, expect: Mapping[str, str]) -> Examined:
    """Judge an instance by its header. Raises BadObject, and Mismatch where it is not as expected."""
    size = len(memoryview(incoming.data_set))
    if size > INSTANCE_BYTES_MAX:
        raise BadObject("the data set is too large", bytes_max=INSTANCE_BYTES_MAX)
    if not uids.is_valid(incoming.transfer_syntax_uid):
        raise BadObject("the transfer syntax is no UID")
    found = scan(incoming.data_set, incoming.transfer_syntax_uid)
    _check_uids(found, expect)
    return Examined(
        incoming,
        catalog.described(found),
        _digest(incoming.data_set),
        frame_table(found).pack(),
        found.text("PatientID"),
        found,
    )


def _digest(data_set: Buffer) -> str:
    digest = hashlib.sha256()
    for window in windows(data_set):
        digest.update(window)
    return digest.hexdigest()


def _check_uids(found: Scan, expect: Mapping[str, str]) -> None:
    for keyword in _REQUIRED:
        if not uids.is_valid(found.text(keyword)):
            raise Mismatch(f"{keyword} is missing or is no UID", attribute=keyword)
    for keyword, wanted in expect.items():
        if found.text(keyword) != wanted:
            raise Mismatch(f"{keyword} is not the one announced", attribute=keyword)


@dataclass(frozen=True, slots=True)
class Receipt:
    """When and from whom an instance came; written into the file, so that `rebuild` knows it."""

    received_at: float
    actor_kind: str
    actor_name: str
    duplicates: Duplicates
    made_by: str = ""

    @classmethod
    def now(cls, actor: Actor, duplicates: Duplicates, made_by: str = "") -> Receipt:
        """A receipt for this moment."""
        return cls(time.time(), actor.kind, actor.name, duplicates, made_by)

    @property
    def source_ae_title(self) -> str:
        """The AE title that sent it; empty for what came in another way than by DIMSE."""
        return self.actor_name if self.actor_kind == "peer" else ""

    @classmethod
    def of(cls, private: Mapping[str, Any]) -> Receipt:
        """The receipt inside a stored file; a neutral one if it has none."""
        known = {policy.value: policy for policy in Duplicates}
        return cls(
            float(private.get("received_at", 0.0)),
            str(private.get("actor_kind", "node")),
            str(private.get("actor_name", "rebuild")),
            known.get(str(private.get("duplicates")), Duplicates.KEEP),
            str(private.get("made_by", "")),
        )

    def private(self) -> Mapping[str, object]:
        """What goes into the file. `receipt` makes each put an object of its own, so that taking

        one back can never take away another's.
        """
        return {
            "received_at": self.received_at,
            "actor_kind": self.actor_kind,
            "actor_name": self.actor_name,
            "duplicates": self.duplicates.value,
            "made_by": self.made_by,
            "receipt": uuid.uuid4().hex,
        }


@dataclass(frozen=True, slots=True)
class Refound:
    """A stored file, read again to become rows: its instance, its object, and its receipt."""

    examined: Examined
    kept: Kept
    receipt: Receipt

    @classmethod
    def of(cls, digest: str, content: bytes) -> Refound:
        """The instance in a stored file. Raises BadObject, Mismatch."""
        file = read_part10(content)
        receipt = Receipt.of(file.private)
        examined = examine(Incoming(file.data_set, file.transfer_syntax_uid), {})
        kept = Kept(
            digest=digest,
            size_bytes=len(content),
            data_set_digest=examined.data_set_digest,
            data_set_offset=file.data_set_offset,
            transfer_syntax_uid=file.transfer_syntax_uid,
            frame_table=examined.packed_frame_table,
            received_at=receipt.received_at,
            made_by=receipt.made_by,
            source_ae_title=receipt.source_ae_title,
        )
        return cls(examined, kept, receipt)


def file_meta(examined: Examined, receipt: Receipt) -> bytes:
    """What stands before the data set in the stored file."""
    return preamble_and_meta(
        sop_class_uid=examined.values[Level.INSTANCE]["SOPClassUID"],
        sop_instance_uid=examined.sop_instance_uid,
        transfer_syntax_uid=examined.incoming.transfer_syntax_uid,
        source_ae_title=receipt.source_ae_title,
        private=receipt.private(),
    )


def enter(
    connection: Connection, archive_id: int, examined: Examined, kept: Kept, duplicates: Duplicates
) -> tuple[Outcome, str]:
    """Make the row; how it ended, and a warning. Raises Conflict under the policy `refuse`."""
    place, is_new = catalog.add_instance(connection, archive_id, examined.values, kept)
    if is_new:
        _enter_tags(connection, archive_id, examined)
        return Outcome.NEW, "" if place.patient_id == examined.patient_id else OTHER_PATIENT
    current = catalog.find_instance(connection, archive_id, examined.sop_instance_uid)
    if current is None:
        raise Unreachable("the instance was deleted at this very moment")
    if holds_already(connection, current, examined):
        return Outcome.IDENTICAL, ""
    return _other_bytes(connection, current, examined, kept, duplicates)


def _enter_tags(connection: Connection, archive_id: int, examined: Examined) -> None:
    """Enter what the instance has for extended query tags; most have nothing."""
    syntax = examined.incoming.transfer_syntax_uid
    found = {
        tag: values
        for tag in query_tags.of_archive(connection, archive_id)
        if (values := tag_values(examined.walked, syntax, tag))
    }
    if found:
        row = catalog.find_instance(connection, archive_id, examined.sop_instance_uid)
        assert row is not None, "the row was made in this very transaction"
        owners = {Level.INSTANCE: row.id, Level.SERIES: row.series_id, Level.STUDY: row.study_id}
        query_tags.enter(connection, owners, found)


def holds_already(connection: Connection, current: Any, examined: Examined) -> bool:  # noqa: ANN401 - a row
    """Whether this very data set is the current one, or a version, of a known instance."""
    return current.data_set_digest == examined.data_set_digest or catalog.has_version(
        connection, current.id, examined.data_set_digest
    )


def _other_bytes(
    connection: Connection,
    current: Any,  # noqa: ANN401 - a row
    examined: Examined,
    kept: Kept,
    duplicates: Duplicates,
) -> tuple[Outcome, str]:
    moved = (current.StudyInstanceUID, current.SeriesInstanceUID) != (
        examined.values[Level.STUDY]["StudyInstanceUID"],
        examined.values[Level.SERIES]["SeriesInstanceUID"],
    )
    if duplicates is Duplicates.REFUSE:
        raise Conflict("other bytes are held under this SOP Instance UID")
    if duplicates is Duplicates.REPLACE and not moved:
        catalog.replace_current(connection, current, examined.values, kept)
        query_tags.forget_values(connection, current.id)
        _enter_tags(connection, current.archive_id, examined)
        return Outcome.REPLACED, OTHER_BYTES_REPLACED
    # An instance that claims another study or series than before never moves there by itself.
    catalog.add_version(connection, current.id, kept)
    return Outcome.KEPT_VERSION, OTHER_BYTES_KEPT
