"""Which action the Basic Profile takes for an attribute at its place."""

from __future__ import annotations

import pytest

from pacs.deid.policy import BASIC, Action, Step, basic_step
from pacs.deid.standard import ROOT
from tests.unit.deid.objects import CT_IMAGE

PET_IMAGE = "1.2.840.10008.5.1.4.1.1.128"


@pytest.mark.parametrize(
    ("sop_class_uid", "tag", "action"),
    [
        (CT_IMAGE, 0x00080021, Action.REMOVE),  # X/D, Type 3
        (PET_IMAGE, 0x00080021, Action.DUMMY),  # X/D, Type 1
        (PET_IMAGE, 0x00080022, Action.EMPTY),  # X/Z, Type 2
        (CT_IMAGE, 0x00080023, Action.EMPTY),  # Z/D, Type 2C
        (CT_IMAGE, 0x00080080, Action.REMOVE),  # X/Z/D, Type 3
        ("1.2.3", 0x00080080, Action.REMOVE),  # X/Z/D of an unknown class
        ("1.2.3", 0x00080020, Action.EMPTY),  # plain Z stays Z
        (CT_IMAGE, 0x00081140, Action.KEEP),  # X/Z/U* of a sequence: its items are cleaned
    ],
)
def test_a_choice_is_settled_by_the_type(sop_class_uid: str, tag: int, action: Action) -> None:
    assert basic_step(sop_class_uid, ROOT, tag).action is action


# What PS3.15 Table E.1-1 leaves out, as found by planting identifiers and reading PS3.6.
UIDS = [0x00081167, 0x00083012, 0x0018991E, 0x00200242, 0x00209312, 0x00209313, 0x00280304]
MORE_UIDS = [0x00687004, 0x0070031B, 0x00701209, 0x0072007F, 0x300A0675]
NAMES = [0x00140104, 0x00142006, 0x0040A067]
DATES = [0x00080404, 0x00080416, 0x0008041F, 0x00140102, 0x00141020, 0x00143076, 0x00144076]
MORE_DATES = [0x00144078, 0x0014407A, 0x40101025, 0x40101026, 0x4010102B, 0x40101041]
LABELS = [0x00620005, 0x00620006, 0x00700081, 0x60001500, 0x60000022]
MISPLACED_GROUPS = [0x00001030, 0x00020016, 0x00020102, 0x00041432]
COPIES = [0x00081120, 0x00880200, 0x04000500, 0x04000561, 0xFFFAFFFA, 0xFFFCFFFC]


@pytest.mark.parametrize("tag", [*UIDS, *MORE_UIDS])
def test_every_uid_of_an_instance_is_replaced(tag: int) -> None:
    assert basic_step(CT_IMAGE, ROOT, tag).action is Action.REPLACE_UID


@pytest.mark.parametrize("tag", [*NAMES, *DATES, *MORE_DATES, *LABELS, *MISPLACED_GROUPS, *COPIES])
def test_what_the_table_leaves_out_is_removed(tag: int) -> None:
    assert basic_step(CT_IMAGE, ROOT, tag).action is Action.REMOVE


def test_a_label_is_replaced_by_a_constant() -> None:
    assert basic_step(CT_IMAGE, ROOT, 0x00700080) == Step(Action.DUMMY, "CS")


@pytest.mark.parametrize("tag", [0x00091001, 0x00290010, 0x00110010, 0x7FE11010])
def test_private_attributes_are_removed(tag: int) -> None:
    assert basic_step(CT_IMAGE, ROOT, tag).action is Action.REMOVE


def test_an_attribute_that_nobody_knows_is_removed() -> None:
    assert basic_step(CT_IMAGE, ROOT, 0x00080FFF).action is Action.REMOVE


def test_the_statement_fits_into_its_attribute() -> None:
    assert BASIC.statement == "Isocenter basic v1, PS3.15 2026c Annex E"
    assert len(BASIC.statement) <= 64
