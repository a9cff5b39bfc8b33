"""Extended query tags on every database: nothing stored is missed, before or after a tag comes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import func, select

from pacs.access import Action, Actor
from pacs.archive import Archive, Duplicates, Scope
from pacs.archive.tagging import QueryTags
from pacs.dicom.attributes import Level
from pacs.dicom.matching import Query, parse_key
from pacs.dicom.query_tags import QueryTag, checked_tag
from pacs.errors import BadQuery, Conflict, Exhausted, Forbidden, Missing
from pacs.index import Index
from pacs.index.query_tags import TAGS_MAX
from pacs.index.schema import TAG_VALUES, query_tag_errors
from pacs.store import open_store
from tests import make

WHO = make.SCANNER


@pytest.fixture
def archive(index: Index, tmp_path: Path) -> Archive:
    return Archive("main", open_store(f"file://{tmp_path}", "main"), index)


def tag(path: str, level: Level = Level.SERIES, vr: str = "", creator: str = "") -> QueryTag:
    return checked_tag(path, vr, level, creator)


def filled(archive: Archive) -> QueryTags:
    tags = QueryTags(archive)
    while tags.fill():
        pass
    return tags


def store(archive: Archive, number: int = 1, **attributes: object) -> Dataset:
    study = make.uid("study", attributes.pop("study", 1))
    made = make.data_set(number, study_instance_uid=study, **attributes)  # type: ignore[arg-type]
    archive.store(WHO, make.incoming(made))
    return made


def found(archive: Archive, level: Level = Level.STUDY, **keys: str) -> list[str]:
    """StudyDescription of what extended tags find; keys by keyword, `__` for a dot."""
    known = {one.tag.keyword: one.tag for one in QueryTags(archive).listed(built_in=True)}
    named = {known[keyword.replace("__", ".")]: text for keyword, text in keys.items()}
    wanted = {key: parse_key(key, text, empty=True) for key, text in named.items()}
    rows = archive.search(make.READER, Query(level, tags=wanted)).rows
    return sorted(str(row["StudyDescription"]) for row in rows)


@pytest.mark.parametrize("few", [5_000, 0])
def test_what_was_stored_before_and_after_a_tag_is_found(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr("pacs.index.narrowing.FEW", few)
    store(archive, study=1, StudyDescription="before", ProtocolName="Thorax", KVP="120")
    tags = QueryTags(archive)
    tags.add(WHO, [tag("ProtocolName"), tag("KVP", Level.INSTANCE)])
    store(archive, study=2, StudyDescription="after", ProtocolName="Thorax low", KVP="80")
    store(archive, study=3, StudyDescription="without")
    assert {one.percent for one in tags.listed()} == {0}
    assert found(archive, Level.SERIES, ProtocolName="Thorax*") == ["after"]
    filled(archive)
    assert {(one.percent, one.is_ready) for one in tags.listed()} == {(100, True)}
    assert found(archive, Level.SERIES, ProtocolName="Thorax*") == ["after", "before"]
    assert found(archive, Level.SERIES, ProtocolName="Thorax") == ["before"]
    assert found(archive, Level.SERIES, ProtocolName='""') == ["without"]
    assert found(archive, Level.INSTANCE, KVP="80", ProtocolName="T*") == ["after"]
    assert found(archive, Level.INSTANCE, KVP="120.0") == ["before"]


def test_the_tags_of_a_study_are_read_from_the_first_instance_that_has_them(
    archive: Archive,
) -> None:
    QueryTags(archive).add(WHO, [tag("PatientAge", Level.STUDY)])
    for number, age in enumerate(("", "040Y", "041Y"), start=1):
        store(archive, number, PatientAge=age, StudyDescription="one")
    assert found(archive, PatientAge="040Y") == ["one"]
    assert found(archive, PatientAge="041Y") == []


def test_two_keys_of_a_sequence_must_be_had_by_one_item(archive: Archive) -> None:
    items = [Dataset(), Dataset()]
    for number, item in enumerate(items):
        item.ScheduledProcedureStepID, item.RequestedProcedureID = f"S{number}", f"R{number}"
    store(archive, RequestAttributesSequence=items, StudyDescription="requested")
    step = "RequestAttributesSequence__ScheduledProcedureStepID"
    procedure = "RequestAttributesSequence__RequestedProcedureID"
    assert found(archive, Level.SERIES, **{step: "S1"}) == ["requested"]
    assert found(archive, Level.SERIES, **{step: "S1", procedure: "R1"}) == ["requested"]
    assert found(archive, Level.SERIES, **{step: "S1", procedure: "R0"}) == []


def test_a_private_tag_is_found_by_its_creator(archive: Archive) -> None:
    made = make.data_set(StudyDescription="private")
    made.private_block(0x0009, "ACME", create=True).add_new(0x01, "LO", "x7")
    archive.store(WHO, make.incoming(made))
    QueryTags(archive).add(WHO, [tag("00091001", Level.INSTANCE, "LO", "ACME")])
    filled(archive)
    assert found(archive, Level.INSTANCE, **{"00091001": "x?"}) == ["private"]


def test_what_cannot_be_read_is_told_and_does_not_stop_the_rest(archive: Archive) -> None:
    broken, _ = store(archive, 1, KVP="1"), store(archive, 2, KVP="1")
    (instance,) = archive.retrieve(
        WHO, Scope(broken.StudyInstanceUID, broken.SeriesInstanceUID, broken.SOPInstanceUID)
    )
    archive.objects.delete(instance.digest)
    QueryTags(archive).add(WHO, [tag("KVP", Level.INSTANCE)])
    tags = filled(archive)
    (known,) = tags.listed()
    assert (known.is_ready, known.errors) == (True, 1)
    (failure,) = tags.failures(known.tag.path, 10, 0)
    assert failure.sop_instance_uid == broken.SOPInstanceUID
    assert len(found(archive, Level.INSTANCE, KVP="1")) == 1


def test_what_is_removed_takes_its_values_along(archive: Archive) -> None:
    tags = QueryTags(archive)
    tags.add(
        WHO, [tag("KVP", level) for level in (Level.INSTANCE,)] + [tag("PatientAge", Level.STUDY)]
    )
    made = store(archive, KVP="80", PatientAge="001D")
    archive.delete(WHO, Scope(made.StudyInstanceUID))
    assert values(archive) == 0
    store(archive, KVP="80", PatientAge="001D")
    tags.remove(WHO, tag("KVP").path)
    assert values(archive) == 1
    with pytest.raises(Missing):
        tags.get(tag("KVP").path)


def values(archive: Archive) -> int:
    with archive.index.read() as connection:
        tables = [*TAG_VALUES.values(), query_tag_errors]
        return sum(
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in tables
        )


def test_bytes_that_replace_others_bring_their_own_values(index: Index, tmp_path: Path) -> None:
    store_ = open_store(f"file://{tmp_path}", "main")
    archive = Archive("main", store_, index, duplicates=Duplicates.REPLACE)
    QueryTags(archive).add(WHO, [tag("KVP", Level.INSTANCE)])
    store(archive, KVP="80")
    store(archive, KVP="120", StudyDescription="new")
    assert found(archive, Level.INSTANCE, KVP="80") == []
    assert len(found(archive, Level.INSTANCE, KVP="120")) == 1


def test_tags_that_are_there_already_or_too_many_are_refused_together(archive: Archive) -> None:
    tags = QueryTags(archive)
    tags.add(WHO, [tag("KVP")])
    with pytest.raises(Conflict):
        tags.add(WHO, [tag("ProtocolName"), tag("KVP")])
    with pytest.raises(BadQuery):
        tags.add(WHO, [tag("ProtocolName"), tag("ProtocolName")])
    assert len(tags.listed()) == 1
    many = [tag(f"0009{n:04X}", vr="LO", creator="ACME") for n in range(0x1000, 0x1000 + TAGS_MAX)]
    with pytest.raises(Exhausted):
        tags.add(WHO, many)


def test_who_may_only_read_changes_no_tag(archive: Archive) -> None:
    reader = Actor("user", "reader", actions=frozenset([Action.SEARCH]))
    tags = QueryTags(archive)
    tags.add(WHO, [tag("KVP")])
    for change in (
        lambda: tags.add(reader, [tag("ProtocolName")]),
        lambda: tags.remove(reader, tag("KVP").path),
        lambda: tags.set_queried(reader, tag("KVP").path, False),
    ):
        with pytest.raises(Forbidden):
            change()


def test_nothing_that_is_stored_while_a_tag_comes_is_missed(archive: Archive) -> None:
    """Senders, and two sweeps that fill the same tag, run against each other."""
    senders = [
        threading.Thread(
            target=lambda study=study: [
                store(archive, number, study=study, KVP="80") for number in range(8)
            ]
        )
        for study in range(4)
    ]
    for thread in senders:
        thread.start()
    QueryTags(archive).add(WHO, [tag("KVP", Level.INSTANCE)])
    sweeps = [threading.Thread(target=filled, args=(archive,)) for _ in range(2)]
    for thread in sweeps:
        thread.start()
    for thread in (*senders, *sweeps):
        thread.join()
    filled(archive)
    assert len(found(archive, Level.INSTANCE, KVP="80")) == 32
    assert values(archive) == 32
