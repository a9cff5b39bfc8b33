"""The promises of the archive, on every pair of store and index that a node may be given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.pixels.utils import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import func, select

from pacs.access import EVERY_ACTION, Action, Actor
from pacs.archive import Archive, Duplicates, Incoming, Instance, Outcome, Scope
from pacs.dicom.attributes import INDEXED, Level
from pacs.dicom.matching import Query, Single, UidList
from pacs.errors import (
    BadObject,
    Conflict,
    Corrupt,
    Exhausted,
    Forbidden,
    Mismatch,
    Missing,
    Unreachable,
)
from pacs.index import Index, audit, catalog, jobs, open_index, results
from pacs.index.jobs import Job
from pacs.index.schema import audit as audit_table
from pacs.index.schema import instances, patients, series, studies, versions
from pacs.store import open_store
from pacs.store.files import FileStore
from tests import make, parts

AT_ONCE = 16
STUDY = make.uid("study")
HIERARCHY = (patients, studies, series, instances)
BASES = [("files", "sqlite"), ("files", "postgresql"), ("s3", "sqlite")]


@pytest.fixture(params=BASES, ids="-".join)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """An empty archive on each base."""
    store, index = request.param
    url = f"file://{tmp_path}" if store == "files" else request.getfixturevalue("s3_url")
    index_url = request.getfixturevalue(f"{index}_url")
    opened = open_index(index_url)
    yield Archive("main", open_store(url, "objects"), opened)
    opened.close()


def with_policy(archive: Archive, duplicates: Duplicates) -> Archive:
    return Archive(archive.name, archive.objects, archive.index, duplicates=duplicates)


def store(archive: Archive, made: Dataset, syntax: str = make.EXPLICIT) -> Outcome:
    return archive.store(make.SCANNER, make.incoming(made, syntax)).outcome


def row_counts(archive: Archive) -> list[int]:
    with archive.index.read() as connection:
        return [
            int(connection.execute(select(func.count()).select_from(table)).scalar_one())
            for table in HIERARCHY
        ]


def instance(archive: Archive, made: Dataset) -> Instance:
    scope = Scope(made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID)
    (found,) = archive.retrieve(make.READER, scope)
    return found


def trail(archive: Archive) -> list[dict[str, Any]]:
    with archive.index.read() as connection:
        assert audit.verify(connection) == ()
        events = connection.scalars(select(audit_table.c.event).order_by(audit_table.c.seq))
        return [json.loads(event) for event in events]


def named_objects(archive: Archive) -> set[str]:
    with archive.index.read() as connection:
        return {
            digest
            for table in (instances, versions)
            for digest in connection.scalars(select(table.c.digest))
        }


def assert_every_object_is_named(archive: Archive) -> None:
    assert set(archive.objects.digests()) == named_objects(archive)


def assert_nothing_is_kept(archive: Archive) -> None:
    assert row_counts(archive) == [0, 0, 0, 0]
    assert list(archive.objects.digests()) == []
    assert trail(archive) == []


# Storing


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT, make.BIG_ENDIAN, make.DEFLATED])
def test_what_was_stored_comes_back_bit_for_bit(archive: Archive, syntax: str) -> None:
    made = make.data_set(OtherPatientIDsSequence=Sequence([Dataset()]))
    sent = make.data_set_bytes(made, syntax)
    stored = archive.store(make.SCANNER, Incoming(memoryview(sent), syntax))
    assert (stored.outcome, stored.warning) == (Outcome.NEW, "")
    assert stored.sop_instance_uid == made.SOPInstanceUID
    found = instance(archive, made)
    assert archive.data_set(found) == sent
    assert found.transfer_syntax_uid == syntax
    file = archive.read(found)
    assert len(file) == found.size_bytes
    assert archive.read(found, 128, 4) == b"DICM"
    assert_every_object_is_named(archive)


def test_pydicom_reads_the_stored_file(archive: Archive, tmp_path: Path) -> None:
    made = make.data_set()
    store(archive, made)
    (tmp_path / "file.dcm").write_bytes(archive.read(instance(archive, made)))
    file = dcmread(tmp_path / "file.dcm")
    assert file == made
    assert file.file_meta.SourceApplicationEntityTitle == "SCANNER"
    assert file.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID


def test_the_identical_data_set_changes_nothing(archive: Archive) -> None:
    assert store(archive, make.data_set()) is Outcome.NEW
    before = named_objects(archive)
    assert store(archive, make.data_set()) is Outcome.IDENTICAL
    assert row_counts(archive) == [1, 1, 1, 1]
    assert named_objects(archive) == set(archive.objects.digests()) == before
    assert [event["outcome"] for event in trail(archive)] == ["new", "identical"]


def test_first_instances_of_a_study_on_many_associations_make_one_study(archive: Archive) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(lambda n: store(archive, make.data_set(n)), range(AT_ONCE * 2)))
    assert set(outcomes) == {Outcome.NEW}
    assert row_counts(archive) == [1, 1, 1, AT_ONCE * 2]
    assert len(trail(archive)) == AT_ONCE * 2
    assert_every_object_is_named(archive)


def test_one_instance_on_many_associations_is_stored_once(archive: Archive) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(lambda _: store(archive, make.data_set()), range(AT_ONCE)))
    assert sorted(o.value for o in outcomes) == ["identical"] * (AT_ONCE - 1) + ["new"]
    assert row_counts(archive) == [1, 1, 1, 1]
    assert len(list(archive.objects.digests())) == 1
    assert_every_object_is_named(archive)
    assert archive.data_set(instance(archive, make.data_set()))


def test_other_bytes_on_many_associations_are_all_kept(archive: Archive) -> None:
    def send(n: int) -> Outcome:
        return store(archive, make.data_set(1, StudyDescription=f"version {n}"))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(send, range(AT_ONCE)))
    assert sorted(o.value for o in outcomes) == ["kept_version"] * (AT_ONCE - 1) + ["new"]
    assert len(named_objects(archive)) == AT_ONCE
    assert_every_object_is_named(archive)


def test_policy_keep_keeps_the_first_current_and_the_others_beside_it(archive: Archive) -> None:
    first, other = make.data_set(), make.data_set(StudyDescription="other")
    store(archive, first)
    stored = archive.store(make.SCANNER, make.incoming(other))
    assert stored.outcome is Outcome.KEPT_VERSION
    assert stored.warning
    assert archive.data_set(instance(archive, first)) == make.data_set_bytes(first)
    assert store(archive, other) is Outcome.IDENTICAL
    assert len(named_objects(archive)) == 2
    assert_every_object_is_named(archive)


def test_policy_replace_makes_the_new_bytes_current_and_keeps_the_first(archive: Archive) -> None:
    archive = with_policy(archive, Duplicates.REPLACE)
    first, other = make.data_set(Rows=16), make.data_set(pixels=np.zeros((4, 8), np.uint8))
    store(archive, first)
    assert store(archive, other) is Outcome.REPLACED
    found = instance(archive, first)
    assert archive.data_set(found) == make.data_set_bytes(other)
    assert (found.rows, found.columns) == (4, 8)
    assert archive.frame(found, 1) == bytes(32)
    assert len(named_objects(archive)) == 2
    assert_every_object_is_named(archive)
    assert store(archive, first) is Outcome.IDENTICAL


def test_policy_refuse_refuses_and_leaves_nothing_behind(archive: Archive) -> None:
    archive = with_policy(archive, Duplicates.REFUSE)
    first = make.data_set()
    store(archive, first)
    before = named_objects(archive), row_counts(archive), len(trail(archive))
    moved = make.data_set(
        study_instance_uid=make.uid("other study"), sop_instance_uid=first.SOPInstanceUID
    )
    for other in (make.data_set(StudyDescription="other"), moved):
        with pytest.raises(Conflict):
            store(archive, other)
    assert (named_objects(archive), row_counts(archive), len(trail(archive))) == before
    assert_every_object_is_named(archive)
    assert store(archive, first) is Outcome.IDENTICAL


@pytest.mark.parametrize("policy", [Duplicates.KEEP, Duplicates.REPLACE])
@pytest.mark.parametrize("level", ["study", "series"])
def test_an_instance_that_claims_another_place_never_moves_there(
    archive: Archive, policy: Duplicates, level: str
) -> None:
    archive = with_policy(archive, policy)
    first = make.data_set()
    store(archive, first)
    moved = make.data_set(
        study_instance_uid=make.uid("other") if level == "study" else STUDY,
        series_instance_uid=make.uid("other", "series"),
        sop_instance_uid=first.SOPInstanceUID,
        patient_id="P-other",
    )
    assert store(archive, moved) is Outcome.KEPT_VERSION
    assert row_counts(archive) == [1, 1, 1, 1], "no study, series or patient without instances"
    assert archive.data_set(instance(archive, first)) == make.data_set_bytes(first)
    assert_every_object_is_named(archive)


def test_a_study_under_another_patient_id_is_stored_with_a_warning(archive: Archive) -> None:
    store(archive, make.data_set(1))
    stored = archive.store(make.SCANNER, make.incoming(make.data_set(2, patient_id="P-Canary")))
    assert stored.outcome is Outcome.NEW
    assert stored.warning
    assert "Canary" not in stored.warning
    assert row_counts(archive) == [1, 1, 1, 2]


def test_strangers_without_a_patient_id_stay_two_patients(archive: Archive) -> None:
    for name in ("one", "two"):
        made = make.data_set(study_instance_uid=make.uid(name), patient_id="")
        assert archive.store(make.SCANNER, make.incoming(made)).warning == ""
    assert row_counts(archive) == [2, 2, 2, 2]


# What is refused, and leaves nothing


def test_what_is_not_as_announced_is_refused_before_a_byte_is_kept(archive: Archive) -> None:
    sent = make.incoming(make.data_set())
    for expect in (
        {"SOPInstanceUID": "1.2.3"},
        {"SOPClassUID": "1.2.3"},
        {"StudyInstanceUID": STUDY, "SOPInstanceUID": "1.2.3"},
    ):
        with pytest.raises(Mismatch):
            archive.store(make.SCANNER, sent, expect=expect)
    assert_nothing_is_kept(archive)
    stored = archive.store(make.SCANNER, sent, expect={"StudyInstanceUID": STUDY})
    assert stored.outcome is Outcome.NEW


UIDS = [
    "",
    "..",
    "1.2\\1.3",
    "../../x",
    "/etc/cron.d/x",
    "..\\..\\x",
    "1.2\0.3",
    "1" * 65,
    "1.2.٣",
    "1;id",
    "a",
]


@pytest.mark.parametrize("attribute", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_uid_that_is_none_is_refused(archive: Archive, attribute: str) -> None:
    tag = INDEXED[attribute].tag
    for uid in UIDS:
        made = make.data_set()
        delattr(made, attribute)
        raw = make.element(tag, "UI", uid.encode().ljust(len(uid.encode()) + 1 & ~1, b"\0"))
        with pytest.raises(BadObject) as caught:
            archive.store(make.SCANNER, Incoming(make.data_set_bytes(made) + raw, make.EXPLICIT))
        assert len(uid) < 3 or uid not in caught.value.message
    assert_nothing_is_kept(archive)


@pytest.mark.parametrize("data_set", [b"", b"nonsense", make.nested(65)], ids=["", "text", "deep"])
def test_what_is_no_data_set_is_refused(archive: Archive, data_set: bytes) -> None:
    with pytest.raises(BadObject):
        archive.store(make.SCANNER, Incoming(data_set, make.EXPLICIT))
    with pytest.raises(BadObject):
        archive.store(make.SCANNER, Incoming(make.data_set_bytes(make.data_set()), "../x"))
    assert_nothing_is_kept(archive)


def test_who_may_not_is_told_so_and_nothing_happens(archive: Archive) -> None:
    store(archive, make.data_set())
    before = trail(archive)
    for action, verb in (
        (Action.STORE, lambda who: archive.store(who, make.incoming(make.data_set(2)))),
        (Action.SEARCH, lambda who: archive.search(who, Query(Level.STUDY))),
        (Action.RETRIEVE, lambda who: archive.retrieve(who, Scope(STUDY))),
        (Action.DELETE, lambda who: archive.delete(who, Scope(STUDY))),
        (Action.VERIFY, lambda who: archive.verify(who, Scope(STUDY))),
    ):
        guest = Actor("user", "guest", actions=EVERY_ACTION - {action})
        with pytest.raises(Forbidden):
            verb(guest)
    assert trail(archive) == before
    assert row_counts(archive) == [1, 1, 1, 1]
    assert_every_object_is_named(archive)


def test_a_full_disk_leaves_no_row(tmp_path: Path, sqlite_index: Index) -> None:
    store_ = FileStore(tmp_path / "objects", free_bytes_min=1 << 60)
    archive = Archive("main", store_, sqlite_index)
    with pytest.raises(Exhausted):
        store(archive, make.data_set())
    assert_nothing_is_kept(archive)


def test_a_server_that_dies_leaves_no_row(sqlite_index: Index) -> None:
    with parts.s3_server() as server:
        archive = Archive("main", open_store(server.new_bucket(), "objects"), sqlite_index)
        store(archive, make.data_set(1))
        server.kill()
        with pytest.raises(Unreachable):
            store(archive, make.data_set(2))
    assert row_counts(archive) == [1, 1, 1, 1]
    assert store(archive, make.data_set(1)) is Outcome.IDENTICAL, "it needs no store to be told so"


# Reading


def test_instances_come_in_order(archive: Archive) -> None:
    for serial, number in ((2, 1), (1, 10), (1, 2), (1, None)):
        made = make.data_set(
            number or 99,
            series_instance_uid=make.uid("series", serial),
            SeriesNumber=serial,
            InstanceNumber=number,
        )
        store(archive, made)
    found = archive.retrieve(make.READER, Scope(STUDY))
    order = [(one.series_instance_uid, one.instance_number) for one in found]
    first, second = make.uid("series", 1), make.uid("series", 2)
    assert order == [(first, 2), (first, 10), (first, None), (second, 1)]


def test_what_is_not_here_is_missing(archive: Archive) -> None:
    store(archive, make.data_set())
    for scope in (Scope("1.2"), Scope(STUDY, "1.2"), Scope(STUDY, "", "1.2"), Scope("")):
        with pytest.raises(Missing):
            archive.retrieve(make.READER, scope)
        with pytest.raises(Missing):
            archive.delete(make.READER, scope)
        assert archive.verify(make.READER, scope) == []
    assert row_counts(archive) == [1, 1, 1, 1]


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT, make.DEFLATED])
def test_frames_are_read_alone(archive: Archive, syntax: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 99, (5, 6, 7)).astype("<i2")
    made = make.data_set(pixels=pixels)
    store(archive, made, syntax)
    found = instance(archive, made)
    assert found.frames == 5
    for number in range(1, 6):
        assert archive.frame(found, number) == pixels[number - 1].tobytes()
    for number in (0, 6, -1):
        with pytest.raises(Missing):
            archive.frame(found, number)
    assert archive.bulk(found, 0x7FE00010) == pixels.tobytes()


def test_bit_packed_frames_are_read_alone_and_their_bulk_is_as_it_came(archive: Archive) -> None:
    bits = np.random.default_rng(2).integers(0, 2, (3, 5, 5), np.uint8)
    made = make.data_set(Rows=5, Columns=5, BitsAllocated=1, BitsStored=1, HighBit=0)
    made.NumberOfFrames = 3
    made.PixelRepresentation = 0
    made.PixelData = np.packbits(bits.ravel(), bitorder="little").tobytes()
    store(archive, made)
    found = instance(archive, made)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for number in range(1, 4):
        unpacked = np.unpackbits(
            np.frombuffer(archive.frame(found, number), np.uint8), bitorder="little"
        )
        assert np.array_equal(unpacked[:25].reshape(5, 5), pixel_array(made, index=number - 1))
    assert archive.bulk(found, 0x7FE00010) == made.PixelData[: -(-75 // 8)]


def test_encapsulated_frames_are_read_alone(archive: Archive) -> None:
    frames = [b"one1", b"two two2", b"three three3"]
    made = make.encapsulated(make.data_set(), frames)
    store(archive, made, "1.2.840.10008.1.2.4.90")
    found = instance(archive, made)
    assert [archive.frame(found, n) for n in (1, 2, 3)] == frames


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT, make.DEFLATED])
def test_metadata_tell_everything_but_the_pixels(archive: Archive, syntax: str) -> None:
    made = make.data_set()
    store(archive, made, syntax)
    model = archive.metadata(instance(archive, made))
    assert model["00100010"]["Value"] == [{"Alphabetic": "Phantom^One"}]
    assert model["7FE00010"] == {"vr": "OW", "BulkDataURI": "bulkdata/7FE00010"}
    assert len(model) == len(made)


def test_a_large_value_is_read_as_bulk_and_an_absent_one_is_missing(archive: Archive) -> None:
    document = bytes(range(256)) * 8
    for syntax in (make.EXPLICIT, make.DEFLATED):
        made = make.data_set(sop_instance_uid=make.uid(syntax), EncapsulatedDocument=document)
        store(archive, made, syntax)
        found = instance(archive, made)
        assert archive.metadata(found)["00420011"]["BulkDataURI"] == "bulkdata/00420011"
        assert archive.bulk(found, 0x00420011) == document
        with pytest.raises(Missing):
            archive.bulk(found, 0x00420012)


def test_a_flipped_bit_is_found_and_never_served_as_whole(tmp_path: Path, index: Index) -> None:
    archive = Archive("main", FileStore(tmp_path / "objects"), index)
    made = make.data_set()
    store(archive, made)
    found = instance(archive, made)
    path = tmp_path / "objects" / found.digest[:2] / found.digest
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(Corrupt):
        archive.read(found)
    with pytest.raises(Corrupt):
        archive.data_set(found)
    (problem,) = archive.verify(make.READER, Scope(STUDY))
    assert (problem.code, problem.subject) == ("corrupt", made.SOPInstanceUID)
    path.write_bytes(content[:-2])
    assert archive.verify(make.READER, Scope(STUDY))[0].code == "corrupt"
    path.unlink()
    assert archive.verify(make.READER, Scope(STUDY))[0].code == "missing"


def test_a_sound_study_verifies(archive: Archive) -> None:
    for made in make.study(3, series=2):
        store(archive, made)
    assert archive.verify(make.READER, Scope(STUDY)) == []


# Results of jobs


WORKER = Actor("node", "worker")


def claimed_job(archive: Archive, *, lease_s: float = 60.0) -> Job:
    with archive.index.write() as connection:
        jobs.enqueue(
            connection,
            key="infer",
            kind="infer",
            archive_id=archive.id,
            study_instance_uid=STUDY,
            generation=1,
            payload={},
        )
        job = jobs.claim(connection, ["infer"], lease_s=lease_s)
    assert job is not None
    return job


def keep_result(archive: Archive, job: Job, *outputs: Dataset) -> None:
    archive.keep_result(
        WORKER,
        job,
        [make.incoming(output) for output in outputs],
        model="lungs",
        state=jobs.SUCCEEDED,
        record={"volume_ml": 5000},
    )


def test_a_result_is_kept_with_the_end_of_its_job(archive: Archive) -> None:
    store(archive, make.data_set(1))
    job = claimed_job(archive)
    output = make.data_set(2, series_instance_uid=make.uid("result"))
    keep_result(archive, job, output)
    assert instance(archive, output).made_by == job.key
    with archive.index.read() as connection:
        assert jobs.counts(connection)[jobs.SUCCEEDED] == 1
        (run,) = results.of_study(connection, archive.id, STUDY)
        records = set(results.every_digest(connection, archive.id))
    assert (run.state, run.record) == (jobs.SUCCEEDED, {"volume_ml": 5000})
    assert set(archive.objects.digests()) == named_objects(archive) | records
    assert [event["action"] for event in trail(archive)].count("infer") == 1
    with pytest.raises(Conflict):
        keep_result(archive, job, make.data_set(3))


def test_a_result_that_comes_late_leaves_nothing_behind(archive: Archive) -> None:
    store(archive, make.data_set(1))
    late = claimed_job(archive, lease_s=-1)
    claimed_job(archive)
    before = set(archive.objects.digests()), row_counts(archive), trail(archive)
    with pytest.raises(Conflict):
        keep_result(archive, late, make.data_set(2), make.data_set(3))
    assert (set(archive.objects.digests()), row_counts(archive), trail(archive)) == before


def test_a_result_of_which_one_part_is_bad_is_not_kept_in_part(archive: Archive) -> None:
    store(archive, make.data_set(1))
    bad = make.data_set(3)
    del bad.SOPClassUID
    before = set(archive.objects.digests()), row_counts(archive), trail(archive)
    with pytest.raises(BadObject):
        keep_result(archive, claimed_job(archive), make.data_set(2), bad)
    assert (set(archive.objects.digests()), row_counts(archive), trail(archive)) == before


# Searching, deleting, and the trail


def test_searching_finds_and_pages(archive: Archive) -> None:
    for made in make.study(2, series=2):
        store(archive, made)
    found = archive.search(make.READER, Query(Level.SERIES, limit=1))
    assert (len(found.rows), found.more) == (1, True)
    query = Query(Level.STUDY, {INDEXED["PatientID"]: Single("P-1")})
    (row,) = archive.search(make.READER, query).rows
    assert row["NumberOfStudyRelatedInstances"] == 4
    query = Query(Level.STUDY, {INDEXED["StudyInstanceUID"]: UidList(("1.2",))})
    assert archive.search(make.READER, query).rows == []


def test_what_is_deleted_is_gone_and_may_come_back(archive: Archive) -> None:
    sent = make.study(2, series=2)
    for made in sent:
        store(archive, made)
    store(archive, further_version())
    one = sent[0]
    scope = Scope(STUDY, one.SeriesInstanceUID, one.SOPInstanceUID)
    assert archive.delete(make.READER, scope) == 1
    with pytest.raises(Missing):
        archive.retrieve(make.READER, scope)
    assert_every_object_is_named(archive)
    assert archive.delete(make.READER, Scope(STUDY)) == 3
    assert row_counts(archive) == [0, 0, 0, 0]
    assert list(archive.objects.digests()) == []
    assert store(archive, one) is Outcome.NEW
    assert archive.data_set(instance(archive, one)) == make.data_set_bytes(one)


def further_version() -> Dataset:
    made = make.study(2, series=2)[0]
    made.StudyDescription = "a further version"
    return made


def test_deleting_from_one_archive_leaves_the_other_alone(archive: Archive) -> None:
    other = Archive("research", archive.objects, archive.index)
    store(archive, make.data_set())
    store(other, make.data_set())
    archive.delete(make.READER, Scope(STUDY))
    assert other.data_set(instance(other, make.data_set())) == make.data_set_bytes(make.data_set())


def test_every_deed_is_in_the_trail(archive: Archive) -> None:
    store(archive, make.data_set())
    archive.search(make.READER, Query(Level.STUDY, {INDEXED["PatientName"]: Single("canary")}))
    archive.retrieve(make.READER, Scope(STUDY))
    archive.verify(make.READER, Scope(STUDY))
    archive.delete(make.READER, Scope(STUDY))
    events = trail(archive)
    assert [event["action"] for event in events] == [
        *("store", "search", "retrieve", "verify", "delete")
    ]
    assert [event["actor"]["name"] for event in events] == ["SCANNER", *["reader"] * 4]
    assert events[0]["subject"]["study"] == events[2]["subject"]["study"] == STUDY
    assert "canary" not in json.dumps(events)
    assert "Phantom" not in json.dumps(events)


def test_reading_a_study_frame_by_frame_is_one_row_of_the_trail(archive: Archive) -> None:
    store(archive, make.data_set())
    for _ in range(5):
        archive.retrieve(make.READER, Scope(STUDY))
    archive.retrieve(make.SCANNER, Scope(STUDY))
    names = [e["actor"]["name"] for e in trail(archive) if e["action"] == "retrieve"]
    assert names == ["reader", "SCANNER"]


def test_a_deed_that_failed_is_not_in_the_trail_as_done(archive: Archive) -> None:
    with pytest.raises(Missing):
        archive.retrieve(make.READER, Scope(STUDY))
    with pytest.raises(Missing):
        archive.delete(make.READER, Scope(STUDY))
    assert trail(archive) == []


def test_a_study_that_grows_is_receiving_again(archive: Archive) -> None:
    store(archive, make.data_set(1))
    with archive.index.write() as connection:
        row = catalog.study_row(connection, archive.id, STUDY)
        assert row is not None
        catalog.complete_study(connection, row.id, 1)
    store(archive, make.data_set(1))
    assert state(archive) == catalog.COMPLETE, "an identical resend is nothing new"
    store(archive, make.data_set(2))
    assert state(archive) == catalog.RECEIVING


def state(archive: Archive) -> str:
    with archive.index.read() as connection:
        return str(connection.scalars(select(studies.c.state)).one())
