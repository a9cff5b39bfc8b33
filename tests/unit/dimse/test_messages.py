"""PDVs, command sets and messages: what is read is what was written, and nothing else is read."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.dimse import messages
from pacs.dimse.messages import COMMAND, LAST, Assembler, Message, Pdv
from pacs.errors import Exhausted, Refused

ECHO = messages.write_command(
    [(messages.COMMAND_FIELD, 0x30), (messages.DATA_SET_TYPE, messages.NO_DATA_SET)]
)
STORE = messages.write_command(
    [
        (messages.COMMAND_FIELD, messages.C_STORE_RQ),
        (messages.DATA_SET_TYPE, messages.WITH_DATA_SET),
    ]
)


def pdv(context_id: int, control: int, fragment: bytes) -> Pdv:
    return Pdv(context_id, control, memoryview(fragment))


def assembled(*values: Pdv, bytes_max: int = 1_000) -> list[Message]:
    assembler = Assembler(bytes_max)
    return [message for value in values if (message := assembler.add(value))]


@given(st.binary(max_size=300))
def test_any_bytes_are_values_or_refused(body: bytes) -> None:
    try:
        found = messages.pdvs(memoryview(body))
    except Refused:
        return
    rebuilt = b"".join(
        struct.pack(">IBB", len(value.fragment) + 2, value.context_id, value.control)
        + value.fragment
        for value in found
    )
    assert rebuilt == body


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_refused(encoded: bytes) -> None:
    try:
        command = messages.read_command(encoded)
    except Refused:
        return
    assert messages.COMMAND_FIELD in command


@given(
    st.integers(0, 0xFFFF),
    st.text(st.characters(min_codepoint=33, max_codepoint=255), min_size=1, max_size=64),
)
def test_a_command_is_read_as_it_was_written(status: int, uid: str) -> None:
    elements: list[tuple[int, int | str]] = [
        (messages.AFFECTED_CLASS, uid),
        (messages.COMMAND_FIELD, 1),
        (messages.DATA_SET_TYPE, 1),
        (messages.STATUS, status),
    ]
    encoded = messages.write_command(elements)
    assert len(encoded) % 2 == 0
    command = messages.read_command(encoded)
    assert int.from_bytes(command[messages.GROUP_LENGTH], "little") == len(encoded) - 12
    assert messages.number(command, messages.STATUS) == status
    assert messages.uid(command, messages.AFFECTED_CLASS) == uid


def test_one_trailing_nul_or_space_of_an_uid_is_padding_and_no_more() -> None:
    for raw, uid in [(b"1.2\0", "1.2"), (b"1.2 ", "1.2"), (b"1.2\0\0", "1.2\0"), (b"", "")]:
        assert messages.uid({messages.AFFECTED_CLASS: raw}, messages.AFFECTED_CLASS) == uid
    assert messages.uid({messages.AFFECTED_CLASS: b"1.\xff2"}, messages.AFFECTED_CLASS) == "1.ÿ2"


@pytest.mark.parametrize("size", [1, 7, 40, 1_000])
def test_a_message_in_any_fragments_is_the_same_message(size: int) -> None:
    data_set = bytes(range(256))

    def fragments(control: int, whole: bytes) -> list[Pdv]:
        cuts = range(0, len(whole), size)
        return [
            pdv(1, control | (LAST if cut == cuts[-1] else 0), whole[cut : cut + size])
            for cut in cuts
        ]

    (message,) = assembled(*fragments(COMMAND, STORE), *fragments(0, data_set))
    assert message.encoded == STORE
    assert message.data_set is not None
    assert bytes(message.data_set.buffer()) == data_set


def test_messages_follow_one_another_on_any_context() -> None:
    found = assembled(
        pdv(1, 3, ECHO), pdv(3, 3, STORE), pdv(3, 2, b"x"), pdv(5, 1, ECHO[:9]), pdv(5, 3, ECHO[9:])
    )
    assert [message.context_id for message in found] == [1, 3, 5]
    assert [message.data_set is None for message in found] == [True, False, True]


@pytest.mark.parametrize(
    "values",
    [
        [pdv(1, 2, b"data")],
        [pdv(1, 3, STORE), pdv(3, 2, b"data")],
        [pdv(1, 3, STORE), pdv(1, 3, ECHO)],
        [pdv(1, 1, ECHO[:9]), pdv(1, 2, b"data")],
        [pdv(1, 3, ECHO[:-1])],
        [pdv(1, 3, b"\x08\0" + ECHO[2:])],
        [pdv(1, 1, bytes(messages.COMMAND_BYTES_MAX)), pdv(1, 1, b"x")],
    ],
)
def test_values_out_of_order_are_refused(values: list[Pdv]) -> None:
    with pytest.raises(Refused):
        assembled(*values)


def test_a_data_set_beyond_its_limit_is_forgotten_but_its_message_completes() -> None:
    values = [pdv(1, 3, STORE), *[pdv(1, 0, bytes(400))] * 5, pdv(1, 2, b"end"), pdv(1, 3, ECHO)]
    store, echo = assembled(*values)
    assert store.data_set is not None
    with pytest.raises(Exhausted, match="larger than this node takes"):
        store.data_set.buffer()
    assert echo.data_set is None


def test_a_data_set_of_exactly_its_limit_is_kept() -> None:
    (message,) = assembled(pdv(1, 3, STORE), pdv(1, 0, bytes(400)), pdv(1, 2, bytes(600)))
    assert message.data_set is not None
    assert len(message.data_set.buffer()) == 1_000


def test_every_kind_of_pdu_has_a_longest_length_and_others_are_refused() -> None:
    longest = [
        messages.length_max(kind, associate_bytes_max=1_000, data_bytes_max=2_000)
        for kind in range(1, 8)
    ]
    assert longest == [1_000, 1_000, 64, 2_000, 64, 64, 64]
    for kind in (0, 8, 255):
        with pytest.raises(Refused, match="unknown"):
            messages.length_max(kind, associate_bytes_max=1, data_bytes_max=1)


@given(st.binary(max_size=300))
def test_any_associate_body_is_counted_or_refused(body: bytes) -> None:
    messages.check_associate(memoryview(body))


@pytest.mark.parametrize("inside", [b"", b"\x50\0\xff\xfc"])
def test_an_associate_with_absurdly_many_items_is_refused(inside: bytes) -> None:
    body = bytes(68) + inside + b"\x30\0\0\0" * 20_000
    with pytest.raises(Refused, match="too many items"):
        messages.check_associate(memoryview(body))
