"""What the text of a matching key means (PS3.4 C.2.2.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.dicom.attributes import INDEXED, Level
from pacs.dicom.folding import canonical_time, folded
from pacs.dicom.matching import (
    KEY_CHARACTERS_MAX,
    VALUES_MAX,
    WILDCARDS_MAX,
    AnyOf,
    Empty,
    Match,
    Query,
    Range,
    Single,
    UidList,
    Universal,
    Wildcard,
    Words,
    parse_key,
)
from pacs.dicom.query_tags import QueryTag
from pacs.errors import BadQuery


@pytest.mark.parametrize(
    ("keyword", "text", "meaning"),
    [
        ("PatientID", "", Universal()),
        ("PatientID", " * ", Universal()),
        ("PatientID", "***", Universal()),
        ("PatientID", "P-1", Single("P-1")),
        ("PatientID", " P-1\0", Single("P-1")),
        ("PatientID", "p-1", Single("p-1")),
        ("PatientID", "P?1*", Wildcard("P?1*")),
        ("PatientID", r"A\B", Single(r"A\B")),
        ("Modality", "C?", Wildcard("C?")),
        ("PatientName", "MÜLLER^Eva^^", Single("muller^eva")),
        ("PatientName", "doe*", Wildcard("doe*")),
        ("PatientName", "Doe=王*", Wildcard("doe=王*")),
        ("StudyInstanceUID", "1.2.3", UidList(("1.2.3",))),
        ("StudyInstanceUID", r"1.2.3\1.2.4\ ", UidList(("1.2.3", "1.2.4"))),
        ("StudyInstanceUID", "1.2.3,1.2.4", UidList(("1.2.3", "1.2.4"))),
        ("StudyInstanceUID", r"1.2\1.2\1.2", UidList(("1.2",))),
        ("StudyInstanceUID", "*", Universal()),
        ("SeriesNumber", "3", Single(3)),
        ("SeriesNumber", "-3", Single(-3)),
        ("Rows", "512", Single(512)),
        ("StudyDate", "20240229", Single("20240229")),
        ("StudyDate", "2024.02.29", Single("20240229")),
        ("StudyDate", "20240101-20241231", Range("20240101", "20241231")),
        ("StudyDate", "-20241231", Range("", "20241231")),
        ("StudyDate", "20240101-", Range("20240101", "")),
        ("StudyDate", "20240101 - 20241231", Range("20240101", "20241231")),
        ("StudyTime", "10", Range("100000.000000", "105959.999999")),
        ("StudyTime", "1015", Range("101500.000000", "101559.999999")),
        ("StudyTime", "101530", Range("101530.000000", "101530.999999")),
        ("StudyTime", "101530.5", Range("101530.500000", "101530.599999")),
        ("StudyTime", "10:15-11", Range("101500.000000", "115959.999999")),
        ("StudyTime", "-11", Range("", "115959.999999")),
        ("ModalitiesInStudy", "CT", Single("CT")),
    ],
)
def test_a_key_means(keyword: str, text: str, meaning: Match) -> None:
    assert parse_key(INDEXED[keyword], text) == meaning


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("StudyInstanceUID", "1.2.*"),
        ("StudyInstanceUID", "1.2.3;DROP"),
        ("StudyInstanceUID", "1" * 65),
        ("SeriesNumber", "three"),
        ("SeriesNumber", "3-4"),
        ("SeriesNumber", "9" * 13),
        ("StudyDate", "2024"),
        ("StudyDate", "-"),
        ("StudyDate", "20240101-20240102-20240103"),
        ("StudyDate", "2024*"),
        ("StudyTime", "1"),
        ("StudyTime", "noon"),
        ("NumberOfStudyRelatedSeries", "3"),
        ("AvailableTransferSyntaxUID", "1.2"),
        ("PatientID", "*a" * (WILDCARDS_MAX + 1)),
        ("PatientID", "x" * (KEY_CHARACTERS_MAX + 1)),
        ("PatientID", "a\0b"),
        ("PatientName", "a\0b"),
    ],
)
def test_a_key_that_cannot_be_matched_is_refused(keyword: str, text: str) -> None:
    with pytest.raises(BadQuery) as caught:
        parse_key(INDEXED[keyword], text)
    assert text not in caught.value.message


def of_vr(vr: str) -> QueryTag:
    return QueryTag((0x00090010,), vr, Level.INSTANCE)


@pytest.mark.parametrize(
    ("vr", "text", "meaning"),
    [
        ("DS", "1.50", Single(1.5)),
        ("FD", "-2e3", Single(-2000.0)),
        ("SL", "-7", Single(-7)),
        ("AT", "(0010,0020)", Single("00100020")),
        ("DT", "20240229", Range("20240229000000.000000", "20240229235959.999999")),
        ("DT", "2024", Range("20240101000000.000000", "20241231235959.999999")),
        ("DT", "202402", Range("20240201000000.000000", "20240229235959.999999")),
        ("DT", "2023-2024", Range("20230101000000.000000", "20241231235959.999999")),
        ("DT", "20240101-", Range("20240101000000.000000", "")),
        ("DT", "-20240101", Range("", "20240101235959.999999")),
        ("DT", "20240101120000+0100", Range("20240101110000.000000", "20240101110000.999999")),
        ("DT", "20240101120000-0500-20240101", Range("20240101170000.000000", "20240101235959.999999")),
        ("UT", "a*", Wildcard("a*")),
        ("PN", "Doe^J", Single("doe^j")),
    ],
)  # fmt: skip
def test_a_key_of_any_vr_means(vr: str, text: str, meaning: Match) -> None:
    assert parse_key(of_vr(vr), text) == meaning


@pytest.mark.parametrize(
    ("vr", "text"),
    [
        ("DS", "one"), ("DS", "nan"), ("DS", "1e999"), ("FL", "--"), ("US", "1.5"), ("AT", "PatientID"),
        ("DT", "-"), ("DT", "20240230"), ("DT", "2024-2025-2026"), ("DT", "99999999"), ("DT", "x"),
    ],
)  # fmt: skip
def test_a_key_that_is_no_value_of_its_vr_is_refused(vr: str, text: str) -> None:
    with pytest.raises(BadQuery):
        parse_key(of_vr(vr), text)


def test_two_quotation_marks_mean_no_value_where_that_is_asked_for() -> None:
    key = INDEXED["PatientID"]
    assert parse_key(key, '""', empty=True) == Empty()
    assert parse_key(key, '""') == Single('""')


def test_a_backslash_stands_between_values_where_that_is_asked_for() -> None:
    key = INDEXED["StudyDate"]
    assert parse_key(key, r"20240101\20240201-", multiple=True) == AnyOf(
        (Single("20240101"), Range("20240201", ""))
    )
    assert parse_key(INDEXED["PatientID"], r"A\*", multiple=True) == Universal()
    with pytest.raises(BadQuery, match="more than"):
        parse_key(INDEXED["PatientID"], "a\\" * (VALUES_MAX + 1), multiple=True)


@pytest.mark.parametrize("text", ["=", "==", "^", "^^=^", " = "])
def test_a_name_without_any_letter_matches_every_name(text: str) -> None:
    assert parse_key(INDEXED["PatientName"], text) == Universal()


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("Eva Müller", Words(("eva", "muller"))),
        ("MÜLLER^Eva", Words(("muller", "eva"))),
        ("mul*", Words(("mul",))),
        ("Wang=王", Words(("wang", "王"))),
        ("?", Universal()),
        ("^ *", Universal()),
        ("", Universal()),
    ],
)
def test_fuzzy_matching_of_a_name_takes_it_apart_into_words(text: str, meaning: Match) -> None:
    assert parse_key(INDEXED["PatientName"], text, fuzzy=True) == meaning


def test_fuzzy_matching_concerns_names_alone() -> None:
    assert parse_key(INDEXED["StudyDescription"], "Chest", fuzzy=True) == Single("Chest")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("MÜLLER ^Eva^^", "muller^eva"),
        ("Müller", "Mu\u0308ller"),
        ("ＷＡＮＧ^ＸＩＡＯ", "wang^xiao"),
        ("STRASSE", "Straße"),
        ("Doe^Jane", " Doe  ^ Jane "),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
    ],
)
def test_names_that_are_the_same_fold_to_the_same(one: str, other: str) -> None:
    assert folded(one) == folded(other)


def test_component_separators_before_the_last_one_stay() -> None:
    assert folded("^Jane") == "^jane"
    assert folded("^Jane") != folded("Jane")


@given(st.text())
def test_folding_settles(name: str) -> None:
    assert folded(folded(name)) == folded(name)


@given(st.sampled_from(sorted(INDEXED)), st.text(max_size=40), st.booleans())
def test_any_text_has_a_meaning_or_is_refused(keyword: str, text: str, fuzzy: bool) -> None:
    try:
        meaning = parse_key(INDEXED[keyword], text, fuzzy=fuzzy)
    except BadQuery:
        return
    assert isinstance(meaning, Match)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10", "100000.000000"),
        ("101530", "101530.000000"),
        ("101530.123456", "101530.123456"),
        ("10:15:30", "101530.000000"),
        ("", ""),
        ("noon", ""),
        ("101530.1234567", ""),
    ],
)
def test_times_are_kept_so_that_they_sort(text: str, canonical: str) -> None:
    assert canonical_time(text) == canonical


def test_a_key_below_the_level_of_its_query_is_refused() -> None:
    with pytest.raises(BadQuery, match="SeriesInstanceUID lies below the level STUDY"):
        Query(Level.STUDY, {INDEXED["SeriesInstanceUID"]: Universal()})


@pytest.mark.parametrize(("limit", "offset"), [(-1, 0), (0, -1)])
def test_limit_and_offset_are_counted_from_zero(limit: int, offset: int) -> None:
    with pytest.raises(BadQuery):
        Query(Level.STUDY, limit=limit, offset=offset)
