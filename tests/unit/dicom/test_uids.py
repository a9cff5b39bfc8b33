"""UIDs: what may come through a door, and what is made here."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.dicom.uids import UID_CHARACTERS_MAX, derived_uid, is_valid


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.1", "0", "1.02.3", "1" * UID_CHARACTERS_MAX])
def test_what_scanners_write_passes(uid: str) -> None:
    assert is_valid(uid)


@pytest.mark.parametrize(
    "uid",
    [
        *("", " ", "1.2.3 ", "1.2.3\0", "1.2.3\n", "1" * (UID_CHARACTERS_MAX + 1)),
        *(
            ".",
            "..",
            ".1",
            "../../x",
            "/etc/cron.d/x",
            "..\\x",
            "a\0b",
            "1;id",
            "١.٢",
            "1.2.3²",
            "1_0",
        ),
    ],
)
def test_what_could_do_harm_does_not(uid: str) -> None:
    assert not is_valid(uid)


@given(st.lists(st.text(), min_size=1))
def test_a_derived_uid_is_valid_and_repeatable(parts: list[str]) -> None:
    uid = derived_uid(*parts)
    assert is_valid(uid)
    assert uid == derived_uid(*parts)
    made = uuid.UUID(int=int(uid.removeprefix("2.25.")))
    assert (made.version, made.variant) == (8, uuid.RFC_4122)


def test_other_parts_give_another_uid() -> None:
    assert len({derived_uid("a", "b"), derived_uid("ab"), derived_uid("b", "a")}) == 3
