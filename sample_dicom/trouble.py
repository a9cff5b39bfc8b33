"""The odd files: one for each trouble a receiver is known to meet, and the answer it deserves.

Each is a study of its own with a patient of its own, so that nothing can hide behind another.
Most are a sound little CT image with one thing wrong; where pydicom would refuse to write what is
wrong, the bytes are put together here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from pydicom import Dataset, config
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from sample_dicom.instances import File, abdomen_slice, coded, data_set, instance, part10
from sample_dicom.studies import Study, uid_of

FOLDER: Final = "odd"
BASIC_TEXT_SR_STORAGE = "1.2.840.10008.5.1.4.1.1.88.11"

NESTED_LEVELS = 300
BOMB_INFLATED_BYTES = 256 << 20  # of zeros, a thousand times what the file holds

Expected = Literal["stored", "A900", "C000"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """One odd file beneath FOLDER."""

    file: str
    what: str
    """What is wrong, in words."""
    expected: Expected
    """`stored`, or the status of the C-STORE response that refuses it (PS3.4 B.2.3)."""
    make: Callable[[Study], bytes]

    @property
    def status(self) -> int:
        """The status of the C-STORE response."""
        return 0x0000 if self.expected == "stored" else int(self.expected, 16)

    @property
    def path(self) -> str:
        """Relative to `sample_dicom`."""
        return f"{FOLDER}/{self.file}"


def _altered(study: Study, **attributes: str | int | bytes | list[str]) -> bytes:
    """A sound CT image, then these attributes, however wrong."""
    dataset = abdomen_slice(study, 1)
    with config.disable_value_validation():
        dataset.update(data_set(**attributes))
        return part10(dataset)


def _text_report(study: Study) -> Dataset:
    """A text report of one sentence (PS3.3 A.35.1)."""
    dataset = instance(study, BASIC_TEXT_SR_STORAGE, "SR", 1)
    sentence = data_set(
        RelationshipType="CONTAINS",
        ValueType="TEXT",
        ConceptNameCodeSequence=coded("121071", "DCM", "Finding"),
        TextValue="No picture is meant to be here.",
    )
    dataset.update(
        data_set(
            ReferencedPerformedProcedureStepSequence=[],
            PerformedProcedureCodeSequence=[],
            ValueType="CONTAINER",
            ConceptNameCodeSequence=coded("18748-4", "LN", "Diagnostic imaging report"),
            ContinuityOfContent="SEPARATE",
            CompletionFlag="COMPLETE",
            VerificationFlag="UNVERIFIED",
            ContentSequence=[sentence],
        )
    )
    return dataset


def _report(study: Study) -> bytes:
    return part10(_text_report(study))


def _truncated(study: Study) -> bytes:
    whole = _altered(study)
    return whole[: len(whole) * 3 // 4]


def _not_dicom(study: Study) -> bytes:
    return f"{study.patient_name}: a letter, whatever the file's name says.\n".encode()


def _nested(study: Study) -> bytes:
    """Content items within content items, all of undefined length (PS3.5 7.5.2)."""
    report = _text_report(study)
    del report.ContentSequence
    open_sequence = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    open_item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    close_item = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    close_sequence = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return (
        part10(report)
        + (open_sequence + open_item) * NESTED_LEVELS
        + (close_item + close_sequence) * NESTED_LEVELS
    )


def _deflate_bomb(study: Study) -> bytes:
    """A deflated data set whose pixel data are BOMB_INFLATED_BYTES of nothing (PS3.5 A.5)."""
    dataset = abdomen_slice(study, 1)
    del dataset.PixelData
    deflated = part10(dataset, DeflatedExplicitVRLittleEndian)
    plain = part10(dataset, ExplicitVRLittleEndian)
    pixel_data = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, BOMB_INFLATED_BYTES)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces = [
        deflated[: _end_of_meta(deflated)],
        packer.compress(plain[_end_of_meta(plain) :] + pixel_data),
        *(packer.compress(bytes(1 << 20)) for _ in range(BOMB_INFLATED_BYTES >> 20)),
        packer.flush(),
    ]
    packed = b"".join(pieces)
    return packed + b"\0" * (len(packed) % 2)


def _end_of_meta(file: bytes) -> int:
    """Where the data set begins: preamble, prefix, group length (12 bytes), group (PS3.10 7.1)."""
    return 132 + 12 + int.from_bytes(file[140:144], "little")


def _wrong_affected_uid(study: Study) -> bytes:
    """The file meta group, of which some senders make the command, names another instance."""
    uid = uid_of(f"{study.folder}/1")
    another = uid[:-1] + ("2" if uid[-1] == "1" else "1")
    return _altered(study).replace(uid.encode(), another.encode(), 1)


def _bad_values(study: Study) -> bytes:
    """Values that their VR forbids. Words for numbers are put in last: pydicom would not write."""
    file = _altered(
        study, StudyDate="20251345", PatientAge="old", SeriesNumber=777777, PatientWeight="888888"
    )
    file = file.replace(b"IS\x06\x00777777", b"IS\x06\x00seven ")
    return file.replace(b"DS\x06\x00888888", b"DS\x06\x00heavy ")


def _unknown_transfer_syntax(study: Study) -> bytes:
    return part10(abdomen_slice(study, 1), uid_of("a transfer syntax nobody knows"))


_uid_path = partial(_altered, SOPInstanceUID="../../x")
_uid_65 = partial(_altered, SOPInstanceUID="2.25." + "1" * 60)
_absurd_size = partial(_altered, Rows=65535, Columns=65535, PixelData=bytes(16))
_private_class = partial(_altered, SOPClassUID=uid_of("a private SOP class"))
_script = partial(_altered, PatientName="<script>alert(1)</script>")
_gb18030 = partial(_altered, SpecificCharacterSet="GB18030", PatientName="Moti^Xiongbu=模体^胸部=")
_iso2022 = partial(
    _altered,
    SpecificCharacterSet=["", "ISO 2022 IR 87"],
    PatientName="Mokei^Kyoubu=模型^胸部=もけい^きょうぶ",
)

TROUBLES: tuple[Trouble, ...] = (
    Trouble("truncated.dcm", "ends in the middle of its pixel data", "C000", _truncated),
    Trouble("not_dicom.dcm", "a text file", "C000", _not_dicom),
    Trouble("nested_300.dcm", "sequences nested 300 deep", "C000", _nested),
    Trouble(
        "absurd_rows_columns.dcm",
        "65535 × 65535 pixels in 16 bytes: kept as it is, but cannot be decoded",
        "stored",
        _absurd_size,
    ),
    Trouble(
        "wrong_affected_uid.dcm",
        "its file meta group, hence the command of many senders, names another instance",
        "A900",
        _wrong_affected_uid,
    ),
    Trouble("empty_patient_id.dcm", "no Patient ID", "stored", partial(_altered, PatientID="")),
    Trouble("gb18030_name.dcm", "a Chinese name in GB18030", "stored", _gb18030),
    Trouble(
        "iso2022_name.dcm", "a Japanese name in three groups, ISO 2022 IR 87", "stored", _iso2022
    ),
    Trouble("bad_vr_value.dcm", "no date, age, weight or integer where due", "stored", _bad_values),
    Trouble("deflate_bomb.dcm", "inflates a thousandfold, to 256 MiB", "C000", _deflate_bomb),
    Trouble("uid_path.dcm", "SOP Instance UID `../../x`", "A900", _uid_path),
    Trouble("uid_65.dcm", "SOP Instance UID of 65 characters", "A900", _uid_65),
    Trouble("html_name.dcm", "a Patient's Name that is a script", "stored", _script),
    Trouble("private_sop_class.dcm", "a SOP class nobody knows", "stored", _private_class),
    Trouble(
        "unknown_transfer_syntax.dcm",
        "a transfer syntax nobody knows: kept as it is, but cannot be decoded",
        "stored",
        _unknown_transfer_syntax,
    ),
    Trouble("no_pixel_data_sr.dcm", "a report: no pixel data", "stored", _report),
)


def odd_files() -> Iterator[File]:
    """Every odd file, of a patient `Phantom^Odd` numbered from ISO-0901."""
    for number, trouble in enumerate(TROUBLES, start=901):
        stem = trouble.file.removesuffix(".dcm")
        study = Study(f"{FOLDER}/{stem}", "Odd file", "Phantom^Odd", f"ISO-{number:04d}")
        yield trouble.path, trouble.make(study)
