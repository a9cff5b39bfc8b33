"""Who may associate, and in which contexts."""

from __future__ import annotations

import pytest
from pydicom.uid import UID
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import _STORAGE_CLASSES

from pacs.dimse import scp
from pacs.dimse.entity import VERIFICATION

PRIVATE = "1.2.826.0.1.3680043.9.1"


def request(
    called: str = "ISOCENTER",
    *,
    calling: str = "SCANNER",
    application: str = scp.APPLICATION_CONTEXT,
) -> A_ASSOCIATE:
    asked = A_ASSOCIATE()
    asked.application_context_name = UID(application)
    asked._called_ae_title = called
    asked._calling_ae_title = calling
    return asked


@pytest.mark.parametrize(
    ("asked", "is_draining", "is_over_the_cap", "answer"),
    [
        (request(), False, False, None),
        (request("ISOCENTER   "), False, False, None),
        (request("isocenter"), False, False, (1, 1, 7)),
        (request(application="1.2.3"), False, False, (1, 1, 2)),
        (request(calling="  "), False, False, (1, 1, 3)),
        (request("OTHER"), False, True, (2, 3, 2)),
        (request("OTHER"), True, True, (2, 3, 1)),
    ],
)
def test_a_rejection_names_what_must_change_first(
    asked: A_ASSOCIATE,
    is_draining: bool,
    is_over_the_cap: bool,
    answer: tuple[int, int, int] | None,
) -> None:
    verdict = scp.rejection(
        asked, ae_title="ISOCENTER", is_draining=is_draining, is_over_the_cap=is_over_the_cap
    )
    assert verdict == answer


@pytest.mark.parametrize("sop_class_uid", _STORAGE_CLASSES.values())
def test_every_storage_class_of_the_standard_is_storage(sop_class_uid: str) -> None:
    assert scp.is_storage(sop_class_uid, frozenset())


@pytest.mark.parametrize(
    ("sop_class_uid", "expected"),
    [
        (f"{scp.STORAGE_ROOT}987.1", True),  # of a later edition than ours
        (f"{scp.STORAGE_ROOT}200.5", False),  # Protocol Approval MOVE
        ("1.2.840.10008.5.1.4.1.1", False),
        ("1.2.840.10008.5.1.4.1.2.2.1", False),  # Study Root FIND
        ("1.2.840.10008.1.1", False),
        (PRIVATE, True),
        (f"{PRIVATE}.1", False),
    ],
)
def test_other_classes_are_storage_by_root_or_by_list(sop_class_uid: str, expected: bool) -> None:
    assert scp.is_storage(sop_class_uid, frozenset({PRIVATE})) is expected


def proposal(sop_class_uid: str, *transfer_syntax_uids: str) -> PresentationContext:
    context = PresentationContext()
    context.abstract_syntax = UID(sop_class_uid)
    for transfer_syntax_uid in transfer_syntax_uids:
        context.add_transfer_syntax(transfer_syntax_uid)
    return context


def test_each_storage_context_is_answered_with_its_own_first_transfer_syntax() -> None:
    ct = f"{scp.STORAGE_ROOT}2"
    proposed = [
        proposal(ct, "1.2.1", "1.2.2"),
        proposal(ct, "1.2.2", "1.2.1"),
        proposal("1.2.3", "1.2"),
    ]
    verification, *_, storage = scp.supported(proposed, frozenset())
    assert verification.abstract_syntax == VERIFICATION
    assert storage.abstract_syntax == ct
    assert storage.transfer_syntax == ["1.2.1", "1.2.2"]
    assert [context.transfer_syntax for context in proposed] == [["1.2.1"], ["1.2.2"], ["1.2"]]
