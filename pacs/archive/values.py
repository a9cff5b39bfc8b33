"""What goes into and comes out of the archive's verbs: frozen values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Any, NamedTuple

from sqlalchemy import Row

from pacs.dicom.frames import FrameTable
from pacs.dicom.part10 import Buffer
from pacs.index.catalog import Scope
from pacs.index.queries import Value

__all__ = [
    "Duplicates",
    "Found",
    "Held",
    "Incoming",
    "Instance",
    "Outcome",
    "Problem",
    "Scope",
    "Stored",
]


@unique
class Duplicates(Enum):
    """What happens to other bytes under a known SOP Instance UID. They never replace silently."""

    KEEP = "keep"  # the first stays current; the others are kept as a further version
    REPLACE = "replace"  # the new ones become current; the first are kept as a further version
    REFUSE = "refuse"  # the new ones are refused


@unique
class Outcome(Enum):
    """How a store ended."""

    NEW = "new"
    IDENTICAL = "identical"  # the same data set was here already; nothing changed
    KEPT_VERSION = "kept_version"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Incoming:
    """A data set as it came, without its file meta group."""

    data_set: Buffer
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A store's success. `warning` is a sentence without patient data, empty for plain success."""

    outcome: Outcome
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    warning: str = ""
    unfit: tuple[str, ...] = ()  # keywords of indexed attributes whose values do not fit their VR


@dataclass(frozen=True, slots=True)
class Found:
    """A search's answer: rows by keyword, names as `Alphabetic=Ideographic=Phonetic`."""

    rows: list[dict[str, Value]]
    more: bool = False  # further rows exist beyond the limit
    ids: Sequence[int] = ()  # of the rows, for `Archive.first_instances`


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance as the archive holds it. Offsets and sizes are in bytes."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    digest: str
    size_bytes: int
    data_set_digest: str
    data_set_offset: int
    instance_number: int | None
    modality: str
    rows: int
    columns: int
    bits_allocated: int
    table: FrameTable = field(repr=False)
    made_by: str = ""

    @property
    def frames(self) -> int:
        """How many frames can be addressed; 0 for what is no image."""
        return self.table.count

    @classmethod
    def of(cls, row: Row[Any]) -> Instance:
        """The instance of a row of the catalog."""
        return cls(
            study_instance_uid=row.StudyInstanceUID,
            series_instance_uid=row.SeriesInstanceUID,
            sop_instance_uid=row.SOPInstanceUID,
            sop_class_uid=row.SOPClassUID or "",
            transfer_syntax_uid=row.transfer_syntax_uid,
            digest=row.digest,
            size_bytes=row.size_bytes,
            data_set_digest=row.data_set_digest,
            data_set_offset=row.data_set_offset,
            instance_number=row.InstanceNumber,
            modality=row.Modality or "",
            rows=row.Rows or 0,
            columns=row.Columns or 0,
            bits_allocated=row.BitsAllocated or 0,
            table=FrameTable.unpack(row.frame_table),
            made_by=row.made_by,
        )


class Held(NamedTuple):
    """Where one instance is kept, and what a peer must be told before it is sent."""

    study_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    size_bytes: int
    data_set_offset: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that `verify` or `fsck` found wrong: a code, a sentence, and what it concerns."""

    code: str
    sentence: str
    subject: str = ""
