"""Deleting by DICOMweb, giving back by `/api/recycled`, and the feed that tells of both."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset

from pacs.archive import Archive, Scope
from pacs.index.changes import Entry
from tests import make
from tests.unit.web.node import TESTER, Served, serving

STUDY = make.uid("study")
ROOTS = ["/dicom-web", "/research/demo/dicom-web"]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as started:
        for archive in (started.archive, started.parts.projects["demo"]):
            archive.recycle_s = 3600.0
        yield started


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A door for requests that change nothing."""
    with serving(tmp_path_factory.mktemp("shared")) as started:
        fill(started.archive, *make.study(5))
        yield started


def fill(archive: Archive, *sent: Dataset) -> None:
    for made in sent:
        archive.store(TESTER, make.incoming(made))


def path_of(made: Dataset) -> str:
    return (
        f"/studies/{made.StudyInstanceUID}/series/{made.SeriesInstanceUID}"
        f"/instances/{made.SOPInstanceUID}"
    )


def feed(served: Served, query: str = "", root: str = ROOTS[0]) -> list[dict[str, Any]]:
    answer = served.client.get(f"{root}/changefeed?{query}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    found: list[dict[str, Any]] = answer.json()
    return found


def archive_at(served: Served, root: str) -> Archive:
    return served.archive if root == ROOTS[0] else served.parts.projects["demo"]


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_each_level_can_be_deleted(served: Served, root: str, depth: int) -> None:
    sent = make.study(2, series=2)
    fill(archive_at(served, root), *sent)
    path = "/".join(path_of(sent[0]).split("/")[: 1 + 2 * depth])
    answer = served.client.delete(root + path)
    assert (answer.status_code, answer.content) == (204, b"")
    for resource in ("", "/metadata"):
        gone = served.client.get(root + path + resource)
        assert gone.status_code == 410
        assert gone.headers["content-type"] == "application/problem+json"
    assert served.client.delete(root + path).status_code == 404
    left = served.client.get(f"{root}/instances")
    assert len(left.json() if left.content else []) == {1: 0, 2: 2, 3: 3}[depth]


def test_what_cannot_be_deleted_is_told(shared: Served) -> None:
    assert shared.client.delete("/dicom-web/studies/1.2.3").status_code == 404
    assert shared.client.delete("/dicom-web/studies/1.2.x").status_code == 400
    assert shared.client.delete("/research/none/dicom-web/studies/1.2.3").status_code == 404
    refused = shared.client.delete("/dicom-web/studies")
    assert refused.status_code == 405
    assert "DELETE" not in refused.headers["allow"]


def test_a_deletion_is_listed_and_restored(served: Served) -> None:
    sent = make.study(2)
    fill(served.archive, *sent)
    assert served.client.get("/api/recycled").json() == {"deletions": [], "cursor": None}
    served.client.delete(f"/dicom-web/studies/{STUDY}")
    (listed,) = served.client.get("/api/recycled?limit=1").json()["deletions"]
    assert (listed["study_instance_uid"], listed["instances"]) == (STUDY, 2)
    assert listed["purge_at"] - listed["deleted_at"] == 3600.0
    answer = served.client.post(f"/api/recycled/{listed['id']}/restore")
    assert answer.json() == {"restored": 2, "left": 0}
    assert served.client.get("/dicom-web" + path_of(sent[0])).status_code == 200
    assert served.client.post(f"/api/recycled/{listed['id']}/restore").status_code == 404


def test_a_deletion_of_a_project_is_removed_for_good(served: Served) -> None:
    fill(served.parts.projects["demo"], *make.study(2))
    served.client.delete(f"{ROOTS[1]}/studies/{STUDY}")
    assert served.client.get("/api/recycled").json()["deletions"] == []
    (listed,) = served.client.get("/api/recycled?project=demo").json()["deletions"]
    url = f"/api/recycled/{listed['id']}"
    assert served.client.delete(url).status_code == 404, "it is not of the identified archive"
    assert served.client.delete(f"{url}?project=demo").status_code == 204
    assert served.client.get(f"{ROOTS[1]}/studies/{STUDY}").status_code == 404
    assert served.client.get("/api/recycled?project=none").status_code == 404


@pytest.mark.parametrize("root", ROOTS)
def test_the_feed_tells_of_each_instance(served: Served, root: str) -> None:
    one, two = make.study(2)
    fill(archive_at(served, root), one, two)
    served.client.delete(f"{root}{path_of(one)}")
    found = feed(served, root=root)
    assert [(told["sequence"], told["action"], told["state"]) for told in found] == [
        (1, "create", "deleted"),
        (2, "create", "current"),
        (3, "delete", "deleted"),
    ]
    assert found[1]["sopInstanceUid"] == two.SOPInstanceUID
    assert found[1]["seriesInstanceUid"] == two.SeriesInstanceUID
    assert found[1]["studyInstanceUid"] == STUDY
    assert datetime.fromisoformat(found[1]["timestamp"]).utcoffset() is not None
    assert ["metadata" in told for told in found] == [False, True, False]
    metadata = served.client.get(f"{root}{path_of(two)}/metadata").json()
    assert found[1]["metadata"] == metadata[0]
    assert not any("metadata" in told for told in feed(served, "includemetadata=false", root))
    other = next(other for other in ROOTS if other != root)
    assert feed(served, root=other) == []


def test_the_feed_is_read_in_pages(shared: Served) -> None:
    read: list[int] = []
    while page := feed(shared, f"offset={read[-1] if read else 0}&limit=2&includeMetadata=FALSE"):
        assert len(page) <= 2
        read += [told["sequence"] for told in page]
    assert read == [1, 2, 3, 4, 5]
    assert feed(shared, f"offset={(1 << 63) - 1}") == []
    latest = shared.client.get("/dicom-web/changefeed/latest?includeMetadata=false").json()
    assert latest == feed(shared, "offset=4&includeMetadata=false")[0]


def test_the_feed_is_read_between_times(shared: Served) -> None:
    every = feed(shared, "includeMetadata=false")
    assert feed(shared, "startTime=2000-01-01&includeMetadata=false") == every
    assert (
        feed(shared, "startTime=2000-01-01T00:00:00Z&offset=3&includeMetadata=false") == every[3:]
    )
    assert feed(shared, "endTime=2000-01-01T00:00:00%2B02:00") == []
    assert feed(shared, "endtime=2000-01-01T00:00:00+02:00") == []


def test_an_empty_feed_has_no_latest(served: Served) -> None:
    assert feed(served) == []
    latest = served.client.get("/dicom-web/changefeed/latest")
    assert (latest.status_code, latest.content) == (204, b"")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "offset=-1",
        "offset=9223372036854775808",
        "offset=\N{ARABIC-INDIC DIGIT ONE}",
        "offset=",
        "startTime=yesterday",
        "startTime=2001-01-01&endTime=2000-01-01",
        "includeMetadata=perhaps",
    ],
)
def test_a_question_that_cannot_be_read_is_refused(shared: Served, query: str) -> None:
    for path in ("changefeed", "changefeed/latest"):
        answer: httpx.Response = shared.client.get(f"/dicom-web/{path}?{query}")
        assert answer.status_code == 400, query
        assert answer.json()["status"] == 400


def test_an_instance_deleted_while_the_feed_is_read_has_no_metadata(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(served.archive, *make.study(1))
    found = served.archive.changes(TESTER, 0, 1)

    def read_late(*_: object) -> list[Entry]:
        served.archive.delete(TESTER, Scope(STUDY))
        return found

    monkeypatch.setattr(served.archive, "changes", read_late)
    (told,) = feed(served)
    assert told["state"] == "current"
    assert "metadata" not in told
