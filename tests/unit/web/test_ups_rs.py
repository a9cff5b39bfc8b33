"""UPS-RS: each transaction with its statuses and warnings, and what hostile requests get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pacs.dicom.attribute_lists import element, first, values
from pacs.dicom.json_model import JsonModel
from pacs.workitems import FILTERED, GLOBAL
from tests import make
from tests.contracts.workitems import CODE, ORDERER, discontinued, performed, scheduled
from tests.unit.web.node import Served, serving

ONE, LOCK = make.uid("one"), make.uid("lock")
JSON = {"Content-Type": "application/dicom+json"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A door for requests that leave nothing behind."""
    with serving(tmp_path_factory.mktemp("shared")) as started:
        yield started


def ask(served: Served, method: str, path: str, model: JsonModel | None = None) -> httpx.Response:
    body = b"" if model is None else json.dumps([model]).encode()
    url = f"/dicom-web/workitems{path}"
    return served.client.request(method, url, content=body, headers=JSON if body else {})


def state_of(served: Served) -> str:
    (found,) = ask(served, "GET", f"/{ONE}").json()
    return first(found, "ProcedureStepState")


def change(served: Served, state: str, lock: str = LOCK) -> httpx.Response:
    wanted = element("ProcedureStepState", state)
    wanted |= element("TransactionUID", lock) if lock else {}
    return ask(served, "PUT", f"/{ONE}/state", wanted)


def warned(response: httpx.Response) -> str:
    return str(response.headers.get("warning", "")).partition('"')[2].rstrip('"')


def test_a_workitem_goes_its_way(served: Served) -> None:
    created = ask(served, "POST", f"?{ONE}", scheduled())
    assert (created.status_code, created.content) == (201, b"")
    assert created.headers["location"] == f"{served.dicom_web}/workitems/{ONE}"
    assert change(served, "IN PROGRESS").status_code == 200
    assert ask(served, "POST", f"/{ONE}?{LOCK}", performed()).status_code == 200
    assert change(served, "COMPLETED").status_code == 200
    (found,) = served.client.get(created.headers["location"]).json()
    assert first(found, "ProcedureStepState") == "COMPLETED"
    assert not values(found, "TransactionUID")


def test_the_uid_of_a_new_workitem_stands_in_query_or_body_or_is_chosen(served: Served) -> None:
    uids = [make.uid(name) for name in "abc"]
    assert ask(served, "POST", f"?workitem={uids[0]}", scheduled()).status_code == 201
    assert ask(served, "POST", "", scheduled(SOPInstanceUID=uids[1])).status_code == 201
    chosen = ask(served, "POST", "", scheduled())
    assert chosen.headers["location"].rpartition("/")[2].startswith("2.25.")
    assert ask(served, "POST", "?not-a-uid", scheduled()).status_code == 400
    assert ask(served, "POST", f"?{uids[2]}", scheduled(SOPInstanceUID=ONE)).status_code == 400


@pytest.mark.parametrize(
    ("model", "status", "warning"),
    [
        (scheduled(ProcedureStepState="IN PROGRESS"), 400, ""),
        (scheduled(ProcedureStepLabel=()), 400, ""),
        (scheduled(InputReadinessState="X"), 400, ""),
        (
            scheduled(ScheduledProcedureStepPriority="high"),
            201,
            "The Workitem was created with modifications.",
        ),
    ],
)
def test_a_creation_ends_as_the_standard_says(
    shared: Served, model: JsonModel, status: int, warning: str
) -> None:
    response = ask(shared, "POST", f"?{make.uid('creation')}", model)
    assert (response.status_code, warned(response)) == (status, warning)


def test_a_uid_is_used_once(served: Served) -> None:
    ask(served, "POST", f"?{ONE}", scheduled())
    assert ask(served, "POST", f"?{ONE}", scheduled()).status_code == 409


