"""A DICOMDIR: the basic directory of a file-set, in one piece (PS3.3 annex F, PS3.10 chapter 8).

Records refer to each other by their offset in the file. Those offsets are numbers of fixed size, so
every record is encoded once to learn its length, and once more when all lengths are known. Keys
come from the DICOM JSON of the instances; no file is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from pacs.dicom.data_sets import UNFIT, written
from pacs.dicom.json_model import JsonModel
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, preamble_and_meta
from pacs.dicom.uids import derived_uid
from pacs.errors import BadObject

DIRECTORY_STORAGE: Final = "1.2.840.10008.1.3.10"

# The record of an instance by its SOP class, the longest beginning that fits (PS3.3 table F.4-1).
_RECORD_TYPES: Final[Mapping[str, str]] = {
    "1.2.840.10008.5.1.4.1.1.": "IMAGE",
    "1.2.840.10008.5.1.4.1.1.4.2": "SPECTROSCOPY",
    "1.2.840.10008.5.1.4.1.1.9.": "WAVEFORM",
    "1.2.840.10008.5.1.4.1.1.11.": "PRESENTATION",
    "1.2.840.10008.5.1.4.1.1.66": "RAW DATA",
    "1.2.840.10008.5.1.4.1.1.66.1": "REGISTRATION",
    "1.2.840.10008.5.1.4.1.1.66.2": "FIDUCIAL",
    "1.2.840.10008.5.1.4.1.1.66.3": "REGISTRATION",
    "1.2.840.10008.5.1.4.1.1.66.4": "IMAGE",
    "1.2.840.10008.5.1.4.1.1.66.5": "SURFACE",
    "1.2.840.10008.5.1.4.1.1.67": "VALUE MAP",
    "1.2.840.10008.5.1.4.1.1.88.": "SR DOCUMENT",
    "1.2.840.10008.5.1.4.1.1.88.59": "KEY OBJECT DOC",
    "1.2.840.10008.5.1.4.1.1.104.": "ENCAP DOC",
    "1.2.840.10008.5.1.4.1.1.481.2": "RT DOSE",
    "1.2.840.10008.5.1.4.1.1.481.3": "RT STRUCTURE SET",
    "1.2.840.10008.5.1.4.1.1.481.4": "RT TREAT RECORD",
    "1.2.840.10008.5.1.4.1.1.481.5": "RT PLAN",
}
# What a record says beside where it stands (F.5), and what it says where an instance does not.
_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "PATIENT": {"PatientName": "", "PatientID": ""},
    "STUDY": {
        "StudyDate": "",
        "StudyTime": "",
        "AccessionNumber": "",
        "StudyDescription": "",
        "StudyInstanceUID": "",
        "StudyID": "",
    },
    "SERIES": {"Modality": "OT", "SeriesInstanceUID": "", "SeriesNumber": ""},
}
_INSTANCE_KEYS: Final[Mapping[str, str]] = {
    "InstanceNumber": "",
    **dict.fromkeys(["ContentDate", "ContentTime", "CompletionFlag", "VerificationFlag"], ""),
    **dict.fromkeys(["ContentLabel", "ContentDescription", "ContentCreatorName"], ""),
    **dict.fromkeys(["ConceptNameCodeSequence", "DocumentTitle"], ""),
    **dict.fromkeys(["MIMETypeOfEncapsulatedDocument", "DoseSummationType"], ""),
    **dict.fromkeys(["StructureSetLabel", "StructureSetDate", "StructureSetTime"], ""),
    **dict.fromkeys(["RTPlanLabel", "RTPlanDate", "RTPlanTime"], ""),
    **dict.fromkeys(["PresentationCreationDate", "PresentationCreationTime"], ""),
}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the set: its components' names, how it is encoded, and the DICOM JSON of it."""

    file_id: tuple[str, ...]
    transfer_syntax_uid: str
    model: JsonModel


@dataclass(slots=True)
class _Record:
    """A directory record, those below it, and where it stands."""

    keys: Dataset
    below: dict[object, _Record] = field(default_factory=dict)
    next_offset: int = 0
    offset: int = 0

    def encoded(self) -> bytes:
        """As an item of the sequence."""
        lower = next(iter(self.below.values()), None)
        self.keys.OffsetOfTheNextDirectoryRecord = self.next_offset
        self.keys.OffsetOfReferencedLowerLevelDirectoryEntity = lower.offset if lower else 0
        body = written(self.keys, EXPLICIT_VR_LITTLE_ENDIAN)
        return struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body

    def walk(self) -> Iterator[_Record]:
        """This record and all below it, each one before its own."""
        yield self
        for record in self.below.values():
            yield from record.walk()


