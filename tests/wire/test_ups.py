"""Unified procedure steps against pynetdicom's own SCU, and events to its own listener."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.events import Event

from pacs.access import Actor
from pacs.dicom import attribute_lists
from pacs.dimse.calls import Caller
from pacs.dimse.tls import Credentials
from pacs.dimse.workitems import EVENT, PULL, QUERY, WATCH, EventReports
from pacs.errors import Unreachable
from pacs.index import jobs
from pacs.index.jobs import Job
from pacs.peers import Peer, Right
from pacs.worker import Worker
from pacs.workitems import FILTERED, GLOBAL, PUSH, UPS_EVENT
from tests.contracts.workitems import discontinued, performed, scheduled
from tests.unit.dimse.certificates import authority
from tests.unit.dimse.scanner import NO_CREDENTIALS, OPERATOR, Node, node

CLASSES = (PUSH, WATCH, PULL, EVENT, QUERY)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path) as started:
        yield started


@contextmanager
def associated(
    running: Node, *classes: str, syntax: str = ExplicitVRLittleEndian, title: str = "SCANNER"
) -> Iterator[Association]:
    ae = AE(title)
    for sop_class_uid in classes or CLASSES:
        ae.add_requested_context(sop_class_uid, syntax)
    association = ae.associate("127.0.0.1", running.port, ae_title="ISOCENTER")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def made(**attributes: object) -> Dataset:
    return attribute_lists.data_set(scheduled(**attributes))


def data_set(**attributes: str) -> Dataset:
    information = Dataset()
    for keyword, value in attributes.items():
        setattr(information, keyword, value)
    return information


class Scu:
    """What pynetdicom's SCU asks, and the statuses it hears."""

    def __init__(self, association: Association) -> None:
        self._to = association

    def create(self, uid: str | None, given: Dataset | None = None) -> int:
        status, _ = self._to.send_n_create(made() if given is None else given, PUSH, uid)
        return int(status.Status)

    def get(self, uid: str, *tags: int, under: str = PULL) -> tuple[int, Dataset | None]:
        status, found = self._to.send_n_get([Tag(tag) for tag in tags], PUSH, uid, meta_uid=under)
        return int(status.Status), found

    def set(self, uid: str, changes: Dataset, lock: str = "", under: str = PULL) -> int:
        if lock:
            changes.TransactionUID = lock
        status, _ = self._to.send_n_set(changes, PUSH, uid, meta_uid=under)
        return int(status.Status)

    def act(self, kind: int, uid: str, under: str, **attributes: str) -> int:
        status, _ = self._to.send_n_action(
            data_set(**attributes) if attributes else None,
            kind,
            PUSH,
            uid,
            meta_uid=under,
        )
        return int(status.Status)

    def change(self, uid: str, state: str, lock: str) -> int:
        return self.act(1, uid, PULL, ProcedureStepState=state, TransactionUID=lock)

    def watch(self, uid: str, ae_title: str, lock: str = "FALSE", **keys: str) -> int:
        return self.act(3, uid, WATCH, ReceivingAE=ae_title, DeletionLock=lock, **keys)

    def find(self, under: str = PULL, **keys: object) -> tuple[list[int], list[Dataset]]:
        identifier = Dataset()
        for keyword, value in {"SOPInstanceUID": "", **keys}.items():
            setattr(identifier, keyword, value)
        answers = [(int(s.Status), d) for s, d in self._to.send_c_find(identifier, under)]
        return [status for status, _ in answers], [d for _, d in answers if d is not None]