def test_what_is_not_there_is_404_and_what_was_410(served: Served) -> None:
    for method, path in (
        ("GET", ""),
        ("POST", ""),
        ("POST", "/cancelrequest"),
        ("POST", "/subscribers/W"),
        ("DELETE", "/subscribers/W"),
    ):
        assert ask(served, method, f"/{ONE}{path}").status_code == 404, path
    assert change(served, "IN PROGRESS").status_code == 404
    ask(served, "POST", f"?{ONE}", scheduled())
    ask(served, "POST", f"/{ONE}/cancelrequest")
    with served.archive.index.write() as connection:
        connection.exec_driver_sql("UPDATE workitems SET ended_at = 1")
    served.parts.workitems.forget()
    assert ask(served, "GET", f"/{ONE}").status_code == 410


def test_a_change_of_state_ends_as_the_standard_says(served: Served) -> None:
    inconsistent = "The submitted request is inconsistent with the current state of the Workitem."
    unclaimed = "The target URI did not reference a claimed Workitem."
    wrong, missing = "The Transaction UID is incorrect.", "The Transaction UID is missing."
    ask(served, "POST", f"?{ONE}", scheduled())

    def ends(state: str, lock: str = LOCK) -> tuple[int, str]:
        response = change(served, state, lock)
        return response.status_code, warned(response)

    assert ends("COMPLETED") == (409, unclaimed)
    assert ends("IN PROGRESS", "") == (409, missing)
    assert ends("DONE")[0] == 400
    assert ends("IN PROGRESS") == (200, "")
    assert ends("IN PROGRESS", make.uid("other")) == (409, inconsistent)
    assert ends("SCHEDULED") == (409, inconsistent)
    assert ends("COMPLETED") == (409, inconsistent)
    assert ends("COMPLETED", make.uid("other")) == (409, wrong)
    assert ends("COMPLETED", "") == (409, missing)
    updated = ask(served, "POST", f"/{ONE}", performed())
    assert (updated.status_code, warned(updated)) == (409, missing)
    body = performed() | discontinued() | element("TransactionUID", LOCK)
    assert ask(served, "POST", f"/{ONE}", body).status_code == 200
    assert ends("CANCELED") == (200, "")
    assert ends("CANCELED") == (200, "The UPS is already in the requested state of CANCELED.")
    assert ask(served, "POST", f"/{ONE}?transaction-uid={LOCK}", performed()).status_code == 409


def test_the_requester_may_be_named(served: Served) -> None:
    ask(served, "POST", f"?{ONE}", scheduled())
    wanted = element("ProcedureStepState", "IN PROGRESS") | element("TransactionUID", LOCK)
    assert ask(served, "PUT", f"/{ONE}/state/PERFORMER", wanted).status_code == 200
    assert state_of(served) == "IN PROGRESS"


def test_an_update_in_other_letters_is_said(served: Served) -> None:
    ask(served, "POST", f"?{ONE}", scheduled())
    response = ask(served, "POST", f"/{ONE}", element("InputReadinessState", "ready"))
    assert (response.status_code, warned(response)) == (
        200,
        "The Workitem was updated with modifications.",
    )


def test_a_request_to_cancel_ends_as_the_standard_says(served: Served) -> None:
    ask(served, "POST", f"?{ONE}", scheduled())
    reason = element("ReasonForCancellation", "wrong patient")
    assert ask(served, "POST", f"/{ONE}/cancelrequest", reason).status_code == 202
    assert state_of(served) == "CANCELED"
    again = ask(served, "POST", f"/{ONE}/cancelrequest/REQUESTER")
    assert (again.status_code, warned(again)) == (
        202,
        "The UPS is already in the requested state of CANCELED.",
    )
    two = make.uid("two")
    ask(served, "POST", f"?{two}", scheduled())
    served.parts.workitems.change_state(ORDERER, two, "IN PROGRESS", LOCK)
    assert ask(served, "POST", f"/{two}/cancelrequest").status_code == 409
    ask(served, "POST", f"/{two}/subscribers/W")
    assert ask(served, "POST", f"/{two}/cancelrequest").status_code == 202


# Search


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("filled")) as started:
        fill(started)
        yield started


