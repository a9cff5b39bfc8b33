"""Forwarding over real sockets: to who takes it, who refuses it, who hangs up, and who is away."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import cast

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dimse_primitives import C_STORE
from sqlalchemy import select

from pacs import delivery
from pacs.archive import Incoming, Scope
from pacs.delivery import Confirm
from pacs.dicom.part10 import read_part10
from pacs.dimse import scu, sending
from pacs.dimse.scu import Source, send
from pacs.forwarding import Trigger
from pacs.index.forwards import VERSIONS_MAX
from pacs.index.jobs import FAILED, FAULTS_MAX, QUEUED, SUCCEEDED
from pacs.index.schema import audit
from tests import make
from tests.story.running import free_ports
from tests.unit.dimse.scanner import CT, OPERATOR
from tests.wire.forwarder import Forwarder, forwarder

STORESCP = Path("/usr/bin/storescp")
MR = "1.2.840.10008.5.1.4.1.1.4"
COMPRESSED = Path(__file__).parents[2] / "sample_dicom" / "compressed"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Forwarder]:
    with forwarder(tmp_path / "node") as made:
        yield made


def uid_of(event: evt.Event) -> str:
    """Of which instance a C-STORE is."""
    return str(cast(C_STORE, event.request).AffectedSOPInstanceUID)


@dataclass
class Taker:
    """A store: each attempt it was sent, by SOP Instance UID, and what it took."""

    judge: Callable[[evt.Event], int] = lambda _: 0
    attempts: list[str] = field(default_factory=list)
    taken: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def on_store(self, event: evt.Event) -> int:
        request, uid = cast(C_STORE, event.request), uid_of(event)
        self.attempts.append(uid)
        status = self.judge(event)
        if status >> 12 not in (0xA, 0xC) and status not in (0x0110, 0x0122, 0x0124):
            assert isinstance(request.DataSet, BytesIO)
            self.taken[uid] = (str(event.context.transfer_syntax), request.DataSet.getvalue())
        return status


@contextmanager
def taker(
    judge: Callable[[evt.Event], int] = lambda _: 0,
    *,
    port: int = 0,
    takes: Sequence[tuple[str, tuple[str, ...]]] = ((CT, (make.EXPLICIT, make.IMPLICIT)),),
) -> Iterator[tuple[Taker, int]]:
    """A store of pynetdicom's that answers as `judge` says; it and its port."""
    made = Taker(judge)
    entity = ApplicationEntity("DEST")
    for sop_class_uid, syntaxes in takes:
        entity.add_supported_context(sop_class_uid, list(syntaxes))
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, made.on_store)]
    )
    assert server is not None
    try:
        yield made, int(server.server_address[1])
    finally:
        server.shutdown()
        until = time.monotonic() + 5
        while server.active_associations and time.monotonic() < until:
            time.sleep(0.01)


def stored(node: Forwarder, number: int = 3) -> list[str]:
    """Store a study from the scanner; the UIDs of its instances."""
    study = generate_uid()
    made = make.study(number, study_instance_uid=study)
    for one in made:
        node.archive.store(make.SCANNER, make.incoming(one))
    return [str(one.SOPInstanceUID) for one in made]


def forwards_audited(node: Forwarder) -> list[str]:
    with node.node.index.read() as connection:
        rows = connection.scalars(select(audit.c.event).order_by(audit.c.seq)).all()
    return [row for row in rows if '"action":"forward"' in row]


# who takes it


def test_instances_are_forwarded_as_they_come_and_once(node: Forwarder) -> None:
    with taker() as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST")
        uids = stored(node, 25)
        assert node.work() == 1
        assert sorted(dest.taken) == sorted(uids)
        done = node.only()
        assert (done.job.state, done.delivered, done.waiting) == (SUCCEEDED, 25, 0)
        assert done.job.reason == "25 of 25 instances delivered."
        for held in node.archive.retrieve(OPERATOR, Scope(done.job.study_instance_uid)):
            assert dest.taken[held.sop_instance_uid][1] == node.archive.data_set(held)
        assert node.work() == 0
        assert len(dest.attempts) == 25


