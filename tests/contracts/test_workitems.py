"""Workitems on every database: their states, their owners, their watchers, and races for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from sqlalchemy import select, update

from pacs.access import Action, Actor
from pacs.dicom.attribute_lists import element, first, values
from pacs.errors import BadQuery, Exhausted, Forbidden
from pacs.index import Index, audit, jobs, parties
from pacs.index.parties import Peer
from pacs.index.schema import audit as trail_table
from pacs.index.schema import audit_head, workitem_events, workitems
from pacs.index.schema import jobs as jobs_table
from pacs.workitems import FILTERED, GLOBAL, UPS_EVENT, Declined, Kind, Status, Workitems
from tests import make
from tests.contracts.workitems import (
    CODE,
    ORDERER,
    PERFORMER,
    discontinued,
    performed,
    scheduled,
    service,
)

ONE, LOCK, OTHER_LOCK = make.uid("one"), make.uid("lock"), make.uid("other lock")


@pytest.fixture
def kept(index: Index) -> Workitems:
    """An empty worklist, and two peers of which one can be called."""
    with index.write() as connection:
        parties.put(connection, Peer("WATCHER", "127.0.0.1", 104))
        parties.put(connection, Peer("ROAMER", "*", 0))
    return service(index)


def refused(status: Status, ask: Callable[[], object]) -> None:
    with pytest.raises(Declined) as declined:
        ask()
    assert declined.value.status is status


def state(kept: Workitems, uid: str = ONE) -> str:
    return first(kept.get(ORDERER, uid), "ProcedureStepState")


def claimed(kept: Workitems, uid: str = ONE) -> None:
    kept.create(ORDERER, uid, scheduled())
    assert kept.change_state(PERFORMER, uid, "IN PROGRESS", LOCK) is Status.SUCCESS


def ended(kept: Workitems, end: str, uid: str = ONE) -> None:
    claimed(kept, uid)
    kept.update(PERFORMER, uid, performed() | discontinued(), LOCK)
    assert kept.change_state(PERFORMER, uid, end, LOCK) is Status.SUCCESS


def told(kept: Workitems, ae_title: str) -> list[tuple[str, Kind, str]]:
    return [
        (event.target, Kind(event.kind), first(event.information, "ProcedureStepState"))
        for event in kept.events([ae_title], 0)
    ]


# Creation


def test_a_workitem_is_kept_as_it_was_ordered(kept: Workitems) -> None:
    assert kept.create(ORDERER, ONE, scheduled()) is Status.SUCCESS
    found = kept.get(ORDERER, ONE)
    assert found.items() >= scheduled().items()
    assert first(found, "SOPInstanceUID") == ONE
    assert first(found, "SOPClassUID") == "1.2.840.10008.5.1.4.34.6.1"
    assert first(found, "ScheduledProcedureStepModificationDateTime").endswith("+0000")
    assert list(found) == sorted(found)


def test_a_uid_is_used_once(kept: Workitems) -> None:
    kept.create(ORDERER, ONE, scheduled())
    refused(Status.DUPLICATE, lambda: kept.create(ORDERER, ONE, scheduled()))


@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        ({"ProcedureStepState": "IN PROGRESS"}, Status.NOT_SCHEDULED),
        ({"ProcedureStepLabel": ()}, Status.MISSING_VALUE),
        ({"InputReadinessState": "PERHAPS"}, Status.INVALID_VALUE),
        ({"SOPInstanceUID": make.uid("another")}, Status.INVALID_VALUE),
    ],
)
def test_a_workitem_that_cannot_be_scheduled_is_refused(
    kept: Workitems, attributes: dict[str, object], status: Status
) -> None:
    refused(status, lambda: kept.create(ORDERER, ONE, scheduled(**attributes)))
    refused(Status.UNKNOWN, lambda: kept.get(ORDERER, ONE))


def test_a_workitem_without_a_required_attribute_is_refused(kept: Workitems) -> None:
    model = scheduled()
    del model["00741200"]
    refused(Status.MISSING_ATTRIBUTE, lambda: kept.create(ORDERER, ONE, model))


@pytest.mark.parametrize("uid", ["1.2.x", "", "1" * 65, GLOBAL, FILTERED])
def test_a_workitem_needs_a_uid_of_its_own(kept: Workitems, uid: str) -> None:
    refused(Status.INVALID_VALUE, lambda: kept.create(ORDERER, uid, scheduled()))


def test_what_a_new_workitem_cannot_know_is_left_out_and_said(kept: Workitems) -> None:
    given = scheduled(TransactionUID=LOCK, ScheduledProcedureStepPriority="high") | performed()
    assert kept.create(ORDERER, ONE, given) is Status.CREATED_WITH_MODIFICATIONS
    found = kept.get(ORDERER, ONE)
    assert not values(found, "TransactionUID")
    assert not values(found, "UnifiedProcedureStepPerformedProcedureSequence")
    assert first(found, "ScheduledProcedureStepPriority") == "HIGH"


def test_a_workitem_without_a_worklist_label_gets_one(kept: Workitems) -> None:
    assert kept.create(ORDERER, ONE, scheduled(WorklistLabel=())) is Status.SUCCESS
    assert first(kept.get(ORDERER, ONE), "WorklistLabel") == "DEFAULT"


# States


def test_a_workitem_goes_its_way(kept: Workitems) -> None:
    kept.create(ORDERER, ONE, scheduled())
    kept.change_state(PERFORMER, ONE, "IN PROGRESS", LOCK)
    assert state(kept) == "IN PROGRESS"
    kept.update(PERFORMER, ONE, performed(), LOCK)
    kept.change_state(PERFORMER, ONE, "COMPLETED", LOCK)
    assert state(kept) == "COMPLETED"


def test_the_transaction_uid_is_never_told(kept: Workitems) -> None:
    claimed(kept)
    kept.update(PERFORMER, ONE, performed() | element("TransactionUID", LOCK))
    assert LOCK not in str(kept.get(PERFORMER, ONE))
    assert LOCK not in str(list(kept.search(PERFORMER, [])))


def test_an_end_is_refused_until_its_requirements_are_met(kept: Workitems) -> None:
    claimed(kept)
    for end in ("COMPLETED", "CANCELED"):
        with pytest.raises(Declined) as declined:
            kept.change_state(PERFORMER, ONE, end, LOCK)
        assert declined.value.status is Status.NOT_FINISHED
        assert "Sequence." in str(declined.value.facts["attribute"])
    assert state(kept) == "IN PROGRESS"


@pytest.mark.parametrize(
    ("end", "again", "other"),
    [
        ("COMPLETED", Status.ALREADY_COMPLETED, "CANCELED"),
        ("CANCELED", Status.ALREADY_CANCELED, "COMPLETED"),
    ],
)
def test_an_end_is_final(kept: Workitems, end: str, again: Status, other: str) -> None:
    ended(kept, end)
    assert kept.change_state(PERFORMER, ONE, end, LOCK) is again
    refused(Status.ENDED, lambda: kept.change_state(PERFORMER, ONE, other, LOCK))
    refused(Status.ENDED, lambda: kept.change_state(PERFORMER, ONE, "IN PROGRESS", LOCK))
    refused(Status.ENDED, lambda: kept.update(PERFORMER, ONE, performed(), LOCK))
    refused(
        Status.WRONG_TRANSACTION_UID,
        lambda: kept.change_state(PERFORMER, ONE, end, OTHER_LOCK),
    )


def test_a_workitem_becomes_scheduled_only_once(kept: Workitems) -> None:
    claimed(kept)
    refused(
        Status.NOT_TO_BE_SCHEDULED, lambda: kept.change_state(PERFORMER, ONE, "SCHEDULED", LOCK)
    )
    back = element("ProcedureStepState", "SCHEDULED")
    refused(Status.NOT_TO_BE_SCHEDULED, lambda: kept.update(PERFORMER, ONE, back, LOCK))


@pytest.mark.parametrize("end", ["COMPLETED", "CANCELED"])
def test_what_was_not_claimed_cannot_end(kept: Workitems, end: str) -> None:
    kept.create(ORDERER, ONE, scheduled())
    refused(Status.NOT_CLAIMED, lambda: kept.change_state(PERFORMER, ONE, end, LOCK))
    refused(Status.NOT_CLAIMED, lambda: kept.update(PERFORMER, ONE, performed(), LOCK))
    refused(Status.WRONG_TRANSACTION_UID, lambda: kept.change_state(PERFORMER, ONE, end, ""))


@pytest.mark.parametrize("uid", ["", OTHER_LOCK])
def test_who_has_not_the_transaction_uid_changes_nothing(kept: Workitems, uid: str) -> None:
    claimed(kept)
    for end in ("COMPLETED", "CANCELED"):
        refused(Status.WRONG_TRANSACTION_UID, partial(kept.change_state, ORDERER, ONE, end, uid))
    changes = element("ProcedureStepLabel", "Stolen")
    refused(Status.WRONG_TRANSACTION_UID, lambda: kept.update(ORDERER, ONE, changes, uid))
    assert first(kept.get(ORDERER, ONE), "ProcedureStepLabel") == "Lung densitometry"


def test_a_claim_needs_a_transaction_uid(kept: Workitems) -> None:
    kept.create(ORDERER, ONE, scheduled())
    refused(
        Status.WRONG_TRANSACTION_UID, lambda: kept.change_state(PERFORMER, ONE, "IN PROGRESS", "")
    )
    refused(Status.INVALID_VALUE, lambda: kept.change_state(PERFORMER, ONE, "IN PROGRESS", "x"))
    refused(Status.INVALID_VALUE, lambda: kept.change_state(PERFORMER, ONE, "DONE", LOCK))


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


def test_an_update_in_other_letters_is_coerced_and_said(kept: Workitems) -> None:
    kept.create(ORDERER, ONE, scheduled())
    changes = element("ScheduledProcedureStepPriority", "low")
    assert kept.update(ORDERER, ONE, changes) is Status.COERCED
    assert first(kept.get(ORDERER, ONE), "ScheduledProcedureStepPriority") == "LOW"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        (element("ScheduledProcedureStepPriority", "STAT"), Status.INVALID_VALUE),
        (element("ScheduledProcedureStepPriority"), Status.MISSING_VALUE),
        (element("ProcedureStepState", "COMPLETED"), Status.INVALID_VALUE),
        (element("SOPInstanceUID", "1.2.3"), Status.INVALID_VALUE),
    ],
)
def test_an_update_that_breaks_a_workitem_is_refused(
    kept: Workitems, changes: dict[str, object], status: Status
) -> None:
    kept.create(ORDERER, ONE, scheduled())
    before = kept.get(ORDERER, ONE)
    refused(status, lambda: kept.update(ORDERER, ONE, changes))
    assert kept.get(ORDERER, ONE) == before


def test_what_is_not_there_cannot_be_changed(kept: Workitems) -> None:
    for ask in (
        lambda: kept.get(ORDERER, ONE),
        lambda: kept.update(ORDERER, ONE, {}),
        lambda: kept.change_state(ORDERER, ONE, "IN PROGRESS", LOCK),
        lambda: kept.request_cancel(ORDERER, ONE, {}),
        lambda: kept.subscribe(ORDERER, ONE, "WATCHER"),
        lambda: kept.unsubscribe(ORDERER, ONE, "WATCHER"),
    ):
        refused(Status.UNKNOWN, ask)


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


def test_a_request_to_cancel_reaches_the_performer_if_it_watches(kept: Workitems) -> None:
    claimed(kept)
    refused(Status.PERFORMER_OUT_OF_REACH, lambda: kept.request_cancel(ORDERER, ONE, {}))
    kept.subscribe(PERFORMER, ONE, "PERFORMER")
    details = element("ReasonForCancellation", "too late")
    assert kept.request_cancel(ORDERER, ONE, details) is Status.SUCCESS
    assert state(kept) == "IN PROGRESS"
    (*_, last) = kept.events(["PERFORMER"], 0)
    assert Kind(last.kind) is Kind.CANCEL_REQUESTED
    assert first(last.information, "RequestingAE") == "ORDERER"
    assert first(last.information, "ReasonForCancellation") == "too late"


def test_this_node_does_not_cancel_what_it_performs(kept: Workitems) -> None:
    kept.create(ORDERER, ONE, scheduled())
    kept.subscribe(ORDERER, ONE, "W")
    kept.change_state(Actor("node", "inference"), ONE, "IN PROGRESS", LOCK)
    refused(Status.PERFORMER_REFUSES, lambda: kept.request_cancel(ORDERER, ONE, {}))


def test_a_completed_workitem_cannot_be_canceled(kept: Workitems) -> None:
    ended(kept, "COMPLETED")
    refused(Status.COMPLETED_BEFORE, lambda: kept.request_cancel(ORDERER, ONE, {}))


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


def test_who_watches_everything_is_told_of_what_comes(kept: Workitems) -> None:
    kept.create(ORDERER, make.uid("before"), scheduled())
    kept.subscribe(ORDERER, GLOBAL, "W")
    assert told(kept, "W") == [], "without a lock nothing is told of what was there"
    kept.create(ORDERER, ONE, scheduled(ScheduledStationNameCodeSequence=CODE))
    kept.change_state(PERFORMER, make.uid("before"), "IN PROGRESS", LOCK)
    assert [(target, kind.name) for target, kind, _ in told(kept, "W")] == [
        (ONE, "STATE_REPORT"),
        (ONE, "ASSIGNED"),
        (make.uid("before"), "STATE_REPORT"),
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


def test_a_filter_belongs_to_the_filtered_worklist_alone(kept: Workitems) -> None:
    pairs = [("WorklistLabel", "CT")]
    refused(Status.NOT_APPROPRIATE, lambda: kept.subscribe(ORDERER, FILTERED, "W"))
    refused(Status.NOT_APPROPRIATE, lambda: kept.subscribe(ORDERER, GLOBAL, "W", pairs=pairs))
    with pytest.raises(BadQuery):
        kept.subscribe(ORDERER, FILTERED, "W", pairs=[("NoSuchKeyword", "CT")])


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


def test_who_is_called_must_be_listed_with_a_host(kept: Workitems) -> None:
    kept.create(ORDERER, ONE, scheduled())
    for ae_title, status in (
        ("STRANGER", Status.UNKNOWN_RECEIVER),
        ("ROAMER", Status.NO_EVENT_REPORTS),
    ):
        refused(status, partial(kept.subscribe, ORDERER, ONE, ae_title, is_called=True))
    with pytest.raises(BadQuery):
        kept.subscribe(ORDERER, ONE, "seventeen letters")


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


@pytest.mark.parametrize(
    ("pairs", "names"),
    [
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
    ],
)
def test_workitems_are_found_by_every_kind_of_key(
    kept: Workitems, pairs: list[tuple[str, str]], names: str
) -> None:
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
    found = [first(model, "PatientID")[-1] for model in kept.search(ORDERER, pairs)]
    assert "".join(found) == names


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


@pytest.mark.parametrize(
    "pairs",
    [
        [("ScheduledProcedureStepStartDateTime", "-")],
        [("ScheduledProcedureStepStartDateTime", "yesterday")],
        [("ScheduledWorkitemCodeSequence", "x")],
        [("PatientID.CodeValue", "x")],
        [(".".join(["ScheduledWorkitemCodeSequence"] * 9), "x")],
        [("PatientID", str(number)) for number in range(200)],
        [("PatientID", "a"), ("PatientID", "b")],
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(
    kept: Workitems, pairs: list[tuple[str, str]]
) -> None:
    with pytest.raises(BadQuery):
        list(kept.search(ORDERER, pairs))


def test_a_search_nobody_waits_for_is_given_up(
    kept: Workitems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacs.workitems.SEARCH_S_MAX", -1.0)
    monkeypatch.setattr("pacs.index.WATCH_STEP_S", 60.0)
    kept.create(ORDERER, ONE, scheduled())
    with pytest.raises(Exhausted):
        list(kept.search(ORDERER, [("AdmissionID", "x")]))


# Who may, and what is noted


def test_who_has_not_the_right_does_nothing(kept: Workitems) -> None:
    stranger = Actor("peer", "X", actions=frozenset(Action) - {Action.WORKITEMS})
    for ask in (
        lambda: kept.create(stranger, ONE, scheduled()),
        lambda: kept.get(stranger, ONE),
        lambda: kept.update(stranger, ONE, {}),
        lambda: kept.change_state(stranger, ONE, "IN PROGRESS", LOCK),
        lambda: kept.request_cancel(stranger, ONE, {}),
        lambda: kept.search(stranger, []),
        lambda: kept.subscribe(stranger, GLOBAL, "X"),
        lambda: kept.unsubscribe(stranger, GLOBAL, "X"),
        lambda: kept.suspend(stranger, GLOBAL, "X"),
        lambda: kept.present(stranger, "X"),
    ):
        with pytest.raises(Forbidden):
            ask()


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
