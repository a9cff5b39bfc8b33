"""`/extendedquerytags`: added at run time, filled in the background, refused in plain words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pacs.archive.tagging import QueryTags
from tests import make
from tests.unit.web.node import TESTER, Served, serving

TAGS = "/dicom-web/extendedquerytags"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as served:
        served.archive.store(TESTER, make.incoming(make.data_set(ProtocolName="Thorax")))
        yield served


def test_the_life_of_a_tag(node: Served) -> None:
    wanted = [{"Path": "ProtocolName", "Level": "Series"}]
    added = node.client.post(TAGS, json=wanted)
    assert added.status_code == 202
    operation = added.json()["href"]
    assert added.headers["location"] == operation
    (tag,) = node.client.get(TAGS).json()
    assert tag == {
        "path": "00181030",
        "vr": "LO",
        "level": "Series",
        "status": "Adding",
        "queryStatus": "Enabled",
        "operation": added.json(),
    }
    running = node.client.get(operation).json()
    assert (running["status"], running["percentComplete"]) == ("Running", 0)
    early = node.client.get("/dicom-web/series?ProtocolName=Thorax")
    assert early.status_code == 204
    assert "have not been read" in early.headers["warning"]

    QueryTags(node.archive).fill()
    done = node.client.get(operation).json()
    assert (done["status"], done["percentComplete"]) == ("Completed", 100)
    assert done["resources"] == [f"{node.dicom_web}/extendedquerytags/00181030"]
    (row,) = node.client.get("/dicom-web/series?ProtocolName=Thorax").json()
    assert row["00181030"] == {"vr": "LO", "Value": ["Thorax"]}
    assert node.client.get("/dicom-web/instances?00181030=Thor*").status_code == 200
    assert node.client.get("/dicom-web/studies?ProtocolName=Thorax").status_code == 400

    one = f"{TAGS}/00181030"
    assert (
        node.client.patch(one, json={"queryStatus": "disabled"}).json()["queryStatus"] == "Disabled"
    )
    refused = node.client.get("/dicom-web/series?ProtocolName=Thorax")
    assert (refused.status_code, "ProtocolName" in refused.json()["detail"]) == (400, True)
    assert node.client.get(f"{one}/errors").json() == []
    assert node.client.delete(one).status_code == 204
    assert node.client.get(one).status_code == 404
    assert node.client.delete(one).status_code == 404


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, []),
        (400, {}),
        (400, "x"),
        (400, [1]),
        (400, [{"Path": "KVP"}]),
        (400, [{"Path": "KVP", "Level": "Patient"}]),
        (400, [{"Path": "KVP", "Level": 1}]),
        (400, [{"Path": "KVP", "Level": "Study", "VR": "LO"}]),
        (400, [{"Path": "nonsense", "Level": "Study"}]),
        (400, [{"Path": "RequestAttributesSequence", "Level": "Series"}]),
        (400, [{"Path": "00091001", "Level": "Series", "VR": "LO"}]),
        (400, [{"Path": "KVP", "Level": "Study"}] * 2),
        (400, [{"Path": "KVP", "Level": "Study"}] * 129),
        (409, [{"Path": "PatientID", "Level": "Study"}]),
        (409, [{"Path": "RequestAttributesSequence.RequestedProcedureID", "Level": "Series"}]),
    ],
)
def test_what_cannot_be_added_is_refused(node: Served, status: int, body: object) -> None:
    answer = node.client.post(TAGS, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
    assert node.client.get(TAGS).json() == []


def test_bodies_that_are_no_json_and_too_long_ones_are_refused(node: Served) -> None:
    assert node.client.post(TAGS, content=b"[" * 100_000).status_code == 400
    assert node.client.post(TAGS, content=b" " * (1 << 20 | 1)).status_code == 413
    assert node.client.get(f"{TAGS}/x.y").status_code == 400
    assert node.client.get("/dicom-web/operations/none").status_code == 404


def test_a_private_tag_and_one_in_a_sequence_can_be_added(node: Served) -> None:
    wanted = [
        {"path": "00091001", "vr": "LO", "privateCreator": "ACME", "level": "instance"},
        {"path": "ProcedureCodeSequence.CodeValue", "level": "Study"},
    ]
    assert node.client.post(TAGS, json=wanted).status_code == 202
    shown = node.client.get(TAGS).json()
    assert [one["path"] for one in shown] == ["00091001", "00081032.00080100"]
    assert shown[0]["privateCreator"] == "ACME"
    assert node.client.get(f"{TAGS}/ProcedureCodeSequence.CodeValue").status_code == 200
    assert len(node.client.get(TAGS, params={"limit": 1, "offset": 1}).json()) == 1
    assert (
        node.client.get("/dicom-web/studies?ProcedureCodeSequence.CodeValue=X").status_code == 204
    )
    for one in shown:
        node.client.delete(f"{TAGS}/{one['path']}")
