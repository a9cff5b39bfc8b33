"""What there is: every ordinary study, its patient and its UIDs.

UIDs are derived from names, so the same name is the same UID on every machine and in every year.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


def uid_of(name: str) -> str:
    """A UID that only depends on name: `2.25.` and a 128-bit integer (PS3.5 B.2)."""
    return f"2.25.{int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], 'big')}"


@dataclass(frozen=True, slots=True)
class Study:
    """One synthetic study, in a folder of its own beneath `sample_dicom`."""

    folder: str
    title: str
    patient_name: str
    patient_id: str

    @property
    def study_instance_uid(self) -> str:
        """The same for ever: it is derived from the folder's name."""
        return uid_of(self.folder)


CT_CHEST = Study("ct_chest", "Chest CT", "Phantom^Chest", "ISO-0001")
CR_CHEST = Study("cr_chest", "Chest radiograph", "Phantom^Radiograph", "ISO-0002")
MR_BRAIN = Study("mr_brain", "Brain MR, oblique", "Phantom^Brain", "ISO-0003")
US_MULTIFRAME = Study("us_multiframe", "Ultrasound, multi-frame", "Phantom^Echo", "ISO-0004")
CT_ENHANCED = Study("ct_enhanced", "Enhanced abdominal CT", "Phantom^Abdomen", "ISO-0005")

_SYNTAXES = {
    "rle": "RLE Lossless",
    "jpeg_baseline": "JPEG Baseline (Process 1)",
    "jpeg_lossless": "JPEG Lossless SV1 (Process 14)",
    "jpeg_ls": "JPEG-LS Lossless",
    "jpeg_ls_near": "JPEG-LS Near-lossless",
    "jpeg_2000": "JPEG 2000 Lossless",
    "jpeg_2000_lossy": "JPEG 2000",
    "deflated": "Deflated Explicit VR Little Endian",
    "big_endian": "Explicit VR Big Endian",
}

COMPRESSED: dict[str, Study] = {
    name: Study(f"compressed/{name}", title, "Phantom^Compressed", f"ISO-{number:04d}")
    for number, (name, title) in enumerate(_SYNTAXES.items(), start=101)
}

STUDIES: tuple[Study, ...] = (
    CT_CHEST,
    CR_CHEST,
    MR_BRAIN,
    US_MULTIFRAME,
    CT_ENHANCED,
    *COMPRESSED.values(),
)
