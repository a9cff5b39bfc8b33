"""In which transfer syntax an object leaves (PS3.18 8.7.3).

Pure decisions for Part 10 files and frames alike. What is made is Explicit VR Little Endian or a
lossless form, so nothing lossy is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pacs.decode import DECODABLE, ENCODABLE
from pacs.dicom.part10 import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from web.dicomweb.negotiation import AS_STORED, NONE_NAMED, Choice, Cost

# A request may not name these (8.7.3); what is stored in them still leaves as stored for `*`.
NOT_FOR_THE_WEB: Final = frozenset([IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN])


def target(asked: str, stored: str) -> str:
    """The transfer syntax in which an object leaves that is stored in another, or the same."""
    if asked == AS_STORED:
        return stored
    if asked == NONE_NAMED:
        return EXPLICIT_VR_LITTLE_ENDIAN if stored in DECODABLE else stored
    return asked


def cost(asked: str, stored: str) -> int | None:
    """0 for what lies ready, 1 for what must be decoded, 2 for what must then be encoded anew.

    None for what cannot be made.
    """
    if asked in NOT_FOR_THE_WEB:
        return None
    wanted = target(asked, stored)
    if wanted == stored:
        return 0 if asked in (AS_STORED, NONE_NAMED, stored) else None
    if stored not in DECODABLE or wanted not in ENCODABLE:
        return None
    return 1 if wanted == EXPLICIT_VR_LITTLE_ENDIAN else 2


def cost_of_all(stored: Sequence[str]) -> Cost:
    """The cost of a choice for objects together: one that cannot be made rules it out for all."""
    distinct = frozenset(stored)

    def of_choice(choice: Choice) -> int | None:
        costs = [cost(choice.transfer_syntax, one) for one in distinct]
        return None if None in costs else max(filter(None, costs), default=0)

    return of_choice
