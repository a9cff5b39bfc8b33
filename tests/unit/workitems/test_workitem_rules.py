"""What may be asked of workitems, and what not; what depends on the database is in the contracts."""

from __future__ import annotations

from functools import partial

import pytest

from pacs.access import Action, Actor
from pacs.dicom.attribute_lists import element, first, values
from pacs.errors import BadQuery, Exhausted, Forbidden
from pacs.index import Index, parties
from pacs.index.parties import Peer
from pacs.workitems import FILTERED, GLOBAL, Declined, Kind, Status, Workitems
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
def kept(sqlite_index: Index) -> Workitems:
    """An empty worklist, and two peers of which one can be called."""
    with sqlite_index.write() as connection:
        parties.put(connection, Peer("WATCHER", "127.0.0.1", 104))
        parties.put(connection, Peer("ROAMER", "*", 0))
    return service(sqlite_index)


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


def test_a_filter_belongs_to_the_filtered_worklist_alone(kept: Workitems) -> None:
    pairs = [("WorklistLabel", "CT")]
    refused(Status.NOT_APPROPRIATE, lambda: kept.subscribe(ORDERER, FILTERED, "W"))
    refused(Status.NOT_APPROPRIATE, lambda: kept.subscribe(ORDERER, GLOBAL, "W", pairs=pairs))
    with pytest.raises(BadQuery):
        kept.subscribe(ORDERER, FILTERED, "W", pairs=[("NoSuchKeyword", "CT")])


def test_who_is_called_must_be_listed_with_a_host(kept: Workitems) -> None:
    kept.create(ORDERER, ONE, scheduled())
    for ae_title, status in (
        ("STRANGER", Status.UNKNOWN_RECEIVER),
        ("ROAMER", Status.NO_EVENT_REPORTS),
    ):
        refused(status, partial(kept.subscribe, ORDERER, ONE, ae_title, is_called=True))
    with pytest.raises(BadQuery):
        kept.subscribe(ORDERER, ONE, "seventeen letters")


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
    monkeypatch.setattr("pacs.index.watch.WATCH_STEP_S", 60.0)
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