def fill(served: Served) -> None:
    for number in range(5):
        served.parts.workitems.create(
            ORDERER,
            make.uid(number),
            scheduled(
                PatientID=f"P-{number}",
                WorklistLabel="CT" if number % 2 else "MR",
                ScheduledProcedureStepStartDateTime=f"202601{number + 10}",
                CommentsOnTheScheduledProcedureStep="long words",
            ),
        )


def patients(response: httpx.Response) -> str:
    return "".join(first(model, "PatientID")[-1] for model in response.json())


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", "01234"),
        ("?WorklistLabel=CT", "13"),
        ("?00741202=CT&limit=1", "1"),
        ("?limit=2&offset=2", "23"),
        ("?ScheduledProcedureStepStartDateTime=20260112-", "234"),
        ("?ScheduledWorkitemCodeSequence.CodeValue=110004&PatientID=P-4", "4"),
        ("?PatientName=one*&fuzzymatching=true", "01234"),
        ("?PatientName=&PatientID=P-0", "0"),
        ("?CommentsOnTheScheduledProcedureStep=long*&offset=4", "4"),
    ],
)
def test_workitems_are_found(filled: Served, query: str, found: str) -> None:
    assert patients(ask(filled, "GET", query)) == found


def test_an_answer_has_what_is_asked_for_and_the_return_keys(filled: Served) -> None:
    (model,) = ask(filled, "GET", "?PatientID=P-1").json()
    assert "00400400" not in model
    assert first(model, "SOPInstanceUID") == make.uid(1)
    for query in ("includefield=00400400", "includefield=all", "00400400=long*"):
        (model,) = ask(filled, "GET", f"?PatientID=P-1&{query}").json()
        assert first(model, "CommentsOnTheScheduledProcedureStep") == "long words"
    assert "00081195" not in json.dumps(ask(filled, "GET", "?includefield=all").json())


def test_what_remains_and_what_is_ignored_is_said(filled: Served) -> None:
    assert "additional results" in warned(ask(filled, "GET", "?limit=2"))
    assert warned(ask(filled, "GET", "?limit=5")) == ""
    assert "no attributes" in warned(ask(filled, "GET", "?colour=blue"))
    empty = ask(filled, "GET", "?PatientID=none")
    assert (empty.status_code, empty.content) == (204, b"")


