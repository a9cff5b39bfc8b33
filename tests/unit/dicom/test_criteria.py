"""Criteria on attribute lists: the matching of PS3.4 C.2.2.2, without a database."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacs.dicom.attribute_lists import element
from pacs.dicom.criteria import is_like, parse, satisfies
from pacs.dicom.folding import canonical_date_time
from pacs.errors import BadQuery

CODE = element("CodeValue", "A") | element("CodeMeaning", "first")
OTHER = element("CodeValue", "B") | element("CodeMeaning", "second")
MODEL = (
    element("PatientID", "P-1", "P-2")
    | element("PatientName", {"Alphabetic": "Müller^Eva", "Ideographic": "山田^太郎"})
    | element("InstanceNumber", 7)
    | element("StudyTime", "1030")
    | element("StudyDate", "20260102")
    | element("ScheduledProcedureStepStartDateTime", "20260102103000+0100")
    | element("StudyInstanceUID", "1.2.3")
    | element("ScheduledWorkitemCodeSequence", CODE, OTHER)
    | element("ReasonForCancellation")
)
CODES = "ScheduledWorkitemCodeSequence"


@pytest.mark.parametrize(
    ("pairs", "is_match"),
    [
        ([("PatientID", "P-2")], True),
        ([("00100020", "P-?")], True),
        ([("PatientID", "p-1")], False),
        ([("PatientName", "MULLER^*")], True),
        ([("PatientName", "=山田*")], True),
        ([("PatientName", "Eva*")], False),
        ([("InstanceNumber", "07")], True),
        ([("StudyTime", "10")], True),
        ([("StudyTime", "11-")], False),
        ([("StudyDate", "20260101-20260102")], True),
        ([("StudyInstanceUID", "1.2.4\\1.2.3")], True),
        ([("ScheduledProcedureStepStartDateTime", "2026")], True),
        ([("ScheduledProcedureStepStartDateTime", "202601020930")], True),
        ([("ScheduledProcedureStepStartDateTime", "20260102103000+0100")], True),
        ([("ScheduledProcedureStepStartDateTime", "20260102043000-0500")], True),
        ([("ScheduledProcedureStepStartDateTime", "20260102103000")], False),
        ([("ScheduledProcedureStepStartDateTime", "-20260102093000")], True),
        ([("ScheduledProcedureStepStartDateTime", "20260102110000+0100-")], False),
        ([(f"{CODES}.CodeValue", "A"), (f"{CODES}.CodeMeaning", "first")], True),
        ([(f"{CODES}.CodeValue", "A"), (f"{CODES}.CodeMeaning", "second")], False),
        ([("ReasonForCancellation", "*")], True),
        ([("ReasonForCancellation", "x*")], False),
        ([("AdmissionID", "")], True),
        ([("AdmissionID", "x")], False),
    ],
)
def test_a_list_satisfies_what_it_has(pairs: list[tuple[str, str]], is_match: bool) -> None:
    assert satisfies(MODEL, parse(pairs)) is is_match


def test_a_fuzzy_name_is_found_by_its_words() -> None:
    assert satisfies(MODEL, parse([("PatientName", "ev mul")], fuzzy=True))
    assert not satisfies(MODEL, parse([("PatientName", "ev x")], fuzzy=True))


@pytest.mark.parametrize(
    "text", ["-", "20260102-x", "x", "2026010", "20260102-20260103-20260104", "2026-01-02"]
)
def test_a_date_and_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadQuery):
        parse([("ScheduledProcedureStepStartDateTime", text)])


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2026", "20260101000000.000000"),
        ("20260102103000.5", "20260102103000.500000"),
        ("20260101003000+0100", "20251231233000.000000"),
        ("20269999", "20269999000000.000000"),
        ("20269999+0100", "20269999000000.000000"),
        ("yesterday", ""),
    ],
)
def test_dates_and_times_sort_as_texts(text: str, canonical: str) -> None:
    assert canonical_date_time(text) == canonical


@settings(max_examples=300, deadline=None)
@given(st.text("ab*?", max_size=8), st.text("ab", max_size=12))
def test_a_wildcard_means_what_it_says(pattern: str, text: str) -> None:
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    assert is_like(text, pattern) is (re.fullmatch(expression, text) is not None)


def test_a_hostile_pattern_costs_no_more_than_its_length_allows() -> None:
    assert not is_like("a" * 10_000, "*a" * 32 + "b"), (
        "a search that goes back at each star never ends"
    )
