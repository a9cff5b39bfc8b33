"""The decisions of a retrieval: which form leaves, in how many associations, and how it ended."""

from __future__ import annotations

import pytest

from pacs.archive import Held
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN as EXPLICIT
from pacs.dicom.part10 import IMPLICIT_VR_LITTLE_ENDIAN as IMPLICIT
from pacs.dimse.identifiers import read_identifier
from pacs.dimse.messages import COUNT_MAX, Counts
from pacs.dimse.retrieve import FAILED_UIDS_MAX, Tally
from pacs.dimse.sending import batches, leaving_as
from pacs.errors import Refused

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
JPEG_2000, VIDEO = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.102"


def held(sop_class_uid: str = CT, syntax: str = EXPLICIT, number: int = 1) -> Held:
    return Held("1.2", sop_class_uid, f"1.3.{number}", syntax, "0" * 64, 1_000, 400)


@pytest.mark.parametrize(
    ("stored", "accepted", "leaves"),
    [
        (EXPLICIT, [EXPLICIT, IMPLICIT], EXPLICIT),
        (IMPLICIT, [EXPLICIT, IMPLICIT], IMPLICIT),
        (EXPLICIT, [IMPLICIT], IMPLICIT),
        (JPEG_2000, [EXPLICIT, JPEG_2000], JPEG_2000),
        (JPEG_2000, [IMPLICIT, EXPLICIT], EXPLICIT),
        (JPEG_2000, [IMPLICIT], IMPLICIT),
        (VIDEO, [VIDEO], VIDEO),
    ],
)
def test_the_stored_form_leaves_where_it_is_taken(
    stored: str, accepted: list[str], leaves: str
) -> None:
    contexts = {(CT, syntax): 2 * number + 1 for number, syntax in enumerate(accepted)}
    assert leaving_as(held(syntax=stored), contexts) == leaves


@pytest.mark.parametrize(
    ("stored", "accepted"),
    [(VIDEO, [EXPLICIT, IMPLICIT]), (EXPLICIT, [JPEG_2000]), (JPEG_2000, [])],
)
def test_nothing_is_compressed_and_what_cannot_be_decoded_stays(
    stored: str, accepted: list[str]
) -> None:
    contexts = {(CT, syntax): 1 for syntax in accepted}
    with pytest.raises(Refused):
        leaving_as(held(syntax=stored), contexts)


def test_a_class_that_was_not_accepted_takes_nothing() -> None:
    with pytest.raises(Refused):
        leaving_as(held(MR), {(CT, EXPLICIT): 1})


def test_each_kind_proposes_its_own_syntax_alone_and_what_can_be_made_of_it() -> None:
    selected = [held(CT, EXPLICIT, 1), held(CT, JPEG_2000, 2), held(MR, IMPLICIT, 3)]
    ((contexts, instances),) = batches(selected)
    assert contexts == [
        (CT, EXPLICIT),
        (CT, EXPLICIT, IMPLICIT),
        (CT, JPEG_2000),
        (MR, IMPLICIT),
        (MR, EXPLICIT, IMPLICIT),
    ]
    assert instances == selected


def test_no_association_proposes_more_than_128_contexts() -> None:
    selected = [held(f"{CT}.{number % 100}", EXPLICIT, number) for number in range(300)]
    found = list(batches(selected))
    assert [len(contexts) for contexts, _ in found] == [128, 72]
    assert sorted(one for _, some in found for one in some) == sorted(selected)


def test_nothing_selected_needs_no_association() -> None:
    assert list(batches([])) == []


def test_the_counts_add_up_and_the_status_follows() -> None:
    tally = Tally(5)
    for number, status in enumerate((0x0000, 0xB007, 0xA700, None)):
        tally.add(f"1.{number}", status)
        answer = tally.pending()
        assert answer.status == 0xFF00
        assert answer.counts is not None
        assert sum(count or 0 for count in answer.counts) == 5
    assert tally.pending().counts == Counts(1, 1, 2, 1)
    cancelled = tally.final(EXPLICIT, is_cancelled=True)
    assert (cancelled.status, cancelled.counts) == (0xFE00, Counts(1, 1, 2, 1))
    tally.add("1.9", 0x0000)
    ended = tally.final(EXPLICIT, is_cancelled=False)
    assert (ended.status, ended.counts) == (0xB000, Counts(None, 2, 2, 1))
    assert read_identifier(ended.identifier, EXPLICIT).keys[0x00080058].text == "1.2\\1.3"


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ([], 0x0000),
        ([0, 0], 0x0000),
        ([0, 0xB000], 0xB000),
        ([0, 0xA900], 0xB000),
        ([0xA700, None], 0xA702),
        ([0xB006, 0xC000], 0xB000),
    ],
)
def test_how_a_retrieval_ended(statuses: list[int | None], status: int) -> None:
    tally = Tally(len(statuses))
    for number, one in enumerate(statuses):
        tally.add(f"1.{number}", one)
    assert tally.final(IMPLICIT, is_cancelled=False).status == status


def test_counts_and_lists_stay_in_their_bounds() -> None:
    tally = Tally(200_000, completed=70_000, failed=[f"1.2.{n}" for n in range(70_000)])
    answer = tally.final(EXPLICIT, is_cancelled=True)
    assert answer.counts == Counts(60_000, COUNT_MAX, COUNT_MAX, 0)
    named = read_identifier(answer.identifier, EXPLICIT).keys[0x00080058].text
    assert len(named.split("\\")) == FAILED_UIDS_MAX
