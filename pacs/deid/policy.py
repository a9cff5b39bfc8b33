"""The decision for every attribute: profile, table, VR and Type become one action.

Table E.1-1 is a floor, so what it does not list is decided here by VR: UIDs are replaced, dates,
times and names go, free text goes unless the attribute is technical, numbers and code strings are
checked and kept. `Policy` names what may differ between projects. It is a value, so that a
decision can be computed once and kept; options and overrides will be further fields of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from pacs.deid.standard import (
    action_table,
    dictionary_vr,
    required_type,
    table_action,
)

PLANS_MAX: Final = 64  # plans of (policy, SOP class) kept in memory; the oldest is forgotten


class Action(StrEnum):
    """What happens to one attribute, in the letters of PS3.15 E.1.1."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    REPLACE_UID = "U"
    KEEP = "K"  # a sequence is kept and its items are cleaned
    CHECK = "C"  # kept if the value is what its VR promises, else as `Step.otherwise` says


class Step(NamedTuple):
    """The action for one attribute at one place, and what `CHECK` falls back to."""

    action: Action
    vr: str
    otherwise: Action = Action.REMOVE


@dataclass(frozen=True, slots=True)
class Policy:
    """Which profile is applied, and which types of object it may release.

    `profile` and `version` go into every object that is released (0012,0063). A change of any
    rule is a new version.
    """

    profile: str = "basic"
    version: int = 1
    releasable: frozenset[str] = frozenset(
        {
            "1.2.840.10008.5.1.4.1.1.2",  # CT Image
            "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image
            "1.2.840.10008.5.1.4.1.1.4",  # MR Image
            "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR Image
            "1.2.840.10008.5.1.4.1.1.128",  # Positron Emission Tomography Image
            "1.2.840.10008.5.1.4.1.1.130",  # Enhanced PET Image
        }
    )

    @property
    def edition(self) -> str:
        """The edition of PS3.15 whose table is applied, such as "2026c"."""
        return action_table().edition

    @property
    def statement(self) -> str:
        """What (0012,0063) De-identification Method says of us; at most 64 characters."""
        return f"Isocenter {self.profile} v{self.version}, PS3.15 {self.edition} Annex E"


BASIC: Final = Policy()  # the Basic Application Confidentiality Profile without options


class Plan(dict[int, Step]):
    """The steps of one policy for one SOP class, each computed when first asked for.

    The key is `sequence << 32 | tag`, sequence being the tag of the enclosing one or `ROOT`.
    """

    def __init__(self, sop_class_uid: str) -> None:
        self._sop_class_uid = sop_class_uid
        super().__init__()

    def __missing__(self, key: int) -> Step:
        sequence, tag = key >> 32, key & 0xFFFFFFFF
        self[key] = step = basic_step(self._sop_class_uid, sequence, tag)
        return step


@lru_cache(maxsize=PLANS_MAX)
def plan(policy: Policy, sop_class_uid: str) -> Plan:
    """The plan of policy for objects of a SOP class."""
    assert policy.profile == BASIC.profile, "no other profile is known yet"
    return Plan(sop_class_uid)


def basic_step(sop_class_uid: str, sequence: int, tag: int) -> Step:
    """The step of the Basic Profile for tag, within sequence or at the root.

    Private attributes and whatever neither the table nor the dictionary knows are removed. Where
    the table leaves a choice, the Type in the IOD decides (PS3.15 E.1.1, Table E.1-1a).
    """
    vr, printed = dictionary_vr(tag), table_action(tag)
    if _is_always_removed(tag) or (vr is None and printed in (None, "K")):
        return Step(Action.REMOVE, "UN")
    type_ = required_type(sop_class_uid, sequence, tag)
    if printed is not None:
        return Step(_of_table(printed, type_), vr or "UN")
    assert vr is not None
    return _beyond_table(tag, vr, type_)


def _is_always_removed(tag: int) -> bool:
    group = tag >> 16
    return (
        group % 2 == 1
        or group in _REMOVED_GROUPS
        or group & 0xFF00 in (0x5000, 0x6000)
        or tag in _REMOVED
        or tag & 0xFFFF == 0  # group lengths are retired, and would be wrong after cleaning
    )


def _of_table(printed: str, type_: str | None) -> Action:
    """One action for what the table prints; `X/Z/U*` keeps the sequence and cleans its items."""
    if printed == "X/Z/U*":
        return Action.KEEP
    if printed in ("X", "D", "U"):
        return Action(printed)
    if type_ == "1":
        return Action.DUMMY
    return Action.EMPTY if type_ == "2" or "X" not in printed else Action.REMOVE