@pytest.fixture
def asking(running: Node) -> Iterator[Scu]:
    with associated(running) as association:
        yield Scu(association)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_workitem_goes_its_way_over_the_wire(running: Node, syntax: str) -> None:
    uid, lock = generate_uid(), generate_uid()
    with associated(running, syntax=syntax) as association:
        scu = Scu(association)
        assert (
            scu.create(uid, made(PatientName={"Alphabetic": "Müller^Eva", "Ideographic": "山"}))
            == 0
        )
        statuses, (match,) = scu.find(
            PatientName="MÜLLER*", ProcedureStepLabel="", SpecificCharacterSet="ISO_IR 192"
        )
        assert statuses == [0xFF00, 0x0000]
        assert (match.SOPInstanceUID, str(match.PatientName)) == (uid, "Müller^Eva=山")
        assert match.ProcedureStepLabel == "Lung densitometry"
        assert "ProcedureStepState" not in match
        assert scu.change(uid, "IN PROGRESS", lock) == 0
        assert scu.set(uid, attribute_lists.data_set(performed()), lock) == 0
        assert scu.change(uid, "COMPLETED", lock) == 0
        status, found = scu.get(uid)
    assert status == 0
    assert found is not None
    assert (found.ProcedureStepState, found.SOPClassUID) == ("COMPLETED", PUSH)
    assert "TransactionUID" not in found


def test_every_status_of_a_state_comes_out(asking: Scu) -> None:
    uid, other, lock = generate_uid(), generate_uid(), generate_uid()
    label = data_set(ProcedureStepLabel="x")
    assert asking.create(generate_uid(), made(ProcedureStepState="IN PROGRESS")) == 0xC309
    assert asking.create(uid, made(ScheduledProcedureStepPriority="low")) == 0xB300
    assert asking.create(uid) == 0x0111
    assert asking.create(generate_uid(), data_set(PatientID="x")) == 0x0120
    assert asking.create(generate_uid(), made(ProcedureStepLabel=())) == 0x0121
    assert asking.create(generate_uid(), made(InputReadinessState="X")) == 0x0106
    assert asking.create(None) == 0x0120
    assert asking.change(uid, "COMPLETED", lock) == 0xC310
    assert asking.set(uid, data_set(ScheduledProcedureStepPriority="high")) == 0xB305
    assert asking.set(uid, label, lock) == 0xC310
    assert asking.change(uid, "IN PROGRESS", lock) == 0
    assert asking.change(uid, "IN PROGRESS", generate_uid()) == 0xC302
    assert asking.change(uid, "SCHEDULED", lock) == 0xC303
    assert asking.change(uid, "COMPLETED", lock) == 0xC304
    assert asking.change(uid, "COMPLETED", generate_uid()) == 0xC301
    assert asking.set(uid, data_set(ProcedureStepLabel="x")) == 0xC301
    assert asking.act(2, uid, WATCH) == 0xC312
    asking.set(uid, attribute_lists.data_set(performed() | discontinued()), lock)
    assert asking.change(uid, "COMPLETED", lock) == 0
    assert asking.change(uid, "COMPLETED", lock) == 0xB306
    assert asking.change(uid, "CANCELED", lock) == 0xC300
    assert asking.set(uid, label, lock) == 0xC300
    assert asking.act(2, uid, PUSH) == 0xC311
    assert asking.create(other) == 0
    assert asking.act(2, other, PUSH) == 0
    assert asking.act(2, other, PUSH) == 0xB304
    for status in (
        asking.get(generate_uid())[0],
        asking.set(generate_uid(), label),
        asking.change(generate_uid(), "IN PROGRESS", lock),
        asking.act(2, generate_uid(), PUSH),
        asking.watch(generate_uid(), "SCANNER"),
    ):
        assert status == 0xC307


