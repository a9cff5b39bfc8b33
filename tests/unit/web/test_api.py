"""`/api`: results, worklist status, jobs, models and version, after a real run of a real model."""

from __future__ import annotations

import httpx
import pytest

from tests.unit.web.analysed import Analysed, analysed

__all__ = ["analysed"]  # the fixture, for pytest to find
FIELDS = {
    *("model", "model_version", "model_sha256", "state", "reason", "generation", "findings"),
    *("objects", "timings_ms", "provider"),
}


@pytest.fixture
def client(analysed: Analysed) -> httpx.Client:
    return analysed.client


def test_results_have_the_fields_of_the_interface(analysed: Analysed, client: httpx.Client) -> None:
    answer = client.get(f"/api/studies/{analysed.chest}/results")
    assert answer.status_code == 200
    (run,) = answer.json()["results"]
    assert set(run) >= FIELDS
    assert (run["state"], run["generation"], run["reason"]) == ("succeeded", 1, None)
    volume = next(f for f in run["findings"] if f["id"] == "lung_volume")
    assert volume["unit"]["scheme"] == "UCUM"
    assert volume["value"] > 0
    assert {written["kind"] for written in run["objects"]} == {"SR", "SEG"}


def test_the_addresses_of_written_objects_lead_to_them(
    analysed: Analysed, client: httpx.Client
) -> None:
    (run,) = client.get(f"/api/studies/{analysed.chest}/results").json()["results"]
    for written in run["objects"]:
        (instance,) = client.get(written["url"] + "/metadata").json()
        assert instance["00080018"]["Value"] == [written["sop_instance_uid"]]


def test_a_skipped_run_says_why(analysed: Analysed, client: httpx.Client) -> None:
    (run,) = client.get(f"/api/studies/{analysed.hostile}/results").json()["results"]
    assert run["state"] == "skipped"
    assert run["reason"]["code"]
    assert "CR" in run["reason"]["sentence"]


def test_an_unknown_study_is_a_problem_document(client: httpx.Client) -> None:
    answer = client.get("/api/studies/1.2.3/results")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_worklist_status_speaks_in_words(analysed: Analysed, client: httpx.Client) -> None:
    studies = client.get("/api/worklist-status").json()["studies"]
    assert studies[analysed.chest]["ai"] == "succeeded"
    assert "Lung volume" in studies[analysed.chest]["summary"]
    assert studies[analysed.hostile]["ai"] == "skipped"
    assert studies[analysed.receiving] == {
        "state": "receiving",
        "generation": 0,
        "ai": "none",
        "summary": "",
    }


def test_jobs_come_in_pages(client: httpx.Client) -> None:
    first = client.get("/api/jobs", params={"limit": 1}).json()
    second = client.get("/api/jobs", params={"limit": 1, "cursor": first["cursor"]}).json()
    assert first["jobs"][0]["id"] > second["jobs"][0]["id"]
    whole = client.get("/api/jobs").json()
    assert whole["cursor"] is None
    assert whole["jobs"][:2] == [first["jobs"][0], second["jobs"][0]]


def test_jobs_of_one_state_can_be_asked_for(client: httpx.Client) -> None:
    jobs = client.get("/api/jobs", params={"state": "skipped"}).json()["jobs"]
    assert jobs
    assert {job["state"] for job in jobs} == {"skipped"}


@pytest.mark.parametrize("limit", ["0", "-1", "1000000", "many"])
def test_a_limit_out_of_range_is_refused(client: httpx.Client, limit: str) -> None:
    assert client.get("/api/jobs", params={"limit": limit}).status_code == 400


def test_models_are_listed_with_their_limits(client: httpx.Client) -> None:
    listed = client.get("/api/models").json()
    (model,) = [m for m in listed["models"] if m["id"] == "ct-lung-densitometry"]
    assert model["regulatory_status"] == "RESEARCH"
    assert model["limitations"]
    assert listed["faults"] == []


def test_the_version_is_told(client: httpx.Client) -> None:
    assert client.get("/api/version").json() == {"name": "Isocenter", "version": "0.0.test"}


def test_every_route_is_described(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()["paths"]
    assert {"/api/studies/{study_instance_uid}/results", "/api/jobs", "/api/models"} <= set(
        described
    )
