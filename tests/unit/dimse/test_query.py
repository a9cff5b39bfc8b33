"""What a query/retrieve identifier means: its level, its keys, and what its answers look like."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from pacs.dicom.attributes import INDEXED, Level
from pacs.dicom.matching import Match, Range, Single, UidList, Universal, Wildcard
from pacs.dimse.identifiers import Identifier, read_identifier
from pacs.dimse.query import (
    FIND_ROOTS,
    GET_ROOTS,
    MOVE_ROOTS,
    Model,
    Shape,
    is_single,
    keys_of,
    level_of,
    negotiated,
)
from pacs.errors import BadQuery, Mismatch
from tests import make

PATIENT_ROOT, STUDY_ROOT = FIND_ROOTS
BY_PATIENT, BY_STUDY = Model(Level.PATIENT), Model(Level.STUDY)
RELATIONAL = Model(Level.STUDY, relational=True)


def asked(level: str = "STUDY", **keys: object) -> Identifier:
    made = Dataset()
    made.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(made, keyword, value)
    return read_identifier(make.data_set_bytes(made), make.EXPLICIT)


def by_keyword(keys: dict[str, str], model: Model = BY_STUDY, level: str = "STUDY") -> object:
    identifier = asked(level, **keys)
    found = keys_of(identifier, level_of(identifier, model.root), model)
    return {attribute.keyword: match for attribute, match in found.items()}


@pytest.mark.parametrize(
    ("level", "model", "expected"),
    [
        ("PATIENT", BY_PATIENT, Level.PATIENT),
        ("STUDY", BY_PATIENT, Level.STUDY),
        ("STUDY", BY_STUDY, Level.STUDY),
        ("SERIES", BY_STUDY, Level.SERIES),
        ("IMAGE", BY_STUDY, Level.INSTANCE),
    ],
)
def test_each_level_of_a_model_has_its_word(level: str, model: Model, expected: Level) -> None:
    assert level_of(asked(level), model.root) is expected


@pytest.mark.parametrize(
    ("level", "model"),
    [("PATIENT", BY_STUDY), ("", BY_STUDY), ("study", BY_STUDY), ("INSTANCE", BY_STUDY)],
)
def test_a_level_that_is_missing_or_not_of_the_model_is_refused(level: str, model: Model) -> None:
    with pytest.raises(Mismatch):
        level_of(asked(level), model.root)


@pytest.mark.parametrize(
    ("keyword", "text", "match"),
    [
        ("PatientID", "P-1", Single("P-1")),
        ("PatientName", "DOE^J*", Wildcard("doe^j*")),
        ("StudyInstanceUID", "1.2\\1.3", UidList(("1.2", "1.3"))),
        ("StudyDate", "20240101-20240131", Range("20240101", "20240131")),
        ("StudyTime", "10-", Range("100000.000000", "")),
        ("AccessionNumber", "*", Universal()),
    ],
)
def test_keys_are_matched_as_qido_matches_them(keyword: str, text: str, match: Match) -> None:
    assert by_keyword({keyword: text}) == {keyword: match}


def test_keys_that_the_index_lacks_or_that_have_no_value_do_not_narrow() -> None:
    assert by_keyword({"PatientName": "", "InstitutionName": "HERE"}) == {}
    assert by_keyword({"NumberOfStudyRelatedInstances": "7"}) == {}


@pytest.mark.parametrize(
    ("keyword", "text"), [("StudyDate", "-"), ("StudyDate", "2024"), ("StudyInstanceUID", "a/b")]
)
def test_a_value_that_cannot_be_matched_is_refused(keyword: str, text: str) -> None:
    with pytest.raises(BadQuery):
        by_keyword({keyword: text})


@pytest.mark.parametrize(
    ("level", "keys", "model"),
    [
        ("STUDY", {}, BY_PATIENT),
        ("STUDY", {"PatientID": "P*"}, BY_PATIENT),
        ("SERIES", {}, BY_STUDY),
        ("SERIES", {"StudyInstanceUID": "*"}, BY_STUDY),
        ("SERIES", {"StudyInstanceUID": "1.2\\1.3"}, BY_STUDY),
        ("IMAGE", {"StudyInstanceUID": "1.2"}, BY_STUDY),
        ("IMAGE", {"SeriesInstanceUID": "1.2"}, BY_STUDY),
        ("IMAGE", {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3"}, BY_PATIENT),
    ],
)
def test_a_hierarchical_query_names_one_entity_of_every_level_above(
    level: str, keys: dict[str, str], model: Model
) -> None:
    with pytest.raises(Mismatch, match="missing or not a single value"):
        by_keyword(keys, model, level)


def test_a_key_below_the_level_needs_a_relational_query() -> None:
    with pytest.raises(Mismatch, match="below the level"):
        by_keyword({"Modality": "CT"})
    assert by_keyword({"Modality": "CT"}, RELATIONAL) == {"Modality": Single("CT")}
    assert by_keyword({}, RELATIONAL, "IMAGE") == {}


def test_names_match_by_their_words_where_that_was_negotiated() -> None:
    fuzzy = Model(Level.STUDY, fuzzy=True)
    found = by_keyword({"PatientName": "jo do"}, fuzzy)
    assert str(found) == "{'PatientName': Words(words=('jo', 'do'))}"


@pytest.mark.parametrize(
    ("match", "single"),
    [
        (Single("P-1"), True),
        (UidList(("1.2",)), True),
        (UidList(("1.2", "1.3")), False),
        (Wildcard("P*"), False),
        (Universal(), False),
        (None, False),
    ],
)
def test_a_unique_key_is_single_or_not(match: Match | None, single: bool) -> None:
    assert is_single(match) is single


def test_extended_negotiation_grants_what_we_have_and_no_byte_more() -> None:
    move, get = list(MOVE_ROOTS)[1], list(GET_ROOTS)[1]
    requested = {
        STUDY_ROOT: b"\1\1\1\1\1",
        PATIENT_ROOT: b"\0\0\1",
        move: b"\1",
        get: b"",
        "1.2.3": b"\1",
    }
    assert negotiated(requested) == {
        STUDY_ROOT: b"\1\0\1\0\0",
        PATIENT_ROOT: b"\0\0\1",
        move: b"\1",
        get: b"",
    }


@pytest.mark.parametrize(
    ("level", "keys", "status"),
    [
        ("STUDY", {"PatientName": "", "ModalitiesInStudy": "CT"}, 0xFF00),
        ("STUDY", {"NumberOfStudyRelatedInstances": ""}, 0xFF00),
        ("STUDY", {"NumberOfStudyRelatedInstances": "3"}, 0xFF01),
        ("STUDY", {"NumberOfPatientRelatedStudies": ""}, 0xFF01),
        ("STUDY", {"InstitutionName": ""}, 0xFF01),
        ("STUDY", {"Modality": ""}, 0xFF01),
        ("STUDY", {"RequestAttributesSequence": []}, 0xFF01),
        ("SERIES", {"Modality": "", "PatientID": ""}, 0xFF00),
        ("STUDY", {"RetrieveAETitle": "", "InstanceAvailability": ""}, 0xFF00),
    ],
)
def test_the_status_tells_whether_every_key_is_supported(
    level: str, keys: dict[str, object], status: int
) -> None:
    identifier = asked(level, **keys)
    at = level_of(identifier, Level.STUDY)
    assert Shape.of(identifier, at, make.EXPLICIT, "ISOCENTER").status == status


def test_an_answer_has_every_key_asked_for_and_what_retrieval_needs() -> None:
    identifier = asked("SERIES", PatientName="", InstitutionName="", StudyInstanceUID="1.2")
    shape = Shape.of(identifier, Level.SERIES, make.EXPLICIT, "ISOCENTER")
    row = dict.fromkeys(INDEXED) | {
        "PatientName": "Phantom^One",
        "PatientID": "P-1",
        "StudyInstanceUID": "1.2",
        "SeriesInstanceUID": "1.3",
    }
    answer = shape.answer(row)
    found = {
        tag: key.text for tag, key in read_identifier(answer.identifier, make.EXPLICIT).keys.items()
    }
    assert answer.status == 0xFF01
    assert found == {
        0x00080052: "SERIES",
        0x00080054: "ISOCENTER",
        0x00080056: "ONLINE",
        0x00080080: "",
        0x00100010: "Phantom^One",
        0x00100020: "P-1",
        0x0020000D: "1.2",
        0x0020000E: "1.3",
    }