def test_every_status_of_a_subscription_comes_out(running: Node, asking: Scu) -> None:
    uid = generate_uid()
    asking.create(uid)
    running.peers.put(OPERATOR, Peer("ROAMER", "*", 0))
    assert asking.watch(uid, "SCANNER", lock="TRUE") == 0
    assert asking.watch(uid, "STRANGER") == 0xC308
    assert asking.watch(uid, "ROAMER") == 0xC315
    assert asking.watch(uid, "SCANNER", lock="PERHAPS") == 0x0120
    assert asking.act(5, uid, WATCH, ReceivingAE="SCANNER") == 0xC314
    assert asking.act(1, GLOBAL, PULL, ProcedureStepState="IN PROGRESS") == 0xC314
    assert asking.watch(FILTERED, "SCANNER") == 0xC314
    assert asking.watch(FILTERED, "SCANNER", WorklistLabel="CT") == 0
    assert asking.act(5, FILTERED, WATCH, ReceivingAE="SCANNER") == 0
    assert asking.act(4, GLOBAL, WATCH, ReceivingAE="SCANNER") == 0
    assert asking.act(4, GLOBAL, WATCH, ReceivingAE="SCANNER") == 0
    running.workitems._deletion_locks_max = 0
    assert asking.watch(uid, "SCANNER", lock="TRUE") == 0xB301
    lock = generate_uid()
    running.workitems.change_state(Actor("node", "inference"), uid, "IN PROGRESS", lock)
    assert asking.act(2, uid, PUSH) == 0xC313


def test_a_class_serves_what_the_standard_gives_it(asking: Scu) -> None:
    uid = generate_uid()
    assert asking.create(uid) == 0
    assert asking.act(1, uid, PUSH, ProcedureStepState="IN PROGRESS") == 0x0211
    assert asking.act(3, uid, PULL, ReceivingAE="SCANNER") == 0x0211
    assert asking.act(9, uid, PULL) == 0x0123
    assert asking.set(uid, data_set(PatientID="x"), under=WATCH) == 0x0211
    assert asking.get(uid, under=QUERY)[0] == 0x0211
    assert asking.find(under=PUSH)[0] == [0x0122]
    for under in (WATCH, PULL, QUERY):
        assert asking.find(under=under)[0] == [0xFF00, 0x0000]


def test_attributes_are_got_by_name_but_the_lock_is_not(asking: Scu) -> None:
    uid, lock = generate_uid(), generate_uid()
    asking.create(uid)
    asking.change(uid, "IN PROGRESS", lock)
    status, found = asking.get(uid, 0x00741000, 0x00081195)
    assert status == 0x0001
    assert found is not None
    assert [str(one.keyword) for one in found] == ["SpecificCharacterSet", "ProcedureStepState"]


def test_a_search_asks_inside_sequences_and_says_what_it_cannot_ask(asking: Scu) -> None:
    uid = generate_uid()
    asking.create(uid)
    code = data_set(CodeValue="110004", CodingSchemeDesignator="DCM")
    wrong = data_set(CodeValue="110004", CodingSchemeDesignator="99X")
    _, (match,) = asking.find(ScheduledWorkitemCodeSequence=Sequence([code]))
    assert match.ScheduledWorkitemCodeSequence[0].CodeMeaning == "Image Processing"
    assert asking.find(ScheduledWorkitemCodeSequence=Sequence([wrong]))[0] == [0x0000]
    assert asking.find(ScheduledWorkitemCodeSequence=Sequence([code, wrong]))[0] == [0xA900]
    assert asking.find(ScheduledProcedureStepStartDateTime="20260101-20260103")[0][0] == 0xFF00
    assert asking.find(ScheduledProcedureStepStartDateTime="-20260101")[0] == [0x0000]
    assert asking.find(ScheduledProcedureStepStartDateTime="-")[0] == [0xC000]


def test_who_has_not_the_right_is_told_so(running: Node) -> None:
    running.peers.put(OPERATOR, Peer("CAMERA", "127.0.0.1", 104, rights=frozenset({Right.STORE})))
    with associated(running, title="CAMERA") as association:
        scu = Scu(association)
        assert scu.create(generate_uid()) == 0x0124
        assert scu.get(generate_uid())[0] == 0x0124
        assert scu.find()[0] == [0x0124]
        assert scu.watch(GLOBAL, "CAMERA") == 0x0124
        # Before what it sent is looked at.
        assert scu.change(generate_uid(), "none", "no UID") == 0x0124
        assert scu.find(ScheduledProcedureStepStartDateTime="-")[0] == [0x0124]
        assert scu.watch(GLOBAL, "") == 0x0124


