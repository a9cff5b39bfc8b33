"""Any synthetic study in a line.

Every function gives something small and valid that a test may then spoil. UIDs follow from names,
so a test that says `uid("study")` twice means the same study. The patients are inventions.
"""

from __future__ import annotations

import copy
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacs.access import Actor
from pacs.archive import Incoming
from pacs.dicom.part10 import preamble_and_meta
from pacs.dicom.uids import derived_uid

IMPLICIT = str(ImplicitVRLittleEndian)
EXPLICIT = str(ExplicitVRLittleEndian)
BIG_ENDIAN = str(ExplicitVRBigEndian)
DEFLATED = str(DeflatedExplicitVRLittleEndian)

SCANNER = Actor("peer", "SCANNER", "192.0.2.1")
READER = Actor("user", "reader", "192.0.2.2")


def uid(*names: object) -> str:
    """The UID that goes by these names."""
    return derived_uid("test", *map(str, names))


def data_set(
    number: int = 1,
    *,
    study_instance_uid: str = uid("study"),
    series_instance_uid: str = "",
    sop_instance_uid: str = "",
    patient_id: str = "P-1",
    patient_name: str = "Phantom^One",
    modality: str = "CT",
    pixels: np.ndarray | None = None,
    **attributes: object,
) -> Dataset:
    """One 16 × 16 CT slice, or what `pixels` and further attributes by keyword make of it.

    UIDs that are not given follow from the study and the instance number.
    `pixels` has the shape (rows, columns) or (frames, rows, columns), of uint8 or int16.
    """
    series = series_instance_uid or uid(study_instance_uid, "series")
    made = Dataset()
    made.SOPClassUID = CTImageStorage
    made.SOPInstanceUID = sop_instance_uid or uid(series, number)
    made.StudyInstanceUID = study_instance_uid
    made.SeriesInstanceUID = series
    made.PatientID = patient_id
    made.PatientName = patient_name
    made.PatientBirthDate = "19700101"
    made.PatientSex = "O"
    made.StudyDate = "20240229"
    made.StudyTime = "101530"
    made.AccessionNumber = "A-1"
    made.StudyID = "1"
    made.StudyDescription = "Chest"
    made.ReferringPhysicianName = "Referrer^Rae"
    made.Modality = modality
    made.SeriesNumber = 1
    made.InstanceNumber = number
    _set_pixels(made, slice_of(number) if pixels is None else pixels)
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def slice_of(number: int) -> np.ndarray:
    """16 × 16 int16 grey values that only this number has."""
    return (np.arange(256, dtype=np.int16).reshape(16, 16) + number).astype("<i2")


def _set_pixels(made: Dataset, pixels: np.ndarray) -> None:
    bits = pixels.dtype.itemsize * 8
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    if pixels.ndim == 3:
        made.NumberOfFrames = pixels.shape[0]
    made.Rows, made.Columns = pixels.shape[-2:]
    made.BitsAllocated = made.BitsStored = bits
    made.HighBit = bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.add_new("PixelData", "OW" if bits == 16 else "OB", pixels.tobytes())


def encapsulated(made: Dataset, frames: Sequence[bytes], *, has_bot: bool = True) -> Dataset:
    """The data set with frames, one fragment each, in place of its native pixel data."""
    made.add_new("PixelData", "OB", encapsulate(list(frames), has_bot=has_bot))
    made["PixelData"].is_undefined_length = True
    made.NumberOfFrames = len(frames)
    return made


def data_set_bytes(made: Dataset, transfer_syntax_uid: str = EXPLICIT) -> bytes:
    """The data set encoded, without a file meta group, as a C-STORE carries it."""
    if transfer_syntax_uid == BIG_ENDIAN and made.get("BitsAllocated") == 16:
        made = copy.deepcopy(made)  # pydicom writes pixel data as they are
        made.PixelData = np.frombuffer(made.PixelData, "<u2").astype(">u2").tobytes()
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax_uid == IMPLICIT
    buffer.is_little_endian = transfer_syntax_uid != BIG_ENDIAN
    write_dataset(buffer, made)
    if transfer_syntax_uid == DEFLATED:
        return deflated(buffer.getvalue())
    return buffer.getvalue()


def deflated(encoded: bytes) -> bytes:
    """Encoded bytes as a deflated transfer syntax wants them (PS3.5 A.5)."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    squeezed = squeeze.compress(encoded) + squeeze.flush()
    return squeezed + b"\0" * (len(squeezed) % 2)


def incoming(made: Dataset, transfer_syntax_uid: str = EXPLICIT) -> Incoming:
    """The data set as a door hands it to the archive."""
    return Incoming(data_set_bytes(made, transfer_syntax_uid), transfer_syntax_uid)


def part10_bytes(made: Dataset, transfer_syntax_uid: str = EXPLICIT) -> bytes:
    """The data set as a Part 10 file."""
    meta = preamble_and_meta(
        sop_class_uid=str(made.SOPClassUID),
        sop_instance_uid=str(made.SOPInstanceUID),
        transfer_syntax_uid=transfer_syntax_uid,
    )
    return meta + data_set_bytes(made, transfer_syntax_uid)


def study(
    instances: int = 3, *, series: int = 1, study_instance_uid: str = uid("study"), **given: object
) -> list[Dataset]:
    """The data sets of a study: `series` of them, each of so many instances."""
    return [
        data_set(
            number,
            study_instance_uid=study_instance_uid,
            series_instance_uid=uid(study_instance_uid, "series", serial),
            **{"SeriesNumber": serial} | given,  # type: ignore[arg-type] # a test names what it likes
        )
        for serial in range(1, series + 1)
        for number in range(1, instances + 1)
    ]


def element(tag: int, vr: str, value: bytes) -> bytes:
    """One element as Explicit VR Little Endian spells it, however wrong its value may be."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in ("OB", "OW", "SQ", "UN", "UT"):
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def nested(levels: int) -> bytes:
    """A data set whose sequences hold each other to a depth, every length undefined."""
    sequence = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    item_end, sequence_end = (
        struct.pack("<HHI", 0xFFFE, 0xE00D, 0),
        struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
    )
    return (sequence + item) * levels + (item_end + sequence_end) * levels
