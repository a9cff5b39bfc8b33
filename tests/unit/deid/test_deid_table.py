"""The two data files against the packages they come from, and against figures written by hand."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files

import pytest

from pacs.deid.standard import ROOT, action_table, required_type, table_action
from tests.unit.deid import standard_sources
from tests.unit.deid.objects import CT_IMAGE


def test_the_table_is_the_one_of_the_source_package() -> None:
    assert _packaged("table.csv") == standard_sources.table_csv()


def test_the_types_are_those_of_the_source_package() -> None:
    assert _packaged("iod_types.json") == standard_sources.iod_types_json()


def test_the_table_counts_its_actions_as_edition_2026c_does() -> None:
    table = action_table()
    actions = Counter([*table.by_tag.values(), *(action for _, _, action in table.masked)])
    assert table.edition == "2026c"
    assert actions == {
        "X": 415,
        "D": 93,
        "U": 55,
        "Z": 42,
        "X/D": 23,
        "X/Z": 11,
        "X/Z/D": 8,
        "Z/D": 6,
        "X/Z/U*": 2,
    }


@pytest.mark.parametrize(
    ("tag", "action"),
    [
        (0x00100010, "Z"),
        (0x00100013, "X"),  # new in 2026c: no dictionary at hand knows it
        (0x00081140, "X/Z/U*"),
        (0x50120010, "X"),  # repeating groups
        (0x60023000, "X"),
        (0x60020010, None),
        (0x00280010, None),
    ],
)
def test_an_action_is_found_by_number(tag: int, action: str | None) -> None:
    assert table_action(tag) == action


@pytest.mark.parametrize(
    ("sop_class_uid", "sequence", "tag", "type_"),
    [
        (CT_IMAGE, ROOT, 0x00080020, "2"),  # Study Date
        (CT_IMAGE, ROOT, 0x00080080, None),  # Institution Name is optional
        (CT_IMAGE, ROOT, 0x00080021, None),  # Series Date is optional in a CT ...
        ("1.2.840.10008.5.1.4.1.1.128", ROOT, 0x00080021, "1"),  # ... and required in a PET
        (CT_IMAGE, 0x00101002, 0x00100020, "1"),  # Patient ID within Other Patient IDs
        ("1.2.3", ROOT, 0x00080020, None),
    ],
)
def test_types_are_known_by_sop_class_and_sequence(
    sop_class_uid: str, sequence: int, tag: int, type_: str | None
) -> None:
    assert required_type(sop_class_uid, sequence, tag) == type_


def _packaged(name: str) -> str:
    return files("pacs.deid").joinpath(name).read_text()
