"""Storage commitment between the node and pynetdicom's own SCUs and SCPs, in both directions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian, generate_uid
from sqlalchemy import update

from pacs.archive import Scope
from pacs.commitment import Commitments, Reference
from pacs.dimse.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from pacs.index import commitments as rows
from pacs.index import jobs
from pacs.index.schema import jobs as jobs_table
from pacs.peers import Peer, Right
from tests import make
from tests.story.running import free_ports
from tests.unit.dimse.certificates import authority
from tests.unit.dimse.scanner import CT, OPERATOR, Node, node
from tests.wire.commitment_peers import (
    ARCHIVE,
    REQUESTER,
    Pair,
    When,
    all_committed,
    asking,
    information,
    item,
    list_requester,
    make_due,
    other_archive,
    report_to,
    reporting,
    request,
    requester,
    stored,
    work,
    worker,
)

MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path) as started:
        yield started


def states(running: Node) -> list[str]:
    return [one.state for one in Commitments(running.archive).outstanding()]


# as an SCP


@pytest.mark.parametrize("syntaxes", [(ImplicitVRLittleEndian,), (UID(make.EXPLICIT),)])
def test_what_is_kept_whole_is_committed_on_an_association_of_ours(
    running: Node, syntaxes: tuple[UID, ...]
) -> None:
    pairs = stored(running, 3)
    with requester(running, syntaxes=syntaxes) as peer:
        uid, status, _ = request(running, pairs, syntaxes=syntaxes)
        assert (status, peer.reports) == (0, [])
        work(worker(running))
    (report,) = peer.reports
    assert (report.event_type, report.transaction_uid) == (1, uid)
    assert (report.committed, report.failed) == (pairs, {})
    assert (report.retrieve_ae_title, report.transfer_syntax_uid) == ("ISOCENTER", syntaxes[0])
    assert states(running) == ["reported"]


def test_a_requester_that_is_silent_on_roles_is_reported_to_as_well(running: Node) -> None:
    pairs = stored(running, 1)
    with reporting(0, knows_roles=False) as peer:
        list_requester(running, peer.port)
        request(running, pairs)
        work(worker(running))
    assert [report.committed for report in peer.reports] == [pairs]


def test_each_failure_has_its_reason(running: Node, tmp_path: Path) -> None:
    good, corrupt, gone, other_class, deleted = stored(running, 5)
    _flip_a_byte(running, tmp_path, corrupt)
    _place(running, tmp_path, gone).unlink()
    asked = {
        good: None,
        corrupt: 0x0110,
        gone: 0x0110,
        (CT, make.uid("never stored")): 0x0112,
        deleted: 0x0112,
        (MR, other_class[1]): 0x0119,
        ("1.2.840.10008.1.1", good[1]): 0x0122,
    }
    with requester(running) as peer:
        assert request(running, list(asked))[1] == 0
        instance = running.instances(make.uid("study"))[-1]
        assert instance.sop_instance_uid == deleted[1]
        scope = Scope(
            instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid
        )
        running.archive.delete(OPERATOR, scope)  # after the request, before the check
        work(worker(running))
    (report,) = peer.reports
    assert (report.event_type, report.committed) == (2, [good])
    assert report.failed == {pair: reason for pair, reason in asked.items() if reason}
    (told,) = Commitments(running.archive).outstanding()
    assert (told.instances, told.failed) == (7, 6)


def _place(running: Node, tmp_path: Path, pair: Pair) -> Path:
    found = running.instances(make.uid("study"))
    (digest,) = [one.digest for one in found if one.sop_instance_uid == pair[1]]
    (path,) = [path for path in (tmp_path / "store").rglob("*") if path.name == digest]
    return path


def _flip_a_byte(running: Node, tmp_path: Path, pair: Pair) -> None:
    path = _place(running, tmp_path, pair)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)


def test_all_bytes_kept_under_a_uid_must_be_whole(running: Node, tmp_path: Path) -> None:
    (pair,) = stored(running, 1)
    before = {path.name for path in (tmp_path / "store").rglob("*")}
    other = make.data_set(1, PatientComments="other bytes under the same UID")
    running.archive.store(make.SCANNER, make.incoming(other))
    (version,) = [
        p for p in (tmp_path / "store").rglob("*") if p.is_file() and p.name not in before
    ]
    version.unlink()
    with requester(running) as peer:
        request(running, [pair])
        work(worker(running))
    assert peer.reports[0].failed == {pair: 0x0110}


@pytest.mark.parametrize(
    ("rights", "status", "comment"),
    [
        (None, 0x0110, "only listed peers may request storage commitment"),
        (frozenset({Right.STORE}), 0x0124, "this peer may not request storage commitment"),
    ],
)
def test_who_may_not_ask_is_told_so(
    running: Node, rights: frozenset[Right] | None, status: int, comment: str
) -> None:
    if rights is not None:
        running.peers.put(OPERATOR, Peer(REQUESTER, "127.0.0.1", 104, rights=rights))
    assert request(running, [(CT, "1.2.3")])[1:] == (status, comment)
    assert states(running) == []


def test_a_peer_that_cannot_be_called_is_told_so_at_once(running: Node) -> None:
    rights = frozenset({Right.COMMIT})
    running.peers.put(OPERATOR, Peer(REQUESTER, "*", 0, rights=rights))
    _, status, comment = request(running, [(CT, "1.2.3")])
    assert (status, comment) == (0x0110, "this peer is listed without a host to report to")


@pytest.mark.parametrize(
    ("asked", "action", "instance", "status"),
    [
        (information("1.2.3", []), 1, PUSH_MODEL_INSTANCE, 0x0115),
        (information("", [(CT, "1.2.3")]), 1, PUSH_MODEL_INSTANCE, 0x0115),
        (information("../../x", [(CT, "1.2.3")]), 1, PUSH_MODEL_INSTANCE, 0x0115),
        (information("1.2.3", [(CT, "")]), 1, PUSH_MODEL_INSTANCE, 0x0115),
        (information("1.2.3", [("", "1.2.3")]), 1, PUSH_MODEL_INSTANCE, 0x0115),
        (information("1.2.3", [(CT, "1" * 65)]), 1, PUSH_MODEL_INSTANCE, 0x0115),
        (None, 1, PUSH_MODEL_INSTANCE, 0x0115),
        (information("1.2.3", [(CT, "1.2.3")]), 2, PUSH_MODEL_INSTANCE, 0x0123),
        (information("1.2.3", [(CT, "1.2.3")]), 1, "1.2.3.4", 0x0112),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom doubts the UIDs, as it should
def test_a_bad_request_is_refused_and_leaves_no_row(
    running: Node, asked: Dataset | None, action: int, instance: str, status: int
) -> None:
    list_requester(running, 104)
    with asking(running) as association:
        told, _ = association.send_n_action(asked, action, UID(PUSH_MODEL), UID(instance))
    assert told.Status == status
    assert 0 < len(told.ErrorComment) <= 64
    assert states(running) == []
    assert running.answers()


def test_a_request_sent_again_while_it_is_open_is_the_same_one(running: Node) -> None:
    pairs = stored(running, 2)
    with requester(running) as peer:
        uid, _, _ = request(running, pairs)
        assert request(running, pairs[::-1], transaction_uid=uid)[1] == 0
        work(worker(running))
    assert [report.committed for report in peer.reports] == [pairs]


def test_another_request_under_a_uid_in_use_fails_as_such(running: Node) -> None:
    first, second = stored(running, 2)
    with requester(running) as peer:
        uid, _, _ = request(running, [first])
        for _ in range(2):
            assert request(running, [second], transaction_uid=uid)[1] == 0
        work(worker(running))
        by_type = {report.event_type: report for report in peer.reports}
        assert len(peer.reports) == 2
        assert by_type[1].committed == [first]
        assert (by_type[2].transaction_uid, by_type[2].failed) == (uid, {second: 0x0131})
        request(running, [second], transaction_uid=uid)  # it has ended, so its UID is free
        work(worker(running))
    assert peer.reports[-1].committed == [second]


def test_a_requester_that_was_away_gets_one_report(running: Node) -> None:
    (port,) = free_ports(1)
    pairs = stored(running, 1)
    list_requester(running, port)
    uid, _, _ = request(running, pairs)
    deliverer = worker(running)
    for _ in range(3):
        work(deliverer)
        make_due(running)
    assert states(running) == ["reporting"]
    assert running.peers.get(REQUESTER).last_error == "nobody listens at that port"
    with requester(running, port=port) as peer:
        make_due(running)
        work(deliverer)
        make_due(running)
        work(deliverer)
    assert [report.transaction_uid for report in peer.reports] == [uid]
    assert states(running) == ["reported"]


def test_a_report_answered_with_an_error_is_sent_again(running: Node) -> None:
    answers = iter([0x0110, 0x0213, 0x0000])
    pairs = stored(running, 1)
    with requester(running, judge=lambda _: next(answers)) as peer:
        request(running, pairs)
        for _ in range(4):
            work(worker(running))
            make_due(running)
    assert len(peer.reports) == 3
    assert states(running) == ["reported"]


def test_a_requester_that_never_answers_is_asked_again_later(running: Node) -> None:
    go_on = threading.Event()

    def hang(_: object) -> int:
        go_on.wait(20)
        return 0

    pairs = stored(running, 1)
    with requester(running, judge=hang) as peer:
        request(running, pairs)
        began = time.monotonic()
        work(worker(running, answer_s=0.5))
        assert time.monotonic() - began < 15
        assert states(running) == ["reporting"]
        go_on.set()
        make_due(running)
        work(worker(running))
    assert len(peer.reports) == 2  # its first answer was lost: the standard allows the second
    assert states(running) == ["reported"]


def test_two_workers_that_race_for_one_report_send_it_once(running: Node) -> None:
    pairs = stored(running, 1)
    with requester(running) as peer:
        request(running, pairs)
        threads = [threading.Thread(target=work, args=(worker(running),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(peer.reports) == 1
    assert states(running) == ["reported"]


def test_a_worker_that_lost_its_lease_sends_nothing(running: Node) -> None:
    pairs = stored(running, 1)
    with requester(running) as peer:
        request(running, pairs)
        assert worker(running).step()  # the check
        with running.archive.index.write() as connection:
            slow = jobs.claim(connection, ["commit-report"], lease_s=-1.0)
        assert slow is not None
        with running.archive.index.write() as connection:
            connection.execute(update(jobs_table).values(token=jobs_table.c.token + 1))
        late = worker(running)
        late._attempt(slow)
        assert peer.reports == []
        work(late)
    assert len(peer.reports) == 1


def test_a_confirmed_report_whose_job_is_taken_up_again_is_not_repeated(running: Node) -> None:
    pairs = stored(running, 1)
    with requester(running) as peer:
        request(running, pairs)
        work(worker(running))
        with running.archive.index.write() as connection:  # as if killed before the job's end
            connection.execute(update(jobs_table).values(state="queued"))
        work(worker(running))
    assert len(peer.reports) == 1


def test_a_peer_that_accepts_no_such_association_is_tried_again(running: Node) -> None:
    list_requester(running, running.port)  # the node itself, which knows no REQUESTER as called
    pairs = stored(running, 1)
    request(running, pairs)
    work(worker(running))
    assert states(running) == ["reporting"]
    assert running.peers.get(REQUESTER).last_error.startswith("refused:")


def test_ten_thousand_instances_are_one_request_and_one_report(running: Node) -> None:
    (known,) = stored(running, 1)
    pairs = [known, *((CT, make.uid("unknown", n)) for n in range(9_999))]
    with requester(running) as peer:
        assert request(running, pairs)[1] == 0
        work(worker(running))
    (report,) = peer.reports
    assert (report.event_type, report.committed) == (2, [known])
    assert set(report.failed.values()) == {0x0112}
    assert len(report.failed) == 9_999


def test_a_peer_that_is_called_by_tls_gets_its_report_so(running: Node, tmp_path: Path) -> None:
    ours = authority(tmp_path / "certificates")
    theirs = ours.credentials("requester", "IP:127.0.0.1")
    pairs = stored(running, 1)
    with reporting(0, tls=theirs.accepting("require")) as peer:
        list_requester(running, peer.port, tls=True)
        request(running, pairs)
        work(worker(running, credentials=ours.credentials("node", "IP:127.0.0.1")))
        assert [report.committed for report in peer.reports] == [pairs]
        work(worker(running))
    assert states(running) == ["reported"]


# as an SCU


def ask(running: Node, pairs: list[Pair], cause: str = "forward/1") -> str:
    references = [Reference(*pair) for pair in pairs]
    return Commitments(running.archive).request_commitment(ARCHIVE, references, cause=cause)


def test_a_peer_that_reports_on_our_port_confirms(running: Node) -> None:
    pairs = stored(running, 2)
    with other_archive(running) as peer:
        uid = ask(running, pairs)
        assert ask(running, pairs) == uid
        work(worker(running))
        (asked,) = peer.requests
        assert asked.TransactionUID == uid
        assert states(running) == ["asked"]
        for _ in range(2):  # as a peer does that did not get our answer
            assert report_to(running, all_committed(asked)) == 0
    assert states(running) == ["confirmed"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_peer_may_report_on_the_association_we_asked_on(running: Node, when: When) -> None:
    pairs = stored(running, 2)
    with other_archive(running, reports=when) as peer:
        ask(running, pairs)
        work(worker(running, linger_s=10.0))
        assert peer.told.wait(10)
    assert (peer.statuses, states(running)) == ([0], ["confirmed"])


def test_what_a_report_names_as_failed_or_not_at_all_is_not_confirmed(running: Node) -> None:
    first, second, third = stored(running, 3)
    with other_archive(running) as peer:
        ask(running, [first, second, third])
        work(worker(running))
        told = all_committed(peer.requests[0])
        told.ReferencedSOPSequence = [item(*first)]
        told.FailedSOPSequence = [item(*second, 0x0112)]
        assert report_to(running, told, event_type=2) == 0
    (one,) = Commitments(running.archive).outstanding()
    assert (one.state, one.failed) == ("failed", 2)
    assert one.reason == "The report does not name 1 of the instances."


def test_a_report_that_the_uid_was_sent_before_leaves_the_request_open(running: Node) -> None:
    (pair,) = stored(running, 1)
    with other_archive(running) as peer:
        ask(running, [pair])
        work(worker(running))
        repeat = all_committed(peer.requests[0])
        del repeat.ReferencedSOPSequence
        repeat.FailedSOPSequence = [item(*pair, 0x0131)]
        assert report_to(running, repeat, event_type=2) == 0
        assert states(running) == ["asked"]
        assert report_to(running, all_committed(peer.requests[0])) == 0
    assert states(running) == ["confirmed"]


def test_every_report_is_answered(running: Node) -> None:
    (pair,) = stored(running, 1)
    unknown = all_committed(information(generate_uid(), [pair]))
    with other_archive(running) as peer:
        ask(running, [pair])
        work(worker(running))
        asked = all_committed(peer.requests[0])
        assert report_to(running, unknown) == 0x0110
        assert report_to(running, asked, event_type=3) == 0x0113
        assert report_to(running, information("", [pair])) == 0x0115
        assert report_to(running, asked, ae_title="STRANGER") == 0x0110
    assert states(running) == ["asked"]


def test_an_index_that_does_not_answer_still_lets_a_report_be_answered(running: Node) -> None:
    (pair,) = stored(running, 1)
    with other_archive(running) as peer:
        ask(running, [pair])
        work(worker(running))
        with running.archive.index.write() as connection:
            connection.exec_driver_sql("ALTER TABLE commitment_references RENAME TO hidden")
        try:
            assert report_to(running, all_committed(peer.requests[0])) == 0x0110
        finally:
            with running.archive.index.write() as connection:
                connection.exec_driver_sql("ALTER TABLE hidden RENAME TO commitment_references")


def test_a_peer_that_refuses_to_commit_is_asked_again_with_the_same_uid(running: Node) -> None:
    answers = iter([0x0110, 0x0000])
    (pair,) = stored(running, 1)
    with other_archive(running, judge=lambda: next(answers)) as peer:
        ask(running, [pair])
        for _ in range(3):
            work(worker(running))
            make_due(running)
    assert len({asked.TransactionUID for asked in peer.requests}) == 1
    assert len(peer.requests) == 2


def test_a_peer_that_never_reports_has_not_confirmed(running: Node) -> None:
    (pair,) = stored(running, 1)
    hasty = Commitments(running.archive, patience_s=-1.0)
    with other_archive(running) as peer:
        ask(running, [pair])
        work(worker(running))
        assert hasty.expire() == 1
        assert hasty.expire() == 0
        (one,) = hasty.outstanding(state=rows.UNCONFIRMED)
        assert (one.state, one.reason) == ("unconfirmed", "The peer has sent no report.")
        assert report_to(running, all_committed(peer.requests[0])) == 0  # better late
    assert states(running) == ["confirmed"]


def test_a_report_counts_only_from_the_peer_that_was_asked(running: Node) -> None:
    (pair,) = stored(running, 1)
    with other_archive(running) as peer, requester(running):
        uid = ask(running, [pair])
        work(worker(running))
        assert report_to(running, all_committed(peer.requests[0]), ae_title=REQUESTER) == 0x0110
    (one,) = Commitments(running.archive).outstanding()
    assert (one.transaction_uid, one.state) == (uid, "asked")
