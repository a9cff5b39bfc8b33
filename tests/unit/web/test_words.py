"""DICOM values as people read them."""

from __future__ import annotations

import pytest

from web import words


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Doe^Jane", "Doe, Jane"),
        ("Doe^Jane^Q^Dr^MD", "Doe, Dr Jane Q, MD"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou (山田 太郎)"),
        ("=山田^太郎", "山田 太郎"),
        ("", "–"),
        (None, "–"),
        ("^^^^", "–"),
    ],
)
def test_a_name_is_written_as_people_write_it(value: object, expected: str) -> None:
    assert words.person_name(value) == expected


def test_dates_and_times_that_cannot_be_read_are_shown_as_they_came() -> None:
    assert [words.date(value) for value in ("20240229", "2024.02.29", "soon", "", None)] == [
        *("2024-02-29", "2024-02-29", "soon", "–", "–")
    ]
    assert [words.time_of_day(value) for value in ("101530.5", "10", "")] == ["10:15", "10", ""]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4213.44, "4\u202f213"), (12.34, "12.3"), (0.517, "0.52"), (-948.0, "\u2212948"), (0, "0")],
)
def test_a_number_has_the_digits_that_help(value: float, expected: str) -> None:
    assert words.number(value) == expected


def test_a_finding_is_a_number_or_a_statement_never_nothing() -> None:
    assert words.finding_row({"title": "Volume", "value": 0.0}).answer == "0"
    assert words.finding_row({"present": True, "probability": 0.93}).answer == (
        "present (probability 0.93)"
    )
    assert words.finding_row({"present": False}).answer == "absent"
    assert words.finding_row({"present": None, "probability": None}).answer == "undetermined"
    assert words.finding_row({}).answer == "–"


def test_units_are_those_of_the_report() -> None:
    assert words.unit({"value": "[hnsf'U]", "scheme": "UCUM", "meaning": "HU"}) == "HU"
    assert words.unit(["cm3", "UCUM", "cubic centimeter"]) == "ml"
    assert words.unit({"value": "1", "scheme": "UCUM", "meaning": "no units"}) == ""
    assert words.unit(None) == ""


def test_a_reason_becomes_a_sentence_once() -> None:
    assert words.sentence("no series fits") == "No series fits."
    assert words.sentence("No series fits.") == "No series fits."