def test_hostile_attribute_lists_are_refused_and_the_association_goes_on(asking: Scu) -> None:
    deep = Dataset()
    for _ in range(40):
        outer = Dataset()
        outer.ScheduledWorkitemCodeSequence = Sequence([deep])
        deep = outer
    big = made()
    big.add_new(0x0042_0011, "OB", b"\0" * (10 << 20))
    assert asking.create(generate_uid(), big) == 0x0213
    nested = made()
    nested.ScheduledWorkitemCodeSequence = Sequence([deep])
    assert asking.create(generate_uid(), nested) == 0x0106
    control = made()
    control.ProcedureStepLabel = "a\0b\x07c"
    assert asking.create(generate_uid(), control) == 0x0106
    assert asking.create(generate_uid()) == 0


# Event reports


@dataclass
class Listener:
    """A peer that is told of workitems."""

    heard: list[tuple[str, int, Dataset]] = field(default_factory=list)
    status: int = 0x0000
    port: int = 0
    associations: int = 0
    aborts: bool = False

    def on_event(self, event: Event) -> tuple[int, None]:
        if self.aborts:
            event.assoc.abort()
        request = cast(N_EVENT_REPORT, event.request)
        uid, kind = str(request.AffectedSOPInstanceUID), cast(int, request.EventTypeID)
        self.heard.append((uid, kind, event.event_information))
        return self.status, None

    def on_established(self, _event: Event) -> None:
        self.associations += 1


@contextmanager
def listening(*, context: ssl.SSLContext | None = None, roles: bool = True) -> Iterator[Listener]:
    ae, listener = AE("WATCHER"), Listener()
    role = True if roles else None  # None: what is proposed is not answered (PS3.7 D.3.3.4)
    ae.add_supported_context(EVENT, scu_role=role, scp_role=role)
    handlers: list[Any] = [
        (evt.EVT_N_EVENT_REPORT, listener.on_event),
        (evt.EVT_ESTABLISHED, listener.on_established),
    ]
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=context
    )
    assert server is not None
    listener.port = server.server_address[1]
    try:
        yield listener
    finally:
        server.shutdown()


def worker(running: Node, credentials: Credentials = NO_CREDENTIALS) -> Worker:
    """A worker of the node, as one that begins anew."""
    reports = EventReports(running.workitems, Caller(running.peers, "ISOCENTER", credentials))
    return Worker(running.archive.index, {UPS_EVENT: reports.handle})


def work(running: Node) -> None:
    """Let a worker do all that is due."""
    one = worker(running)
    while one.step():
        pass


def all_jobs(running: Node) -> list[Job]:
    with running.archive.index.read() as connection:
        return jobs.listed(connection, limit=100, cursor=0)


def listed(running: Node, port: int, *, tls: bool = False) -> None:
    running.peers.put(OPERATOR, Peer("WATCHER", "localhost", port, tls=tls))


def test_a_watcher_is_called_and_told_in_order(running: Node, asking: Scu) -> None:
    uid, lock = generate_uid(), generate_uid()
    with listening() as watcher:
        listed(running, watcher.port)
        assert asking.watch(GLOBAL, "WATCHER") == 0
        asking.create(uid)
        asking.change(uid, "IN PROGRESS", lock)
        asking.act(2, uid, WATCH, ReasonForCancellation="wrong patient")
        work(running)
    assert [(target, kind) for target, kind, _ in watcher.heard] == [(uid, 1), (uid, 1), (uid, 2)]
    assert [str(told.get("ProcedureStepState", "")) for *_, told in watcher.heard] == [
        "SCHEDULED",
        "IN PROGRESS",
        "",
    ]
    asked = watcher.heard[2][2]
    assert (asked.RequestingAE, asked.ReasonForCancellation) == ("SCANNER", "wrong patient")
    assert watcher.associations == 1
    assert {job.state for job in all_jobs(running)} == {"succeeded"}