@pytest.mark.parametrize(
    "query",
    [
        "?limit=-1",
        "?offset=x",
        "?fuzzymatching=perhaps",
        "?ScheduledProcedureStepStartDateTime=yesterday",
        "?ScheduledWorkitemCodeSequence=x",
        "?" + "&".join(f"PatientID={n}" for n in range(200)),
        f"?PatientID={'*' * 40}x{'*' * 40}",
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(filled: Served, query: str) -> None:
    assert ask(filled, "GET", query).status_code == 400


def test_a_project_has_no_worklist(shared: Served) -> None:
    assert shared.client.get("/research/demo/dicom-web/workitems").status_code == 404


# Subscriptions


def test_a_subscription_begins_and_ends(served: Served) -> None:
    ask(served, "POST", f"?{ONE}", scheduled())
    made = ask(served, "POST", f"/{ONE}/subscribers/MY%20AE?deletionlock=true")
    assert made.status_code == 201
    socket = f"ws{served.dicom_web.removeprefix('http')}/ws/subscribers/MY%20AE"
    assert made.headers["content-location"] == made.headers["location"] == socket
    assert ask(served, "DELETE", f"/{ONE}/subscribers/MY%20AE").status_code == 200
    assert ask(served, "DELETE", f"/{ONE}/subscribers/MY%20AE").status_code == 404


def test_a_subscription_to_all_can_be_filtered_and_suspended(served: Served) -> None:
    path = f"/{FILTERED}/subscribers/W"
    assert ask(served, "POST", path).status_code == 400
    assert ask(served, "POST", f"{path}?filter=colour=blue").status_code == 400
    assert ask(served, "POST", f"{path}?filter=00741202=CT,PatientID=P-1").status_code == 201
    for uid, label in ((ONE, "CT"), (make.uid("two"), "MR")):
        ask(served, "POST", f"?{uid}", scheduled(WorklistLabel=label))
    assert [event.target for event in served.parts.workitems.events(["W"], 0)] == [ONE]
    assert ask(served, "POST", f"{path}/suspend").status_code == 200
    assert ask(served, "POST", f"/{GLOBAL}/subscribers/W/suspend").status_code == 404
    assert ask(served, "POST", f"/{ONE}/subscribers/W/suspend").status_code == 400
    assert ask(served, "DELETE", f"/{GLOBAL}/subscribers/W").status_code == 200
    assert ask(served, "DELETE", f"/{GLOBAL}/subscribers/W").status_code == 404


@pytest.mark.parametrize("path", ["seventeen-letters", "a%5Cb", "%0A"])
def test_an_ae_title_that_is_none_is_refused(shared: Served, path: str) -> None:
    assert ask(shared, "POST", f"/{GLOBAL}/subscribers/{path}").status_code == 400


def test_a_lock_that_is_not_granted_is_said(served: Served) -> None:
    served.parts.workitems._deletion_locks_max = 0
    ask(served, "POST", f"?{ONE}", scheduled())
    made = ask(served, "POST", f"/{ONE}/subscribers/W?deletionlock=true")
    assert (made.status_code, warned(made)) == (201, "Deletion Lock not granted.")
    assert ask(served, "POST", f"/{ONE}/subscribers/W?deletionlock=yes").status_code == 400


# Hostile bodies

_DEEP: Any = {}
for _ in range(50):
    _DEEP = element("ScheduledWorkitemCodeSequence", _DEEP)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b"[" * 100_000, 422),
        (b"[]", 422),
        (b"[5]", 422),
        (b'{"00741000": 5}', 422),
        (b'{"00741000": {"vr": "CS", "Value": "SCHEDULED"}}', 422),
        (b'{"00741000": {"vr": "ZZ", "Value": ["SCHEDULED"]}, "x": {}}', 422),
        (b'{"00420011": {"vr": "OB", "BulkDataURI": "http://127.0.0.1/"}}', 422),
        (b'{"00420011": {"vr": "OB", "InlineBinary": "???"}}', 422),
        (b'{"00741004": {"vr": "DS", "Value": [NaN]}}', 422),
        (b'{"00741204": {"vr": "LO", "Value": ["\\ud800"]}}', 422),
        (b'{"00741204": {"vr": "LO", "Value": ["\\u0000"]}}', 422),
        (b'{"00020010": {"vr": "UI", "Value": ["1.2"]}}', 422),
        (json.dumps(scheduled() | _DEEP).encode(), 422),
        (json.dumps(scheduled(ProcedureStepLabel="x" * 70_000)).encode(), 422),
        (json.dumps(scheduled(CommentsOnTheScheduledProcedureStep="x" * (10 << 20))).encode(), 413),
        (json.dumps({f"{0x00091000 + n:08X}": {"vr": "LO"} for n in range(20_000)}).encode(), 422),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_hostile_body_is_refused_and_nothing_is_kept(
    shared: Served, body: bytes, status: int
) -> None:
    response = shared.client.post(f"/dicom-web/workitems?{ONE}", content=body, headers=JSON)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert ask(shared, "GET", f"/{ONE}").status_code == 404


def test_other_media_types_are_refused(served: Served) -> None:
    body = json.dumps(scheduled()).encode()
    response = served.client.post(
        f"/dicom-web/workitems?{ONE}", content=body, headers={"Content-Type": "text/plain"}
    )
    assert response.status_code == 415
    ask(served, "POST", f"?{ONE}", scheduled())
    url, accept = f"/dicom-web/workitems/{ONE}", {"Accept": "text/html"}
    assert served.client.get(url, headers=accept).status_code == 406


def test_no_problem_repeats_a_patient(served: Served) -> None:
    model = scheduled(PatientName={"Alphabetic": "Secret^Name"}, InputReadinessState="SECRET")
    response = ask(served, "POST", f"?{ONE}", model)
    assert response.status_code == 400
    assert "secret" not in response.text.lower()
    assert CODE["00080100"]["Value"][0] not in response.text
