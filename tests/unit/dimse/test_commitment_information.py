"""What a peer may put into a request or a report: it is read, or refused, and nothing else."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from pacs.commitment import REFERENCES_MAX, Reference
from pacs.dicom.data_sets import written
from pacs.dimse.commitment import INFORMATION_BYTES_MAX, Information, read_information
from pacs.errors import BadObject, Exhausted, Refused
from tests import make

CT = "1.2.840.10008.5.1.4.1.1.2"

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom warns of what is refused then


def report(syntax: str) -> bytes:
    """A report on two instances, of which one failed."""
    items = [Dataset(), Dataset()]
    for number, item in enumerate(items):
        item.ReferencedSOPClassUID = CT
        item.ReferencedSOPInstanceUID = f"1.2.{number}"
    items[1].FailureReason = 0x0112
    made = Dataset()
    made.TransactionUID = "1.2.3"
    made.ReferencedSOPSequence = items[:1]
    made.FailedSOPSequence = items[1:]
    return written(made, syntax)


each_syntax = pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT])


@each_syntax
def test_a_report_is_read(syntax: str) -> None:
    told = read_information(BytesIO(report(syntax)), syntax)
    failed = Reference(CT, "1.2.1", 0x0112)
    assert told == Information("1.2.3", [Reference(CT, "1.2.0")], [failed])
    assert told.verdicts == {(CT, "1.2.0"): 0, (CT, "1.2.1"): 0x0112}


def test_what_is_named_twice_has_failed() -> None:
    both = [Reference(CT, "1.2.0")]
    assert Information("1.2.3", both, both).verdicts == {(CT, "1.2.0"): 0x0110}


@each_syntax
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 400),
)
@settings(max_examples=300, deadline=None)
def test_whatever_comes_is_read_or_refused(
    syntax: str, changes: list[tuple[int, int]], end: int
) -> None:
    raw = bytearray(report(syntax))
    for at, value in changes:
        raw[at % len(raw)] = value
    try:
        told = read_information(BytesIO(bytes(raw[: len(raw) - end % 40])), syntax)
    except Refused:
        return
    assert all(isinstance(reason, int) for reason in told.verdicts.values())


def test_an_item_is_counted_before_it_is_made() -> None:
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * (REFERENCES_MAX + 1)
    raw = struct.pack("<HH2sHI", 0x0008, 0x1199, b"SQ", 0, len(items)) + items
    with pytest.raises(Exhausted):
        read_information(BytesIO(raw), make.EXPLICIT)


def test_a_data_set_that_is_too_long_is_refused() -> None:
    with pytest.raises(Exhausted):
        read_information(BytesIO(bytes(INFORMATION_BYTES_MAX + 2)), make.EXPLICIT)


def test_a_sequence_in_ten_thousand_levels_is_refused() -> None:
    nested = b""
    for _ in range(10_000):
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(nested)) + nested
        nested = struct.pack("<HH2sHI", 0x0008, 0x1199, b"SQ", 0, len(item)) + item
    with pytest.raises(BadObject):
        read_information(BytesIO(nested), make.EXPLICIT)


def test_no_data_set_is_refused() -> None:
    with pytest.raises(BadObject):
        read_information(None, make.EXPLICIT)