def test_an_event_outlives_the_absence_of_its_watcher(running: Node, asking: Scu) -> None:
    uid = generate_uid()
    with listening() as gone:
        listed(running, gone.port)
    asking.watch(GLOBAL, "WATCHER")
    asking.create(uid)
    work(running)
    (job,) = all_jobs(running)
    assert (job.state, job.attempts_max) == ("queued", jobs.DELIVERY_ATTEMPTS_MAX)
    assert running.peers.get("WATCHER").last_error
    with listening() as watcher:
        listed(running, watcher.port)
        EventReports(running.workitems, Caller(running.peers, "ISOCENTER", NO_CREDENTIALS)).handle(
            job
        )
    assert [(target, kind) for target, kind, _ in watcher.heard] == [(uid, 1)]


def test_an_event_that_was_not_answered_is_sent_again(running: Node, asking: Scu) -> None:
    with listening() as watcher:
        listed(running, watcher.port)
        asking.watch(GLOBAL, "WATCHER")
        asking.create(generate_uid())
        (job,) = all_jobs(running)
        reports = EventReports(
            running.workitems, Caller(running.peers, "ISOCENTER", NO_CREDENTIALS)
        )
        watcher.aborts = True
        with pytest.raises(Unreachable):
            reports.handle(job)
        watcher.aborts = False
        reports.handle(job)
        reports.handle(job)
    assert len(watcher.heard) == 2


def test_a_watcher_that_complains_has_been_told(running: Node, asking: Scu) -> None:
    with listening() as watcher:
        watcher.status = 0x0110
        listed(running, watcher.port)
        asking.watch(GLOBAL, "WATCHER")
        asking.create(generate_uid())
        work(running)
    assert len(watcher.heard) == 1
    assert running.workitems.due("WATCHER") == []


def test_a_peer_that_takes_no_event_reports_is_named(running: Node, asking: Scu) -> None:
    with listening(roles=False) as watcher:
        listed(running, watcher.port)
        asking.watch(GLOBAL, "WATCHER")
        asking.create(generate_uid())
        work(running)
    assert watcher.heard == []
    assert "event reports" in running.peers.get("WATCHER").last_error
    assert len(running.workitems.due("WATCHER")) == 1


def test_lanes_at_once_tell_each_event_once_and_in_order(running: Node, asking: Scu) -> None:
    uids = [generate_uid() for _ in range(12)]
    with listening() as watcher:
        listed(running, watcher.port)
        asking.watch(GLOBAL, "WATCHER")
        one = worker(running)
        stop = threading.Event()
        lanes = [threading.Thread(target=one.run, args=(stop,)) for _ in range(3)]
        for lane in lanes:
            lane.start()
        for uid in uids:
            asking.create(uid)
        while running.workitems.due("WATCHER"):
            stop.wait(0.02)
        stop.set()
        for lane in lanes:
            lane.join()
    assert [target for target, *_ in watcher.heard] == uids


def test_a_watcher_is_called_by_tls_where_it_is_listed_so(
    running: Node, asking: Scu, tmp_path: Path
) -> None:
    trusted = authority(tmp_path / "authority")
    ours, theirs = (
        trusted.credentials("isocenter"),
        trusted.credentials("localhost", "DNS:localhost"),
    )
    with listening(context=theirs.accepting("require")) as watcher:
        listed(running, watcher.port, tls=True)
        asking.watch(GLOBAL, "WATCHER")
        asking.create(generate_uid())
        assert worker(running, ours).step()
    assert len(watcher.heard) == 1
