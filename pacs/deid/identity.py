"""New identities from old ones: HMAC-SHA-256 under the project's key.

The same key and value give the same result in every process, in any order and after any restart,
so a segmentation that arrives next week still refers to the images released today. Without the
key nobody can recompute a result, which an unkeyed digest would allow (PS3.15 E.1.1 warns of it).
All UIDs share one name space, because one attribute may hold the UID of a study here and of an
instance there.
"""

from __future__ import annotations

import base64
import hmac
from typing import Final

KEY_BYTES_MIN: Final = 16  # a shorter key is a programmer's error
PSEUDONYM_CHARACTERS: Final = 10  # 50 bits: two of a million patients meet once in 2,000 projects


def replaced_uid(key: bytes, uid: str) -> str:
    """The UID that stands for uid: `2.25.` and a UUID of version 8 (PS3.5 B.2, RFC 9562 5.8)."""
    number = int.from_bytes(_derived(key, "uid", uid)[:16], "big")
    number = number & ~(0xF << 76) | (0x8 << 76)  # version 8: derived in a way of our own
    number = number & ~(0x3 << 62) | (0x2 << 62)  # the variant of RFC 9562
    return f"2.25.{number}"


def patient_pseudonym(key: bytes, patient_id: str, issuer: str, study_instance_uid: str) -> str:
    """A readable name such as `ISO-K7RWQ2M4ZD` for the patient of this ID and issuer.

    Without an ID the study stands in for the patient, so that strangers are never merged.
    """
    if patient_id:
        return "ISO-" + _readable(_derived(key, "patient", issuer, patient_id))
    return "ISO-" + _readable(_derived(key, "patient of study", study_instance_uid))


def study_pseudonym(key: bytes, study_instance_uid: str) -> str:
    """A Study ID: some archives merge the studies of a patient whose Study ID is empty."""
    return _readable(_derived(key, "study", study_instance_uid))


def _derived(key: bytes, *parts: str) -> bytes:
    return hmac.digest(key, "\0".join(parts).encode(), "sha256")


def _readable(digest: bytes) -> str:
    return base64.b32encode(digest).decode("ascii")[:PSEUDONYM_CHARACTERS]
