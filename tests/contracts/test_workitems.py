"""Workitems on every database: their states, their owners, their watchers, and races for them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from sqlalchemy import select, update

from pacs.dicom.attribute_lists import element, first, values
from pacs.index import Index, audit, jobs, parties
from pacs.index.parties import Peer
from pacs.index.schema import audit as trail_table
from pacs.index.schema import audit_head, workitem_events, workitems
from pacs.index.schema import jobs as jobs_table
from pacs.workitems import FILTERED, GLOBAL, UPS_EVENT, Declined, Kind, Status, Workitems
from tests import make
from tests.contracts.workitems import (
    CODE,
    LOCK,
    ONE,
    ORDERER,
    OTHER_LOCK,
    PERFORMER,
    claimed,
    ended,
    performed,
    refused,
    scheduled,
    service,
    state,
    told,
)


@pytest.fixture
def kept(index: Index) -> Workitems:
    """An empty worklist, and two peers of which one can be called."""
    with index.write() as connection:
        parties.put(connection, Peer("WATCHER", "127.0.0.1", 104))
        parties.put(connection, Peer("ROAMER", "*", 0))
    return service(index)


# States


def test_a_workitem_goes_its_way(kept: Workitems) -> None:
    kept.create(ORDERER, ONE, scheduled())
    kept.change_state(PERFORMER, ONE, "IN PROGRESS", LOCK)
    assert state(kept) == "IN PROGRESS"
    kept.update(PERFORMER, ONE, performed(), LOCK)
    kept.change_state(PERFORMER, ONE, "COMPLETED", LOCK)
    assert state(kept) == "COMPLETED"


def test_of_those_who_claim_at_once_one_wins(kept: Workitems) -> None:
    kept.create(ORDERER, ONE, scheduled())
    ready = threading.Barrier(8)

    def claim(number: int) -> Status:
        ready.wait()
        try:
            return kept.change_state(PERFORMER, ONE, "IN PROGRESS", make.uid("lock", number))
        except Declined as declined:
            return declined.status

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(claim, range(8)))
    assert sorted(end.name for end in ends) == ["CLAIMED"] * 7 + ["SUCCESS"]
    winner = make.uid("lock", ends.index(Status.SUCCESS))
    assert kept.update(PERFORMER, ONE, performed(), winner) is Status.SUCCESS


def test_of_those_who_create_at_once_one_wins(kept: Workitems) -> None:
    ready = threading.Barrier(4)

    def create(_: int) -> Status:
        ready.wait()
        try:
            return kept.create(ORDERER, ONE, scheduled())
        except Declined as declined:
            return declined.status

    with ThreadPoolExecutor(4) as pool:
        ends = sorted(end.name for end in pool.map(create, range(4)))
    assert ends == ["DUPLICATE"] * 3 + ["SUCCESS"]


def test_updates_at_once_are_all_kept(kept: Workitems) -> None:
    claimed(kept)
    keywords = ["PatientID", "PatientComments", "AdmissionID", "ProcedureStepLabel"]

    def write(keyword: str) -> None:
        kept.update(PERFORMER, ONE, element(keyword, "changed"), LOCK)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, keywords))
    found = kept.get(ORDERER, ONE)
    assert [first(found, keyword) for keyword in keywords] == ["changed"] * 4


# Updates


def test_an_update_replaces_blanks_and_adds(kept: Workitems) -> None:
    kept.create(ORDERER, ONE, scheduled())
    changes = element("PatientID", "P-2") | element("PatientName") | element("AdmissionID", "A-1")
    assert kept.update(ORDERER, ONE, changes) is Status.SUCCESS
    found = kept.get(ORDERER, ONE)
    assert (first(found, "PatientID"), values(found, "PatientName")) == ("P-2", [])
    assert first(found, "AdmissionID") == "A-1"
    assert first(found, "ProcedureStepLabel") == "Lung densitometry"
    assert [first(m, "PatientID") for m in kept.search(ORDERER, [("PatientID", "P-2")])] == ["P-2"]
    assert not list(kept.search(ORDERER, [("PatientID", "P-1")]))


# Requests to cancel


def test_a_request_cancels_what_nobody_has_claimed(kept: Workitems) -> None:
    kept.create(ORDERER, ONE, scheduled())
    kept.subscribe(ORDERER, ONE, "W")
    details = element("ReasonForCancellation", "wrong patient") | element("ContactURI", "tel:112")
    assert kept.request_cancel(ORDERER, ONE, details) is Status.SUCCESS
    assert state(kept) == "CANCELED"
    assert [report[2] for report in told(kept, "W")] == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    (*_, last) = kept.events(["W"], 0)
    assert first(last.information, "ReasonForCancellation") == "wrong patient"
    (reason,) = values(last.information, "ProcedureStepDiscontinuationReasonCodeSequence")
    assert first(reason, "CodeValue") == "110513"
    assert kept.request_cancel(ORDERER, ONE, {}) is Status.ALREADY_CANCELED


# Watchers


def test_a_watcher_is_told_of_every_change(kept: Workitems) -> None:
    kept.create(ORDERER, ONE, scheduled(InputReadinessState="INCOMPLETE"))
    kept.subscribe(ORDERER, ONE, "W")
    kept.update(ORDERER, ONE, element("InputReadinessState", "READY"))
    kept.update(ORDERER, ONE, element("ScheduledStationNameCodeSequence", CODE))
    kept.update(ORDERER, ONE, element("PatientID", "P-2"))
    kept.change_state(PERFORMER, ONE, "IN PROGRESS", LOCK)
    progress = element(
        "ProcedureStepProgressInformationSequence", element("ProcedureStepProgress", 50)
    )
    kept.update(PERFORMER, ONE, progress, LOCK)
    assert [(kind.name, now) for _, kind, now in told(kept, "W")] == [
        ("STATE_REPORT", "SCHEDULED"),
        ("STATE_REPORT", "SCHEDULED"),
        ("ASSIGNED", ""),
        ("STATE_REPORT", "IN PROGRESS"),
        ("PROGRESS_REPORT", ""),
    ]


def test_who_locks_everything_is_told_how_it_stands(kept: Workitems) -> None:
    for name in "abc":
        kept.create(ORDERER, make.uid(name), scheduled())
    kept.subscribe(ORDERER, make.uid("b"), "W")
    kept.subscribe(ORDERER, GLOBAL, "W", deletion_lock=True)
    names = {make.uid(name): name for name in "abc"}
    assert [names[target] for target, _, _ in told(kept, "W")] == ["b", "a", "c"]


def test_a_filter_chooses_what_is_watched(kept: Workitems) -> None:
    kept.create(ORDERER, make.uid("before"), scheduled(WorklistLabel="CT"))
    kept.create(ORDERER, make.uid("other"), scheduled(WorklistLabel="MR"))
    pairs = [("WorklistLabel", "CT"), ("ScheduledWorkitemCodeSequence.CodeValue", "110004")]
    kept.subscribe(ORDERER, FILTERED, "W", pairs=pairs)
    kept.create(ORDERER, ONE, scheduled(WorklistLabel="CT"))
    kept.create(ORDERER, make.uid("late"), scheduled(WorklistLabel="MR"))
    for number, name in enumerate(("before", "other", "late")):
        kept.change_state(PERFORMER, make.uid(name), "IN PROGRESS", make.uid("lock", number))
    assert [target for target, _, _ in told(kept, "W")] == [ONE, make.uid("before")]


def test_who_suspends_is_told_of_what_it_watches_already(kept: Workitems) -> None:
    kept.subscribe(ORDERER, GLOBAL, "W")
    kept.create(ORDERER, ONE, scheduled())
    assert kept.suspend(ORDERER, GLOBAL, "W")
    assert not kept.suspend(ORDERER, GLOBAL, "W")
    kept.create(ORDERER, make.uid("late"), scheduled())
    kept.change_state(PERFORMER, ONE, "IN PROGRESS", LOCK)
    assert [target for target, _, _ in told(kept, "W")] == [ONE, ONE]
    refused(Status.NOT_APPROPRIATE, lambda: kept.suspend(ORDERER, ONE, "W"))


def test_who_unsubscribes_is_told_no_more(kept: Workitems) -> None:
    kept.subscribe(ORDERER, GLOBAL, "W")
    kept.create(ORDERER, ONE, scheduled())
    assert kept.unsubscribe(ORDERER, ONE, "W")
    assert not kept.unsubscribe(ORDERER, ONE, "W")
    kept.create(ORDERER, make.uid("late"), scheduled())
    assert kept.unsubscribe(ORDERER, GLOBAL, "W")
    kept.change_state(PERFORMER, ONE, "IN PROGRESS", LOCK)
    kept.change_state(PERFORMER, make.uid("late"), "IN PROGRESS", OTHER_LOCK)
    assert [target for target, _, _ in told(kept, "W")] == [ONE, make.uid("late")]


def test_an_event_for_a_peer_is_a_job_in_the_same_transaction(
    kept: Workitems, index: Index
) -> None:
    kept.create(ORDERER, ONE, scheduled())
    kept.subscribe(ORDERER, ONE, "WATCHER", is_called=True)
    kept.subscribe(ORDERER, ONE, "SOCKET")
    with index.read() as connection:
        (job,) = jobs.listed(connection, limit=10, cursor=0)
    assert (job.kind, job.payload) == (UPS_EVENT, {"ae_title": "WATCHER"})
    (event,) = kept.due("WATCHER")
    assert kept.due("SOCKET") == []
    kept.settle(event)
    assert kept.due("WATCHER") == []
    assert len(kept.events(["WATCHER"], 0)) == 1


def test_a_refused_change_leaves_no_event_job_or_audit_row(kept: Workitems, index: Index) -> None:
    claimed(kept)
    kept.subscribe(ORDERER, ONE, "WATCHER", is_called=True)

    def written() -> tuple[int, int, int]:
        with index.read() as connection:
            return (
                len(connection.execute(select(workitem_events)).all()),
                len(connection.execute(select(jobs_table)).all()),
                connection.execute(select(audit_head.c.seq)).scalar_one(),
            )

    before = written()
    refused(Status.NOT_FINISHED, lambda: kept.change_state(PERFORMER, ONE, "COMPLETED", LOCK))
    assert written() == before


def test_deletion_locks_are_counted(index: Index) -> None:
    kept = service(index, deletion_locks_max=1)
    for name in "ab":
        kept.create(ORDERER, make.uid(name), scheduled())
    lock = partial(kept.subscribe, ORDERER, ae_title="W", deletion_lock=True)
    assert lock(make.uid("a")) is Status.SUCCESS
    assert lock(make.uid("b")) is Status.NO_DELETION_LOCK
    assert lock(GLOBAL) is Status.NO_DELETION_LOCK


def test_an_ended_workitem_stays_until_its_locks_are_gone(kept: Workitems, index: Index) -> None:
    for name in ("locked", "free", "fresh"):
        ended(kept, "COMPLETED", make.uid(name))
    kept.subscribe(ORDERER, make.uid("locked"), "W", deletion_lock=True)
    old = [make.uid("locked"), make.uid("free")]
    with index.write() as connection:
        connection.execute(
            update(workitems).where(workitems.c.SOPInstanceUID.in_(old)).values(ended_at=1.0)
        )
    assert kept.forget() == 1
    refused(Status.FORGOTTEN, lambda: kept.get(ORDERER, make.uid("free")))
    refused(Status.DUPLICATE, lambda: kept.create(ORDERER, make.uid("free"), scheduled()))
    assert len(list(kept.search(ORDERER, []))) == 2
    kept.unsubscribe(ORDERER, make.uid("locked"), "W")
    assert kept.forget() == 1
    assert kept.forget() == 0


def test_old_events_are_forgotten(kept: Workitems, index: Index) -> None:
    kept.subscribe(ORDERER, GLOBAL, "W")
    kept.create(ORDERER, ONE, scheduled())
    kept.forget()
    assert len(told(kept, "W")) == 1
    with index.write() as connection:
        connection.execute(update(workitem_events).values(created_at=1.0))
    kept.forget()
    assert told(kept, "W") == []


def test_who_connects_learns_how_it_stands(kept: Workitems) -> None:
    claimed(kept)
    kept.subscribe(ORDERER, ONE, "W")
    reports, newest = kept.present(ORDERER, "W")
    assert [first(r.information, "ProcedureStepState") for r in reports] == ["IN PROGRESS"]
    assert kept.events(["W"], newest) == []


def test_watchers_are_told_of_a_restart(kept: Workitems) -> None:
    kept.announce_restart()
    kept.subscribe(ORDERER, GLOBAL, "W")
    kept.announce_restart()
    assert told(kept, "W") == [(GLOBAL, Kind.SCP_STATUS_CHANGE, "")]


def test_no_subscription_misses_a_workitem_that_is_born_beside_it(kept: Workitems) -> None:
    for turn in range(5):
        ready = threading.Barrier(2)
        uid, ae_title = make.uid("born", turn), f"W{turn}"

        def create(uid: str = uid, ready: threading.Barrier = ready) -> None:
            ready.wait()
            kept.create(ORDERER, uid, scheduled())

        def subscribe(title: str = ae_title, ready: threading.Barrier = ready) -> None:
            ready.wait()
            kept.subscribe(ORDERER, GLOBAL, title)

        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(create), pool.submit(subscribe)]:
                done.result()
        kept.update(ORDERER, uid, element("InputReadinessState", "UNAVAILABLE"))
        assert (uid, Kind.STATE_REPORT, "SCHEDULED") in told(kept, ae_title)


# Search


QUESTIONS: list[tuple[list[tuple[str, str]], str]] = [
    ([], "abc"),
    ([("ProcedureStepState", "SCHEDULED")], "abc"),
    ([("PatientID", "P-a")], "a"),
    ([("PatientName", "ph*^a")], "a"),
    ([("PatientName", "=山*")], "b"),
    ([("ScheduledProcedureStepStartDateTime", "20260102")], "b"),
    ([("ScheduledProcedureStepStartDateTime", "20260102-")], "bc"),
    ([("ScheduledProcedureStepStartDateTime", "-20260102")], "ab"),
    ([("ScheduledProcedureStepPriority", "HIGH\0")], "c"),
    ([("ScheduledWorkitemCodeSequence.CodeValue", "c-b")], "b"),
    ([("ScheduledWorkitemCodeSequence.CodeMeaning", "*-c"), ("PatientID", "P*")], "c"),
    ([("SOPInstanceUID", f"{make.uid('a')}\\{make.uid('c')}")], "ac"),
    ([("PatientID", "p-a")], ""),
    ([("ContactURI", "x")], ""),
]


def test_workitems_are_found_by_every_kind_of_key(kept: Workitems) -> None:
    for day, name in enumerate("abc", start=1):
        code = element("CodeValue", f"c-{name}") | element("CodeMeaning", f"code-{name}")
        kept.create(
            ORDERER,
            make.uid(name),
            scheduled(
                PatientID=f"P-{name}",
                PatientName={"Alphabetic": f"Phantom^{name}", "Ideographic": "山^" * (name == "b")},
                ScheduledProcedureStepStartDateTime=f"2026010{day}1200",
                ScheduledProcedureStepPriority="HIGH" if name == "c" else "LOW",
                ScheduledWorkitemCodeSequence=code,
            ),
        )
    for pairs, names in QUESTIONS:
        found = [first(model, "PatientID")[-1] for model in kept.search(ORDERER, pairs)]
        assert "".join(found) == names, pairs


@pytest.mark.parametrize("key", ["WorklistLabel", "AdmissionID"])
def test_a_page_of_a_search_is_the_same_with_and_without_a_column(
    kept: Workitems, key: str
) -> None:
    for number in range(5):
        kept.create(
            ORDERER,
            make.uid(number),
            scheduled(
                **{key: "even" if number % 2 == 0 else "odd"},
                ScheduledProcedureStepStartDateTime=f"202601021{number}",
            ),
        )
    found = list(kept.search(ORDERER, [(key, "even")], offset=1, limit=1))
    assert [first(model, "SOPInstanceUID") for model in found] == [make.uid(2)]
    assert not list(kept.search(ORDERER, [(key, "even")], limit=0))


def test_every_change_is_in_the_trail_without_a_patient(kept: Workitems, index: Index) -> None:
    ended(kept, "COMPLETED")
    kept.get(ORDERER, ONE)
    kept.get(ORDERER, ONE)
    with index.read() as connection:
        trail = connection.execute(select(trail_table.c.event)).scalars().all()
        assert not audit.verify(connection)
    deeds = ["create", "change", "update", "change", "retrieve"]
    assert len(trail) == len(deeds)
    assert all(f'"action":"{deed} workitem"' in row for deed, row in zip(deeds, trail, strict=True))
    assert not any("Phantom" in row or LOCK in row for row in trail)
