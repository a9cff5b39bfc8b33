"""`/api/worklist` and the procedure steps of a study."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests import make
from tests.scheduled import SCANNER, STEP, completion, creation, encoded, entry
from tests.unit.web.node import Served, serving
from web.bodies import BODY_BYTES_MAX


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as started:
        yield started


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    yield served.client
    for one in served.client.get("/api/worklist").json()["entries"]:
        served.client.delete(f"/api/worklist/{one['id']}")


def put(client: httpx.Client, number: int = 1, **given: Any) -> httpx.Response:  # noqa: ANN401 - of any VR
    return client.put("/api/worklist", json=entry(number, **given))


def test_an_entry_is_put_read_changed_and_removed(client: httpx.Client) -> None:
    made = put(client)
    assert made.status_code == 201
    number, study = made.json()["id"], made.json()["study_instance_uid"]
    again = put(client, PatientSex="F")
    assert (again.status_code, again.json()["id"]) == (200, number)
    read = client.get(f"/api/worklist/{number}").json()
    assert read == again.json()
    assert (read["status"], read["study_instance_uid"]) == ("SCHEDULED", study)
    told = read["entry"]
    (step,) = told.pop(STEP)
    (given,) = entry()[STEP]
    assert step == {**given, "ScheduledProcedureStepStatus": "SCHEDULED"}
    assert told == {
        **{key: value for key, value in entry().items() if key != STEP},
        "PatientSex": "F",
        "StudyInstanceUID": study,
    }
    changed = client.patch(f"/api/worklist/{number}", json={"status": "ARRIVED"})
    assert (changed.status_code, changed.json()["status"]) == (200, "ARRIVED")
    assert client.delete(f"/api/worklist/{number}").status_code == 204
    for method in ("GET", "DELETE"):
        assert client.request(method, f"/api/worklist/{number}").status_code == 404
    gone = client.patch(f"/api/worklist/{number}", json={"status": "READY"})
    assert gone.status_code == 404


def test_what_was_read_can_be_put_again(client: httpx.Client) -> None:
    read = put(client, PatientName="山田^太郎", PregnancyStatus=4, Allergies="Latex").json()
    again = client.put("/api/worklist", json=read["entry"])
    assert (again.status_code, again.json()) == (200, read)


def test_lists_are_narrowed_and_paged(client: httpx.Client) -> None:
    for number in range(5):
        step = {
            "Modality": "MR" if number % 2 else "CT",
            "ScheduledProcedureStepStartDate": f"2026030{number + 1}",
        }
        put(client, number, step=step)
    assert len(client.get("/api/worklist?modality=CT").json()["entries"]) == 3
    assert len(client.get("/api/worklist?date=20260302-20260303").json()["entries"]) == 2
    assert client.get("/api/worklist?station=MR9").json()["entries"] == []
    assert client.get("/api/worklist?status=READY").json()["entries"] == []
    found: list[str] = []
    page: dict[str, Any] = {"cursor": ""}
    while page["cursor"] is not None:
        parameters = {"limit": 2, "cursor": page["cursor"]}
        page = client.get("/api/worklist", params=parameters).json()
        found += [one["entry"]["AccessionNumber"] for one in page["entries"]]
    assert found == [f"A-{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "the body is not JSON"),
        (b"[]", "the body is not one entry"),
        (b'{"a":' * 100_000, "the body is not JSON"),
        (b'{"PatientName": 1}', "PatientName is no text"),
        (b'{"PatientName": NaN}', "PatientName is no text"),
        (json.dumps(entry(PatientSex="female")).encode(), "PatientSex is not a value of CS"),
        (json.dumps(entry(step={"Modality": ""})).encode(), f"{STEP}[0].Modality is missing"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_with_its_place(
    client: httpx.Client, body: bytes, sentence: str
) -> None:
    refused = client.put("/api/worklist", content=body)
    assert refused.status_code == 400
    assert refused.json()["detail"] == sentence
    assert client.get("/api/worklist").json()["entries"] == []


def test_a_value_is_never_repeated(client: httpx.Client) -> None:
    secret = "Canary^" + "x" * 100
    for spoilt in ({"PatientName": secret}, {secret: "x"}, {STEP: secret}):
        refused = client.put("/api/worklist", json={**entry(), **spoilt})
        assert refused.status_code == 400
        assert "Canary" not in refused.text


def test_a_body_that_is_too_long_is_refused(client: httpx.Client) -> None:
    refused = client.put("/api/worklist", content=b" " * (BODY_BYTES_MAX + 1))
    assert refused.status_code == 413


@pytest.mark.parametrize(
    "path",
    ["?cursor=x", "?status=DONE", "?date=today", "?limit=0", "/x", f"/{1 << 70}"],
)
def test_a_request_that_makes_no_sense_is_a_bad_one(client: httpx.Client, path: str) -> None:
    assert client.get(f"/api/worklist{path}").status_code == 400


def test_a_status_that_is_none_is_refused(client: httpx.Client) -> None:
    number = put(client).json()["id"]
    for body in ({"status": "DONE"}, {"status": 1}, {}):
        assert client.patch(f"/api/worklist/{number}", json=body).status_code == 400


def test_what_of_a_step_is_missing_shows_on_its_study(served: Served) -> None:
    study, step = make.uid("performed study"), make.uid("performed step")
    first, second = make.study(2, study_instance_uid=study)
    path = f"/api/studies/{study}/procedure-steps"
    assert served.client.get(path).status_code == 404
    served.archive.store(SCANNER, make.incoming(first))
    assert served.client.get(path).json()["procedure_steps"] == []
    steps = served.parts.procedure_steps
    steps.create(SCANNER, step, *encoded(creation(study)))
    steps.change(SCANNER, step, *encoded(completion([first, second])))
    assert served.client.get(path).json() == {
        "study_instance_uid": study,
        "procedure_steps": [
            {
                "sop_instance_uid": step,
                "state": "COMPLETED",
                "modality": "CT",
                "performed_station_ae_title": "CT1",
                "started": "20260304 100500",
                "ended": "20260304 101500",
                "scheduled_procedure_step_ids": ["S-1"],
                "instances_listed": 2,
                "instances_missing": 1,
                "missing": [second.SOPInstanceUID],
            }
        ],
    }
