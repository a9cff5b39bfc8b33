"""Storage commitment on every database: rows that outlive us, one report, reasons that are true."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from pacs import commitment
from pacs.access import Action, Actor
from pacs.archive import Archive, Scope
from pacs.availability import NOTIFY, announce
from pacs.commitment import ASK, CHECK, REPORT, Commitments, Reference
from pacs.errors import BadQuery, Exhausted, Missing, Unreachable
from pacs.index import Index, audit, jobs, parties
from pacs.index.jobs import Job
from pacs.index.parties import Peer, Right
from pacs.index.schema import commitments as table
from pacs.index.schema import jobs as jobs_table
from pacs.store.files import FileStore
from tests import make

CT1 = Actor("peer", "CT1", "192.0.2.1", actions=frozenset({Action.VERIFY}))
PACS = Actor("peer", "PACS", "192.0.2.2")
CT = "1.2.840.10008.5.1.4.1.1.2"


class Silent(FileStore):
    """A store that does not answer."""

    def read(self, digest: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        del digest, start, size  # whatever is asked for
        raise Unreachable("the store does not answer")


@pytest.fixture
def archive(tmp_path: Path, index: Index) -> Archive:
    return Archive("identified", FileStore(tmp_path / "objects"), index)


@pytest.fixture
def promises(archive: Archive) -> Commitments:
    return Commitments(archive)


def stored(archive: Archive, number: int) -> list[Reference]:
    made = [make.data_set(n) for n in range(1, number + 1)]
    for one in made:
        archive.store(make.SCANNER, make.incoming(one))
    return [Reference(str(one.SOPClassUID), str(one.SOPInstanceUID)) for one in made]


def claim(index: Index, kind: str) -> Job | None:
    with index.write() as connection:
        return jobs.claim(connection, [kind])


def claimed(index: Index, kind: str) -> Job:
    job = claim(index, kind)
    assert job is not None
    return job


def verdicts(promises: Commitments, index: Index) -> list[int | None]:
    """The failure reasons of the request that is to be reported on next."""
    due = promises.to_report(claimed(index, REPORT))
    assert due is not None
    return [one.failure_reason for one in due[1]]


def named(references: Sequence[Reference], reason: int = 0) -> dict[tuple[str, str], int]:
    return {(one.sop_class_uid, one.sop_instance_uid): reason for one in references}


def test_a_request_and_its_job_are_one_transaction(
    archive: Archive, promises: Commitments, index: Index
) -> None:
    references = stored(archive, 2)
    promises.request(CT1, "1.2.3", references)
    (told,) = Commitments(archive).outstanding()
    assert (told.role, told.ae_title, told.transaction_uid) == ("scp", "CT1", "1.2.3")
    assert (told.state, told.instances, told.ended_at) == ("checking", 2, None)
    job = claimed(index, CHECK)
    assert job.attempts_max == jobs.DELIVERY_ATTEMPTS_MAX
    promises.check(job)
    assert verdicts(promises, index) == [0, 0]
    with index.read() as connection:
        assert [event.action for event in audit.after(connection, 0, 100)][-1] == "commit"


def test_equal_requests_that_race_are_one(
    archive: Archive, promises: Commitments, index: Index
) -> None:
    references = stored(archive, 3)
    together = threading.Barrier(8)

    def ask() -> None:
        together.wait()
        promises.request(CT1, "1.2.3", references)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(promises.outstanding()) == 1
    claimed(index, CHECK)
    assert claim(index, CHECK) is None


def test_two_peers_may_use_the_same_transaction_uid(
    archive: Archive, promises: Commitments
) -> None:
    references = stored(archive, 1)
    promises.request(CT1, "1.2.3", references)
    promises.request(PACS, "1.2.3", references)
    assert {one.ae_title for one in promises.outstanding()} == {"CT1", "PACS"}


def test_a_long_check_goes_on_where_it_stopped(
    archive: Archive, promises: Commitments, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment, "SLICE_S", 0.0)
    monkeypatch.setattr(commitment, "BATCH", 2)
    promises.request(CT1, "1.2.3", stored(archive, 3))
    steps = 0
    while (job := claim(index, CHECK)) is not None:
        promises.check(job)
        steps += 1
        assert steps < 10, "a slice does nothing"
    assert steps > 1
    assert verdicts(promises, index) == [0, 0, 0]


def test_a_store_that_is_away_is_waited_for_but_not_for_ever(
    archive: Archive, promises: Commitments, index: Index, tmp_path: Path
) -> None:
    references = stored(archive, 1)
    away = Commitments(Archive("identified", Silent(tmp_path / "objects"), index))
    away.request(CT1, "1.2.3", references)
    job = claimed(index, CHECK)
    with pytest.raises(Unreachable):
        away.check(job)
    with index.write() as connection:
        again = {"attempts": jobs.ATTEMPTS_MAX - 1, "state": jobs.QUEUED}
        connection.execute(update(jobs_table).where(jobs_table.c.id == job.id).values(**again))
    away.check(claimed(index, CHECK))
    assert verdicts(promises, index) == [0x0213]


def test_what_is_asked_of_one_node_is_bounded(
    promises: Commitments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment, "REQUESTS_OPEN_MAX", 2)
    monkeypatch.setattr(commitment, "REFERENCES_MAX", 3)
    monkeypatch.setattr(commitment, "REFERENCES_OPEN_MAX", 4)
    some = [Reference(CT, make.uid(n)) for n in range(4)]
    with pytest.raises(Exhausted):
        promises.request(CT1, "1.1", some)
    promises.request(CT1, "1.2", some[:3])
    with pytest.raises(Exhausted):
        promises.request(CT1, "1.3", some[:2])
    promises.request(CT1, "1.4", some[:1])
    with pytest.raises(Exhausted):
        promises.request(CT1, "1.5", some[:1])
    promises.request(PACS, "1.5", some[:1])
    uids = [one.transaction_uid for one in promises.outstanding()]
    assert uids == ["1.5", "1.4", "1.2"]


def test_a_report_that_is_never_taken_is_told_as_undelivered(
    archive: Archive, promises: Commitments, index: Index
) -> None:
    promises.request(CT1, "1.2.3", stored(archive, 1))
    promises.check(claimed(index, CHECK))
    job = claimed(index, REPORT)
    assert promises.expire() == 0
    with index.write() as connection:
        jobs.finish(connection, job, jobs.FAILED, reason="Nobody listens at that port.")
    assert promises.expire() == 1
    (told,) = promises.outstanding(state="undelivered")
    assert (told.reason, told.failed) == ("Nobody listens at that port.", 0)
    assert promises.to_report(job) is None
    promises.request(CT1, "1.2.3", stored(archive, 1))  # its Transaction UID is free again


def test_a_peer_is_asked_once_for_a_cause(
    archive: Archive, promises: Commitments, index: Index
) -> None:
    references = stored(archive, 2)
    uid = promises.request_commitment("PACS", references, cause="forward/1")
    assert promises.request_commitment("PACS", references, cause="forward/1") == uid
    assert promises.request_commitment("PACS", references, cause="forward/2") != uid
    due = promises.to_ask(claimed(index, ASK))
    assert due is not None
    assert (due[0].transaction_uid, due[1]) == (uid, references)


def test_what_is_asked_in_a_transaction_that_fails_is_not_asked(
    archive: Archive, promises: Commitments, index: Index
) -> None:
    references = stored(archive, 1)
    with index.write() as connection:
        promises.ask(connection, "PACS", references, cause="forward/1")
        connection.rollback()
    assert promises.outstanding() == []
    with pytest.raises(BadQuery):
        promises.request_commitment("PACS", [], cause="forward/1")


def test_a_report_confirms_once(archive: Archive, promises: Commitments) -> None:
    references = stored(archive, 2)
    uid = promises.request_commitment("PACS", references, cause="forward/1")
    assert promises.confirm(PACS, uid, named(references)) == "confirmed"
    assert promises.confirm(PACS, uid, named(references, 0x0110)) == "confirmed"
    with pytest.raises(Missing):
        promises.confirm(CT1, uid, named(references))
    with pytest.raises(Missing):
        promises.confirm(PACS, "1.2.3", named(references))


def test_a_request_that_could_not_be_sent_is_unconfirmed_with_the_reason(
    archive: Archive, promises: Commitments, index: Index
) -> None:
    promises.request_commitment("PACS", stored(archive, 1), cause="forward/1")
    with index.write() as connection:
        job = jobs.claim(connection, [ASK])
        assert job is not None
        jobs.finish(connection, job, jobs.FAILED, reason="It is not listed.")
    assert promises.expire() == 1
    (told,) = promises.outstanding()
    assert (told.state, told.reason) == ("unconfirmed", "It is not listed.")


def test_old_requests_are_forgotten_unless_they_wait(
    archive: Archive, promises: Commitments, index: Index
) -> None:
    references = stored(archive, 1)
    promises.request(CT1, "1.2.3", references)
    uid = promises.request_commitment("PACS", references, cause="forward/1")
    promises.confirm(PACS, uid, named(references))
    with index.write() as connection:
        connection.execute(update(table).values(requested_at=1.0))
    assert promises.expire() == 1
    assert [one.transaction_uid for one in promises.outstanding()] == ["1.2.3"]


def test_requests_are_listed_in_pages(archive: Archive, promises: Commitments) -> None:
    references = stored(archive, 1)
    for n in range(5):
        promises.request(CT1, f"1.2.{n}", references)
    first = promises.outstanding(limit=2)
    rest = promises.outstanding(limit=100, cursor=first[-1].id)
    assert [one.transaction_uid for one in first + rest] == [f"1.2.{n}" for n in (4, 3, 2, 1, 0)]
    assert promises.outstanding(role="scu") == promises.outstanding(state="confirmed") == []
    with pytest.raises(BadQuery):
        promises.outstanding(role="both")
    with pytest.raises(BadQuery):
        promises.outstanding(state="done")


def test_all_bytes_of_an_instance_are_proved(archive: Archive) -> None:
    (reference,) = stored(archive, 1)
    assert archive.prove(CT1, reference.sop_instance_uid) == reference.sop_class_uid
    archive.delete(make.READER, Scope(make.uid("study")))
    with pytest.raises(Missing):
        archive.prove(CT1, reference.sop_instance_uid)


def test_each_peer_that_is_notified_has_a_job_of_its_own(archive: Archive, index: Index) -> None:
    def peers(connection: Connection) -> None:
        for title, right in (("RIS", Right.NOTIFY), ("VNA", Right.NOTIFY), ("CT1", Right.STORE)):
            peer = Peer(title, "192.0.2.9", 104, rights=frozenset({right}))
            parties.put(connection, peer)

    with index.write() as connection:
        peers(connection)
        for _ in range(2):
            announce(connection, archive.id, "1.2.3", 1)
    found = [claimed(index, NOTIFY), claimed(index, NOTIFY)]
    assert [job.payload["peer"] for job in found] == ["RIS", "VNA"]
    assert {job.attempts_max for job in found} == {jobs.DELIVERY_ATTEMPTS_MAX}
    assert claim(index, NOTIFY) is None


def test_what_was_forwarded_is_asked_for_in_bounded_requests_and_once(
    promises: Commitments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment, "REFERENCES_MAX", 2)
    pairs = [(CT, make.uid(n)) for n in range(5)]
    for _ in range(2):  # as after a kill between asking and noting it
        promises.ask_all("PACS", pairs)
    assert [one.instances for one in promises.outstanding()] == [1, 2, 2]


def test_requests_of_one_peer_are_seen_to_one_after_another(
    promises: Commitments, index: Index
) -> None:
    for peer, uid in ((CT1, "1.2.1"), (CT1, "1.2.2"), (PACS, "1.2.3")):
        promises.request(peer, uid, [Reference(CT, make.uid(uid))])
    first, second = claimed(index, CHECK), claimed(index, CHECK)
    assert {job.payload["peer"] for job in (first, second)} == {"CT1", "PACS"}
    assert claim(index, CHECK) is None
