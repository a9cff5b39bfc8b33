"""UIDs: what a valid one looks like, and how ours are made.

A UID of ours is derived from what it names, so that a repeated run writes the same instance and
two workers agree without talking.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Final

UID_CHARACTERS_MAX: Final = 64  # PS3.5 9.1; a longer one is refused

_VALID = re.compile(rf"[0-9][0-9.]{{0,{UID_CHARACTERS_MAX - 1}}}")

# The implementation that wrote a file's meta group (PS3.10 7.1): a UUID of ours under 2.25.
IMPLEMENTATION_CLASS_UID: Final = "2.25.239748511829402118305613408263910412437"
IMPLEMENTATION_VERSION_NAME: Final = "ISOCENTER_0_1"
# Who understands the private information that we write into the meta group (0002,0100).
PRIVATE_INFORMATION_CREATOR_UID: Final = "2.25.239748511829402118305613408263910412438"


def is_valid(uid: str) -> bool:
    """Whether a door may use uid at all: digits and dots, a digit first, at most 64.

    Laxer than PS3.5 9.1 (leading zeros pass, since real scanners write them), and strict where it
    protects: no slash, no dot-dot-slash, no control character, no letter.
    """
    return _VALID.fullmatch(uid) is not None


def derived_uid(*parts: str) -> str:
    """A UID that follows from parts alone: `2.25.` and a version 8 UUID (PS3.5 B.2, RFC 9562 5.8)."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()[:16]
    return f"2.25.{_as_uuid(digest).int}"


def new_uid() -> str:
    """A UID that nobody has had before: `2.25.` and a random UUID (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def _as_uuid(digest: bytes) -> uuid.UUID:
    number = int.from_bytes(digest, "big")
    number = number & ~(0xF << 76) | (0x8 << 76)  # version 8: a digest of the maker's own choice
    number = number & ~(0x3 << 62) | (0x2 << 62)  # the variant of RFC 9562
    return uuid.UUID(int=number)