def test_each_study_forwarded_is_audited_with_whom_it_went_to(node: Forwarder) -> None:
    with taker() as (_, port):
        node.peer("DEST", port)
        node.rule("DEST")
        stored(node)
        node.work()
    (row,) = forwards_audited(node)
    assert '"destination":"DEST"' in row
    assert f'"address":"127.0.0.1:{port}"' in row
    assert f'"study":"{node.only().job.study_instance_uid}"' in row
    assert '"rules":"to-DEST"' in row


def test_dcmtk_receives_what_was_stored(node: Forwarder, tmp_path: Path) -> None:
    folder = tmp_path / "received"
    folder.mkdir()
    (port,) = free_ports(1)
    process = subprocess.Popen([STORESCP, "-od", folder, "-aet", "DEST", "+xa", str(port)])
    try:
        _wait_for_port(port)
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        uids = stored(node, 30)
        node.work()
        received = {str(dcmread(path).SOPInstanceUID): path for path in folder.iterdir()}
        assert sorted(received) == sorted(uids)
        for held in node.archive.retrieve(OPERATOR, Scope(node.only().job.study_instance_uid)):
            theirs = read_part10(received[held.sop_instance_uid].read_bytes()).data_set
            assert bytes(theirs) == node.archive.data_set(held)
    finally:
        process.terminate()
        process.wait()


def _wait_for_port(port: int) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    pytest.fail("nobody listens")


def test_who_takes_nothing_compressed_gets_it_decompressed(node: Forwarder) -> None:
    path = COMPRESSED / "jpeg_2000" / "1.dcm"
    file = read_part10(path.read_bytes())
    node.archive.store(make.SCANNER, Incoming(file.data_set, file.transfer_syntax_uid))
    sop_class_uid = str(dcmread(path, stop_before_pixels=True).SOPClassUID)
    with taker(takes=[(sop_class_uid, (make.IMPLICIT,))]) as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        node.work()
        ((syntax, _),) = dest.taken.values()
    assert syntax == make.IMPLICIT != file.transfer_syntax_uid
    assert node.only().delivered == 1