def _beyond_table(tag: int, vr: str, type_: str | None) -> Step:
    """The step for an attribute of the dictionary that the table does not list."""
    by_type = _BY_TYPE[type_]
    if tag in _LABELS:
        return Step(Action.DUMMY, vr)
    if vr == "UI":
        return Step(Action.CHECK if tag in CLASS_UIDS else Action.REPLACE_UID, vr)
    if vr == "SQ" or tag in _BULK:
        return Step(Action.KEEP, vr)
    if tag in _TECHNICAL_TEXT:
        return Step(Action.CHECK, vr, by_type)
    if vr in _CHECKED:
        # Their Types are not at hand, and an empty value satisfies all but Type 1.
        return Step(Action.CHECK, vr, Action.EMPTY if len(vr) == 2 else Action.REMOVE)
    return Step(by_type, vr)


_BY_TYPE: Final = {"1": Action.DUMMY, "2": Action.EMPTY, None: Action.REMOVE}

# Values of these representations are short, formal and checkable, so they stay (PS3.5 6.2).
_CHECKED: Final = frozenset(
    ["AT", "CS", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "US or SS", "UV"]
)

# Command, file meta and directory groups have no place inside a data set; the rest was never used.
_REMOVED_GROUPS: Final = frozenset({0x0000, 0x0002, 0x0004, 0x0006})

_REMOVED: Final = frozenset(
    {
        0x00080005,  # Specific Character Set: the result is written in one of our own choice
        0x00080110,  # Coding Scheme Identification Sequence: addresses and names in free text
        0x00081120,  # Referenced Patient Sequence
        0x00880200,  # Icon Image Sequence: it shows what was burned into the pixels
        0x04000500,  # Encrypted Attributes Sequence
        0x04000561,  # Original Attributes Sequence
        0xFFFAFFFA,  # Digital Signatures Sequence
        0xFFFCFFFC,  # Data Set Trailing Padding
    }
)

# These name classes, syntaxes and coding schemes, not instances; private ones exist (PS3.5 9).
CLASS_UIDS: Final = frozenset(
    {
        0x00080016,  # SOP Class UID
        0x0008001A,  # Related General SOP Class UID
        0x0008001B,  # Original Specialized SOP Class UID
        0x00080062,  # SOP Classes in Study
        0x0008010C,  # Coding Scheme UID
        0x00080117,  # Context UID
        0x00080118,  # Mapping Resource UID
        0x0008040E,  # Stored Instance Transfer Syntax UID
        0x00081150,  # Referenced SOP Class UID
        0x0008115A,  # SOP Classes Supported
        0x00083002,  # Available Transfer Syntax UID
        0x04000010,  # MAC Calculation Transfer Syntax UID
        0x04000510,  # Encrypted Content Transfer Syntax UID
    }
)

# Code strings that people type, and that other attributes may require.
_LABELS: Final = frozenset({0x00700002, 0x00700080})  # Graphic Layer, Content Label

# Pixels and what is needed to read them; every other binary attribute is removed.
_BULK: Final = frozenset(
    {
        0x00281201,  # Red Palette Color Lookup Table Data, and its fellows
        0x00281202,
        0x00281203,
        0x00281204,
        0x00281221,
        0x00281222,
        0x00281223,
        0x00281224,
        0x00283006,  # LUT Data
        0x7FE00001,  # Extended Offset Table, and its lengths
        0x7FE00002,
        0x7FE00008,  # Float Pixel Data
        0x7FE00009,  # Double Float Pixel Data
        0x7FE00010,  # Pixel Data
    }
)

# Short text that scanners write and nobody types: kept if it can be decoded.
_TECHNICAL_TEXT: Final = frozenset(
    {
        0x00080070,  # Manufacturer
        0x00080222,  # Manufacturer's Related Model Group
        0x00081090,  # Manufacturer's Model Name
        0x00120063,  # De-identification Method: earlier ones are kept (PS3.15 E.1.1)
        0x00180024,  # Sequence Name
        0x00180085,  # Imaged Nucleus
        0x00181020,  # Software Versions
        0x00181085,  # PVC Rejection
        0x00181160,  # Filter Type
        0x00181210,  # Convolution Kernel
        0x00181250,  # Receive Coil Name
        0x00181251,  # Transmit Coil Name
        0x00189005,  # Pulse Sequence Name
        0x00189041,  # Receive Coil Manufacturer Name
        0x00189047,  # Multi-Coil Element Name
        0x00189050,  # Transmit Coil Manufacturer Name
        0x00189320,  # Image Filter
        0x00209056,  # Stack ID
        0x00281054,  # Rescale Type
        0x00283004,  # Modality LUT Type
        0x00541101,  # Attenuation Correction Method
        0x00541103,  # Reconstruction Method
        0x00541104,  # Detector Lines of Response Used
        0x00541105,  # Scatter Correction Method
    }
)
