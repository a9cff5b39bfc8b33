"""What the standard says of an attribute: its action in PS3.15 Table E.1-1, its VR, its Type.

Two data files hold the facts. `table.csv` is Table E.1-1 of one edition; `iod_types.json` lists
the attributes that the object definitions of PS3.3 require (Type 1 and 2, conditional or not).
Both are generated from other packages' data and compared with them by a test. Attributes are known
by number, never by keyword: the table holds attributes that pydicom's dictionary does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.uid import UID

ROOT: Final = 0  # stands for "in no sequence" where the tag of the enclosing sequence is asked for

Types = Mapping[int, str]  # tag -> "1" or "2"


class ActionTable(NamedTuple):
    """Table E.1-1: the action of each tag, and of the tags with digits left open."""

    edition: str
    by_tag: Mapping[int, str]
    masked: tuple[tuple[int, int, str], ...]  # mask, value, action


@cache
def action_table() -> ActionTable:
    """The Basic Profile's column of Table E.1-1, in the edition that line one names."""
    first, _, *rows = files(__package__).joinpath("table.csv").read_text().splitlines()
    pairs = [row.split(",") for row in rows]
    return ActionTable(
        edition=first.partition("edition ")[2].partition(";")[0],
        by_tag={int(tag, 16): action for tag, action in pairs if "x" not in tag},
        masked=tuple((*_mask(tag), action) for tag, action in pairs if "x" in tag),
    )


def table_action(tag: int) -> str | None:
    """The action that Table E.1-1 prints for tag, such as "X/Z/D", or None where it is silent."""
    table = action_table()
    if tag in table.by_tag:
        return table.by_tag[tag]
    return next((action for mask, value, action in table.masked if tag & mask == value), None)


def required_type(sop_class_uid: str, sequence: int, tag: int) -> str | None:
    """ "1", "2", or None for an attribute that is optional, unknown or foreign to the IOD.

    sequence is the tag of the enclosing sequence, or `ROOT`. Within a sequence the strictest of
    all IODs speaks, since they hardly ever differ there.
    """
    root, nested = _iod_types()
    types = root.get(sop_class_uid, {}) if sequence == ROOT else nested.get(sequence, {})
    return types.get(tag)


def dictionary_vr(tag: int) -> str | None:
    """The VR of PS3.6, such as "US or SS" where it depends; None for an unknown attribute."""
    return dictionary_VR(tag) if dictionary_has_tag(tag) else None


def registered_name(uid: str) -> str | None:
    """The name that PS3.6 Annex A gives a UID, such as "CT Image Storage"; None for any other."""
    name = UID(uid, validation_mode=IGNORE).name
    return None if name == uid else name


@cache
def _iod_types() -> tuple[Mapping[str, Types], Mapping[int, Types]]:
    facts: dict[str, Any] = json.loads(files(__package__).joinpath("iod_types.json").read_text())
    root = {uid: _types(lists) for uid, lists in facts["root"].items()}
    nested = {int(tag, 16): _types(lists) for tag, lists in facts["nested"].items()}
    return root, nested


def _types(lists: Mapping[str, str]) -> Types:
    return {int(tag, 16): type_ for type_, tags in lists.items() for tag in tags.split()}


def _mask(tag: str) -> tuple[int, int]:
    return int("".join("0" if c == "x" else "F" for c in tag), 16), int(tag.replace("x", "0"), 16)
