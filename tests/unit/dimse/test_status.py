"""What a DIMSE peer is told about our errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from pacs import errors
from pacs.dimse.status import (
    SOP_CLASS_NOT_SUPPORTED,
    STORE,
    STORED_WITH_WARNING,
    SUCCESS,
    comment_of,
    status_of,
)


def tree(root: type[errors.NodeError]) -> list[type[errors.NodeError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in tree(child))]


def test_every_status_is_one_of_the_storage_service() -> None:
    statuses = {*STORE.values(), SUCCESS, STORED_WITH_WARNING, SOP_CLASS_NOT_SUPPORTED}
    assert statuses <= STORAGE_SERVICE_CLASS_STATUS.keys()


@pytest.mark.parametrize("error", tree(errors.NodeError))
def test_every_error_is_a_failure_to_the_peer(error: type[errors.NodeError]) -> None:
    category, _ = STORAGE_SERVICE_CLASS_STATUS[status_of(error.__new__(error), STORE)]
    assert category == "Failure"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.BadObject(), 0xC000),
        (errors.Mismatch(), 0xA900),
        (errors.Conflict(), 0xC111),
        (errors.Forbidden(), 0x0124),
        (errors.Exhausted(), 0xA700),
        (errors.Unreachable(), 0xA700),
        (errors.Corrupt(), 0x0110),
    ],
)
def test_an_error_is_answered_like_its_nearest_ancestor(
    error: errors.NodeError, status: int
) -> None:
    assert status_of(error, STORE) == status


@given(st.text(max_size=200))
def test_a_comment_is_printable_ascii_of_at_most_64_characters(sentence: str) -> None:
    comment = comment_of(sentence)
    assert len(comment) <= 64
    assert all(" " <= character <= "~" for character in comment)
    assert "\\" not in comment