# who refuses it


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0xA900, "the data set does not match its SOP class (A900)"),
        (0xC000, "it cannot understand the instance (C000)"),
        (0x0122, "it takes no such SOP class (0122)"),
        (0x0124, "it does not allow us to store (0124)"),
    ],
)
def test_what_is_refused_for_good_fails_alone(node: Forwarder, status: int, words: str) -> None:
    uids = stored(node, 5)
    refused = uids[2]
    with taker(lambda event: status * (uid_of(event) == refused)) as (
        dest,
        port,
    ):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        node.work()
        assert sorted(dest.taken) == sorted(set(uids) - {refused})
        ended = node.only()
        assert (ended.job.state, ended.delivered, ended.refused) == (FAILED, 4, 1)
        assert words in ended.job.reason
        assert words in node.last_error("DEST")
        node.make_due()
        assert node.work() == 0
        assert len(dest.attempts) == 5


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111])
def test_a_warning_is_a_success(node: Forwarder, status: int) -> None:
    with taker(lambda _: status) as (_, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        stored(node)
        node.work()
    assert node.only().job.state == SUCCEEDED


def test_a_class_that_is_not_taken_fails_and_the_rest_arrives(node: Forwarder) -> None:
    study = generate_uid()
    for made in make.study(3, study_instance_uid=study):
        node.archive.store(make.SCANNER, make.incoming(made))
    odd = make.data_set(9, study_instance_uid=study, SOPClassUID=MR)
    node.archive.store(make.SCANNER, make.incoming(odd))
    with taker() as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        node.work()
    ended = node.only()
    assert (len(dest.taken), ended.delivered, ended.refused) == (3, 3, 1)
    assert "takes no transfer syntax" in ended.job.reason


def test_who_accepts_nothing_of_a_study_is_not_asked_for_a_week(node: Forwarder) -> None:
    with taker(takes=[(MR, (make.EXPLICIT,))]) as (_, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        stored(node)
        node.work()
    ended = node.only()
    assert (ended.job.state, ended.refused) == (FAILED, 3)
    assert "accepts none" in ended.job.reason


def test_a_full_destination_is_left_alone_and_tried_again(node: Forwarder) -> None:
    room = [4]

    def judge(_event: evt.Event) -> int:
        room[0] -= 1
        time.sleep(0.02)
        return 0 if room[0] >= 0 else 0xA700

    with taker(judge) as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        uids = stored(node, 15)
        node.work()
        waits = node.only()
        assert (waits.job.state, waits.delivered, waits.waiting) == (QUEUED, 4, 11)
        assert waits.job.reason == "it is out of resources (A700)"
        assert node.last_error("DEST") == waits.job.reason
        assert len(dest.attempts) < 15, "a full destination is not sent the rest"
        room[0] = 100
        node.make_due()
        node.work()
        assert sorted(dest.taken) == sorted(uids)
    assert node.only().job.state == SUCCEEDED


def test_a_failure_to_process_is_tried_again_and_holds_up_nobody(node: Forwarder) -> None:
    uids, sick = stored(node, 5), [True]

    def judge(event: evt.Event) -> int:
        return 0x0110 * (sick[0] and uid_of(event) == uids[0])

    with taker(judge) as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        node.work()
        assert sorted(dest.taken) == sorted(uids[1:])
        assert node.only().job.state == QUEUED
        sick[0] = False
        node.make_due()
        node.work()
    assert sorted(dest.taken) == sorted(uids)
    assert node.only().job.state == SUCCEEDED


# who hangs up, hangs, or is away


def test_the_instance_that_breaks_the_line_goes_last(node: Forwarder) -> None:
    uids = stored(node, 8)

    def judge(event: evt.Event) -> int:
        if uid_of(event) == uids[1]:
            event.assoc.abort()
        return 0

    with taker(judge) as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        node.work()
        assert set(uids) - {uids[1]} <= set(dest.taken)
        waits = node.only()
        assert (waits.job.state, waits.delivered, waits.waiting) == (QUEUED, 7, 1)
        assert waits.job.reason_code == "line_broke"
        assert all(dest.attempts.count(uid) == 1 for uid in uids if uid != uids[1])


def test_who_never_answers_is_given_up_and_tried_again(
    node: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scu, "ANSWER_S", 0.3)
    patience, uids = threading.Event(), stored(node, 2)

    def judge(_event: evt.Event) -> int:
        patience.wait(5)
        return 0

    with taker(judge) as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        node.work()
        assert node.only().job.state == QUEUED
        assert node.last_error("DEST")
        patience.set()
        monkeypatch.setattr(scu, "ANSWER_S", 20.0)
        node.make_due()
        node.work()
        assert sorted(dest.taken) == sorted(uids)
    assert node.only().job.state == SUCCEEDED


def test_a_peer_that_is_away_holds_up_its_own_lane_and_no_other(node: Forwarder) -> None:
    (away,) = free_ports(1)
    with taker() as (dest, port):
        node.peer("DEST", port)
        node.peer("AWAY", away)
        node.rule("AWAY", Trigger.COMPLETE)
        node.rule("DEST", Trigger.COMPLETE)
        for _ in range(4):
            stored(node, 2)
        assert node.work() == 1 + 4, "one attempt tells of the whole lane"
        assert len(dest.taken) == 8
        assert {one.job.state for one in node.deliveries(peer="AWAY")} == {QUEUED}
        assert node.last_error("AWAY") == "nobody listens at that port"
        assert [(t.peer, t.waiting, t.delivered) for t in node.forwarding.traffic()] == [
            ("AWAY", 8, 0),
            ("DEST", 0, 8),
        ]
    with taker(port=away) as (late, _):
        node.make_due()
        assert node.work() == 4
        assert len(late.taken) == 8
    assert {one.job.state for one in node.deliveries()} == {SUCCEEDED}


def test_a_peer_that_is_back_gets_at_once_what_waited_with_the_one_that_found_it(
    node: Forwarder,
) -> None:
    (away,) = free_ports(1)
    node.peer("AWAY", away)
    node.rule("AWAY", Trigger.COMPLETE)
    for _ in range(3):
        stored(node, 1)
    node.work()
    with taker(port=away) as (late, _):
        oldest = node.deliveries()[-1].job.id
        assert node.forwarding.retry(OPERATOR, delivery=oldest) == 1
        assert node.work() == 3
    assert len(late.taken) == 3


def test_a_node_that_stops_gives_the_job_back_and_sends_the_rest_later(node: Forwarder) -> None:
    uids = stored(node, 12)

    def judge(_event: evt.Event) -> int:
        if len(dest.attempts) == 5:
            node.stop.set()
        return 0

    with taker(judge) as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        node.work()
        assert len(dest.attempts) < 12
        assert node.only().job.state == QUEUED
        node.stop.clear()
        node.make_due()
        node.work()
        assert sorted(dest.attempts) == sorted(uids), "each once"


def test_a_long_delivery_lets_others_have_their_turn(
    node: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "TURN_S_MAX", 0.3)
    uids = stored(node, 10)

    def judge(_event: evt.Event) -> int:
        time.sleep(0.1)
        return 0

    with taker(judge) as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        node.work()
        assert 0 < len(dest.attempts) < 10
        assert node.last_error("DEST") == ""
        for _ in range(10):
            node.make_due()
            node.work()
        assert sorted(dest.attempts) == sorted(uids)
    assert node.only().job.state == SUCCEEDED


def test_a_bug_in_sending_fails_aloud_and_does_not_go_round_for_ever(
    node: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "data_set_in", lambda *_: 1 // 0)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with taker() as (_, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        stored(node, 2)
        for _ in range(FAULTS_MAX):
            node.work()
            node.make_due()
    assert node.only().job.state == FAILED
    assert node.only().job.reason_code == "internal_error"


def test_lanes_that_hang_leave_workers_to_others(
    node: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is freed by a lane that broke takes another lane's job, though that is younger."""
    monkeypatch.setattr(scu, "ANSWER_S", 0.2)
    gone = threading.Event()

    def judge(_event: evt.Event) -> int:
        gone.wait(3)
        return 0

    with taker(judge) as (_, hanging), taker() as (dest, port):
        node.peer("HANGS", hanging)
        node.peer("DEST", port)
        node.rule("HANGS", name="a")
        node.rule("DEST", name="b", conditions={"StudyDescription": ["Chest"]})
        for _ in range(3):
            stored(node, 1)
        assert node.work() == 1 + 3
        gone.set()
    assert len(dest.taken) == 3


# loops


def test_two_nodes_that_forward_to_each_other_end_after_one_hop(tmp_path: Path) -> None:
    with forwarder(tmp_path / "a", ae_title="A") as a, forwarder(tmp_path / "b", ae_title="B") as b:
        for one, other, title in ((a, b, "B"), (b, a, "A")):
            one.peer(title, other.port)
            one.rule(title, name="at-once")
            one.rule(title, Trigger.COMPLETE, name="whole")
        uids = stored(a, 4)
        for _ in range(4):
            a.work()
            b.work()
        assert a.only().delivered == 4
        assert b.deliveries() == []
        held = b.archive.retrieve(OPERATOR, Scope(a.only().job.study_instance_uid))
        assert sorted(one.sop_instance_uid for one in held) == sorted(uids)


def test_a_circle_of_three_ends_where_it_began(tmp_path: Path) -> None:
    with (
        forwarder(tmp_path / "a", ae_title="A") as a,
        forwarder(tmp_path / "b", ae_title="B") as b,
        forwarder(tmp_path / "c", ae_title="C") as c,
    ):
        for one, other, title in ((a, b, "B"), (b, c, "C"), (c, a, "A")):
            one.peer(title, other.port)
            one.rule(title)
        stored(a, 3)
        for _ in range(4):
            for one in (a, b, c):
                one.work()
        assert [one.only().delivered for one in (a, b, c)] == [3, 3, 3]
        assert all(len(one.deliveries()) == 1 for one in (a, b, c))


def test_an_instance_that_comes_back_changed_goes_round_no_more_than_so_often(
    node: Forwarder,
) -> None:
    with taker() as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST")
        object.__setattr__(node.archive, "_duplicates", type(node.archive._duplicates).REPLACE)
        for number in range(VERSIONS_MAX + 4):
            changed = make.data_set(1, StudyDescription=f"Changed {number}")
            node.archive.store(make.SCANNER, make.incoming(changed))
            node.work()
        assert len(dest.attempts) == VERSIONS_MAX


def test_what_came_from_a_peer_does_not_go_back_to_it(node: Forwarder, tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(make.part10_bytes(make.data_set()))
    with taker() as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST")
        list(send([Source(path)], scu.Peer("127.0.0.1", node.port, "ISOCENTER", "DEST")))
        node.work()
        assert dest.attempts == []
        assert node.deliveries() == []


# what is chosen


def test_a_project_is_forwarded_only_by_a_rule_that_names_it(node: Forwarder) -> None:
    with taker() as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", name="received")
        node.node.projects["demo"].archive.store(OPERATOR, make.incoming(make.data_set()))
        node.work()
        assert dest.attempts == []
        node.rule("DEST", name="copies", project="demo")
        copy: Dataset = make.data_set(2, study_instance_uid=make.uid("copy"))
        node.node.projects["demo"].archive.store(OPERATOR, make.incoming(copy))
        node.work()
        assert list(dest.taken) == [str(copy.SOPInstanceUID)]


def test_commitment_is_asked_for_once_after_everything_arrived(tmp_path: Path) -> None:
    def confirm(made: Forwarder) -> Confirm:
        return lambda peer, instances: made.confirmed.append((peer.ae_title, list(instances)))

    with forwarder(tmp_path, confirm=confirm) as node, taker() as (_, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE, commitment=True)
        uids = stored(node, 3)
        node.work()
        assert node.confirmed == [("DEST", [(CT, uid) for uid in uids])]


def test_what_was_deleted_before_it_could_be_sent_is_told(node: Forwarder) -> None:
    with taker() as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        uids = stored(node, 3)
        node.node.workflow.complete_quiet_studies()
        study = node.only().job.study_instance_uid
        node.archive.delete(OPERATOR, Scope(study, make.uid(study, "series", 1), uids[0]))
        node.work()
        assert sorted(dest.taken) == sorted(uids[1:])
    assert (node.only().lost, node.only().job.state) == (1, SUCCEEDED)


def test_a_damaged_file_never_leaves_and_the_rest_does(node: Forwarder, tmp_path: Path) -> None:
    uids = stored(node, 3)
    with taker() as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        node.node.workflow.complete_quiet_studies()
        study = node.only().job.study_instance_uid
        held = next(
            one
            for one in node.archive.retrieve(OPERATOR, Scope(study))
            if one.sop_instance_uid == uids[1]
        )
        (file,) = (tmp_path / "node").rglob(f"*{held.digest}*")
        file.chmod(0o600)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        node.work()
        assert sorted(dest.taken) == sorted([uids[0], uids[2]])
    assert (node.only().refused, node.only().job.state) == (1, FAILED)


# orders


def test_a_cancelled_delivery_stops_between_two_instances(node: Forwarder) -> None:
    stored(node, 19)

    def judge(_event: evt.Event) -> int:
        if len(dest.attempts) == 2:
            node.forwarding.cancel(OPERATOR, peer="DEST")
        time.sleep(0.15)
        return 0

    with taker(judge) as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        node.work()
        assert len(dest.attempts) < 19
        assert node.work() == 0
    assert node.deliveries(state="cancelled") == node.deliveries()


def test_a_retried_failure_sends_only_what_is_missing(node: Forwarder) -> None:
    uids, refuses = stored(node, 4), [True]

    def judge(event: evt.Event) -> int:
        return 0xC000 * (refuses[0] and uid_of(event) in uids[:2])

    with taker(judge) as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        node.work()
        refuses[0] = False
        assert node.forwarding.retry(OPERATOR, peer="DEST") == 1
        node.work()
        assert sorted(dest.attempts[4:]) == sorted(uids[:2])
    assert (node.only().delivered, node.only().job.state) == (4, SUCCEEDED)


def test_a_peer_that_may_no_longer_receive_gets_nothing(node: Forwarder) -> None:
    with taker() as (dest, port):
        node.peer("DEST", port)
        node.rule("DEST", Trigger.COMPLETE)
        stored(node)
        node.node.workflow.complete_quiet_studies()
        node.node.peers.remove(OPERATOR, "DEST")
        node.work()
        assert dest.attempts == []
    assert node.only().job.state == FAILED
    assert node.only().job.reason == "its peer is no longer listed"
