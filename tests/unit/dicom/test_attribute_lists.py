"""Attribute lists: whatever is let in can leave by either door, and comes back the same."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pacs.dicom.attribute_lists import (
    DEPTH_MAX,
    LIST_BYTES_MAX,
    checked,
    data_set,
    element,
    first,
    parse,
    read,
)
from pacs.dicom.data_sets import written
from pacs.errors import BadObject, Exhausted, NodeError
from tests import make

GROUPS = {"Alphabetic": "Müller^Eva", "Ideographic": "山田^太郎", "Phonetic": "やまだ"}
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\"), max_size=20)
DATE = st.from_regex(r"[0-9]{8}", fullmatch=True)
VALUES = {
    "PatientName": st.just(GROUPS),
    "PatientID": TEXT.filter(lambda text: text.strip(" ") == text != ""),
    "PatientBirthDate": DATE,
    "StudyTime": st.sampled_from(["10", "1030", "103059", "103059.123456"]),
    "ScheduledProcedureStepStartDateTime": st.sampled_from(["2026", "202601021030+0100"]),
    "ReasonForCancellation": st.just("two\\lines\r\nof text"),
    "ProcedureStepProgress": st.floats(0, 100),
    "InstanceNumber": st.integers(-(1 << 31), (1 << 31) - 1),
    "Rows": st.integers(0, 65_535),
    "FrameAcquisitionDuration": st.floats(-1e200, 1e200),
    "StudyInstanceUID": st.just(make.uid("study")),
    "ContactURI": st.just("https://example.org/?a=b\\c"),
    "SelectorAttribute": st.just("00741000"),
}
FLAT = st.fixed_dictionaries({}, optional=VALUES)


def listed(values: dict[str, Any]) -> dict[str, Any]:
    model: dict[str, Any] = {}
    for keyword, value in values.items():
        model |= element(keyword, value)
    return model


@settings(max_examples=60, deadline=None)
@given(FLAT, FLAT, st.sampled_from([make.EXPLICIT, make.IMPLICIT]))
def test_a_list_goes_out_and_comes_back_the_same(
    outer: dict[str, Any], inner: dict[str, Any], syntax: str
) -> None:
    model = listed(outer) | element("ScheduledWorkitemCodeSequence", listed(inner), {})
    model = checked(model)
    again = read(written(data_set(model), syntax), syntax)
    progress = "00741004"
    for one, other in ((model, again), (_item(model), _item(again))):
        if progress in one:  # a decimal string holds 16 characters
            was, now = (
                float(first({progress: m[progress]}, "ProcedureStepProgress")) for m in (one, other)
            )
            assert math.isclose(was, now, rel_tol=1e-6, abs_tol=1e-9)
            del one[progress], other[progress]
    assert again == model


def _item(model: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = model["00404018"]["Value"][0]
    return found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["vr", "Value", "InlineBinary", "00741000", "00404018", "Alphabetic"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)
ELEMENTS = st.dictionaries(
    st.sampled_from([element_ for keyword in (*VALUES, "EncapsulatedDocument", "PixelPaddingValue",
                                              "ScheduledWorkitemCodeSequence", "CodeValue")
                     for element_ in element(keyword)] + ["00091001", "0009", "x"]),
    st.fixed_dictionaries(
        {"vr": st.sampled_from(["CS", "SQ", "OB", "UN", "DS", "LO", "ZZ", "PN", "US", "AT"])},
        optional={"Value": JSON, "InlineBinary": st.text(max_size=6)},
    )
    | JSON,
    max_size=4,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(ELEMENTS | JSON)
@example({"00741000": {"Value": [False]}})
@example({"00741000": {"Value": [" "]}})
def test_what_is_let_in_can_be_written(model: object) -> None:
    try:
        kept = checked(model)
    except NodeError as error:
        assert isinstance(error, BadObject)  # noqa: PT017 - either outcome is right
        return
    for syntax in (make.EXPLICIT, make.IMPLICIT):
        read(written(data_set(kept), syntax), syntax)
    assert checked(kept) == kept
    assert checked(json.loads(json.dumps(kept))) == kept


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([make.EXPLICIT, make.IMPLICIT]))
def test_bytes_from_a_stranger_are_a_list_or_refused(raw: bytes, syntax: str) -> None:
    try:
        kept = read(raw, syntax)
    except NodeError as error:
        assert isinstance(error, BadObject)  # noqa: PT017 - either outcome is right
        return
    written(data_set(kept), syntax)


def test_depth_and_length_have_limits() -> None:
    model: dict[str, Any] = {}
    for _ in range(DEPTH_MAX):
        model = element("ScheduledWorkitemCodeSequence", model)
    assert checked(model) == model
    with pytest.raises(BadObject):
        checked(element("ScheduledWorkitemCodeSequence", model))
    with pytest.raises(Exhausted):
        parse(b" " * (LIST_BYTES_MAX + 1))
    with pytest.raises(Exhausted):
        read(b" " * (LIST_BYTES_MAX + 1), make.EXPLICIT)


def test_a_known_attribute_has_the_vr_of_the_standard() -> None:
    assert parse(b'{"00741000": {"vr": "US", "Value": ["SCHEDULED"]}}') == element(
        "ProcedureStepState", "SCHEDULED"
    )
    assert checked({"0020000d": {"Value": [" 1.2.3 "]}}) == element("StudyInstanceUID", "1.2.3")
    assert checked({"00100010": {"vr": "PN", "Value": ["A^B=山"]}}) == element(
        "PatientName", {"Alphabetic": "A^B", "Ideographic": "山"}
    )


def test_numbers_may_come_as_text() -> None:
    model = checked({"00741004": {"vr": "DS", "Value": ["50.5", 50]}})
    assert model["00741004"]["Value"] == [50.5, 50]


def test_a_value_that_cannot_be_read_is_not_dropped_in_silence() -> None:
    spoilt = bytes.fromhex("28001000 5553 0300 010203")  # Rows in three bytes
    with pytest.raises(BadObject):
        read(spoilt + b"\0", make.EXPLICIT)
