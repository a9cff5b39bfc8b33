"""A page of another site, open in the browser of somebody who may do everything here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pacs.peers import Peer, Right
from tests.unit.web.node import TESTER, Served, serving

ORDER = "/api/deliveries/cancel?peer=PACS"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as started:
        rights = frozenset({Right.RECEIVE})
        started.parts.peers.put(TESTER, Peer("PACS", "192.0.2.9", 104, rights=rights))
        yield started


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (ORDER, b""),
        ("/dicom-web/extendedquerytags", b'[{"Path": "00181030", "Level": "Series"}]'),
    ],
)
def test_a_page_of_another_site_changes_nothing(
    served: Served, headers: dict[str, str], path: str, body: bytes
) -> None:
    given = {"Content-Type": "text/plain", **headers}  # which browsers send without asking first

    answer = served.client.post(path, content=body, headers=given)

    assert answer.status_code == 403
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert served.client.get("/dicom-web/extendedquerytags").json() == []


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {}], ids=str
)
def test_our_own_pages_and_programs_may(served: Served, headers: dict[str, str]) -> None:
    assert served.client.post(ORDER, headers=headers).status_code == 200


def test_our_own_page_is_known_by_its_origin(served: Served) -> None:
    assert served.client.post(ORDER, headers={"Origin": served.url}).status_code == 200


def test_a_link_on_another_site_may_lead_here(served: Served) -> None:
    answer = served.client.get("/dicom-web/studies", headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 204