def dicomdir(files: Sequence[FileEntry]) -> bytes:
    """The Part 10 file that lists these files, in their order. Raises BadObject."""
    roots: dict[object, _Record] = {}
    for file in files:
        _add(roots, file)
    records = [record for root in roots.values() for record in root.walk()]
    instance_uid = derived_uid("dicomdir", *("/".join(file.file_id) for file in files))
    meta = preamble_and_meta(
        sop_class_uid=DIRECTORY_STORAGE,
        sop_instance_uid=instance_uid,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
    )
    _place(roots, records, len(meta) + len(_head(0, 0)) + len(_sequence(0)))
    ends = [record.offset for record in roots.values()] or [0]
    items = b"".join(record.encoded() for record in records)
    return b"".join((meta, _head(ends[0], ends[-1]), _sequence(len(items)), items))


def _place(roots: dict[object, _Record], records: Sequence[_Record], start: int) -> None:
    """Give every record its offset, then that of its neighbour."""
    for record in records:
        record.offset = start
        start += len(record.encoded())
    for neighbours in (roots, *(record.below for record in records)):
        for record, following in pairwise(neighbours.values()):
            record.next_offset = following.offset


def _head(first: int, last: int) -> bytes:
    head = Dataset()
    head.FileSetID = ""
    head.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = first
    head.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = last
    head.FileSetConsistencyFlag = 0
    return written(head, EXPLICIT_VR_LITTLE_ENDIAN)


def _sequence(size: int) -> bytes:
    """The header of the Directory Record Sequence (0004,1220)."""
    return struct.pack("<HH2sHI", 0x0004, 0x1220, b"SQ", 0, size)


def _add(roots: dict[object, _Record], file: FileEntry) -> None:
    """Hang a file below its patient, study and series, made where they are missing."""
    level = roots
    for kind, unique in (
        ("PATIENT", "PatientID"),
        ("STUDY", "StudyInstanceUID"),
        ("SERIES", "SeriesInstanceUID"),
    ):
        keys = _keys(kind, _KEYS[kind], file.model)
        record = level.setdefault(str(keys.get(unique, "")), _Record(keys))
        level = record.below
    level[file.file_id] = _Record(_of_file(file))


def _of_file(file: FileEntry) -> Dataset:
    referred = _found({"SOPClassUID": "", "SOPInstanceUID": ""}, file.model)
    kind = _record_type(str(referred.SOPClassUID))
    present = {
        keyword: default
        for keyword, default in _INSTANCE_KEYS.items()
        if keyword == "InstanceNumber" or _tag(keyword) in file.model
    }
    record = _keys(kind, present, file.model)
    record.ReferencedFileID = list(file.file_id)
    record.ReferencedSOPClassUIDInFile = referred.SOPClassUID
    record.ReferencedSOPInstanceUIDInFile = referred.SOPInstanceUID
    record.ReferencedTransferSyntaxUIDInFile = file.transfer_syntax_uid
    return record


def _record_type(sop_class_uid: str) -> str:
    fitting = [beginning for beginning in _RECORD_TYPES if sop_class_uid.startswith(beginning)]
    return _RECORD_TYPES[max(fitting, key=len)] if fitting else "PRIVATE"


def _keys(kind: str, wanted: Mapping[str, str], model: JsonModel) -> Dataset:
    record = _found(wanted, model)
    record.RecordInUseFlag = 0xFFFF
    record.DirectoryRecordType = kind
    return record


def _found(wanted: Mapping[str, str], model: JsonModel) -> Dataset:
    """The wanted elements of an instance; one that is absent or does not fit has its default."""
    found = Dataset()
    found.SpecificCharacterSet = "ISO_IR 192"
    for keyword, default in wanted.items():
        setattr(found, keyword, default or None)
        element = model.get(_tag(keyword), {})
        if "Value" in element:
            try:
                found.update(Dataset.from_json({_tag(keyword): element}))
                written(found, EXPLICIT_VR_LITTLE_ENDIAN)
            except (*UNFIT, BadObject):
                setattr(found, keyword, default or None)
    return found


def _tag(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return f"{tag:08X}"
