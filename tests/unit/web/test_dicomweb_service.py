"""The service as a whole: what it says it can do, where it says it stands, what it refuses."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from xml.etree import ElementTree

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from pacs.errors import BadQuery
from tests import make
from tests.unit.web.node import TESTER, Served, serving
from web.app import create_app
from web.dicomweb.capabilities import WADL, WADL_NAMESPACE
from web.dicomweb.origin import Origin, networks, origin_of

STUDY = make.uid("study")
SERIES = make.uid(STUDY, "series")
INSTANCE = make.uid(SERIES, 1)
OF_INSTANCE = f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{INSTANCE}"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as served:
        served.archive.store(TESTER, make.incoming(make.data_set()))
        yield served


# capabilities


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("OPTIONS", "/dicom-web"),
        ("OPTIONS", "/dicom-web/"),
        ("GET", "/dicom-web/conformance"),
        ("OPTIONS", "/research/demo/dicom-web/"),
        ("GET", "/research/demo/dicom-web/conformance"),
    ],
)
def test_a_service_tells_what_it_can_do(node: Served, method: str, path: str) -> None:
    answer = node.client.request(method, path)
    assert answer.status_code == 200
    told = answer.json()
    root = path.removesuffix("/").removesuffix("/conformance")
    assert told["service"] == node.url + root
    methods = {one["path"]: set(one["methods"]) for one in told["resources"]}
    assert methods["/studies"] == {"GET", "HEAD", "POST"}
    assert methods["/studies/{study}/metadata"] == {"GET", "HEAD"}
    assert all("{project}" not in path for path in methods)


def test_every_resource_that_is_told_is_there(node: Served) -> None:
    values = {"study": STUDY, "series": SERIES, "instance": INSTANCE, "frames": "1"}
    values |= {"path": "7FE00010"}
    for one in node.client.get("/dicom-web/conformance").json()["resources"]:
        path = "/dicom-web" + one["path"].format_map(Defaults(values))
        is_known = set(re.findall(r"\{(\w+)\}", one["path"])) <= values.keys()
        if "GET" in one["methods"] and is_known:
            assert node.client.get(path).status_code in (200, 204), path
        refused = node.client.request("TRACE", path)
        assert refused.status_code == 405
        assert set(refused.headers["allow"].split(", ")) >= set(one["methods"])


class Defaults(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return name


def test_capabilities_are_had_in_wadl_as_well(node: Served) -> None:
    answer = node.client.get("/dicom-web/conformance", headers={"Accept": WADL})
    assert answer.headers["content-type"] == WADL
    root = ElementTree.fromstring(answer.content)  # noqa: S314 - what is parsed here is our own
    resources = root.findall(f"{{{WADL_NAMESPACE}}}resources/{{{WADL_NAMESPACE}}}resource")
    assert "/studies/{study}/metadata" in {one.get("path") for one in resources}
    refused = node.client.get("/dicom-web/conformance", headers={"Accept": "text/html"})
    assert refused.status_code == 406


def test_capabilities_of_an_unknown_project_are_missing(node: Served) -> None:
    assert node.client.request("OPTIONS", "/research/other/dicom-web/").status_code == 404


# where the service stands


def request(client: str = "10.0.0.7", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request(
        {
            "type": "http",
            "scheme": "http",
            "server": ("127.0.0.1", 8080),
            "client": (client, 1),
            "path": "/",
            "query_string": b"",
            "headers": raw,
        }
    )


PROXY = networks("10.0.0.0/8, ::1")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "pacs:80"}, Origin("http://pacs:80")),
        ({"host": "a b"}, Origin("http://127.0.0.1:8080")),
        ({}, Origin("http://127.0.0.1:8080")),
        (
            {"host": "inner", "forwarded": 'for=1.2.3.4;proto=https;host="pacs.example:8443"'},
            Origin("https://pacs.example:8443"),
        ),
        (
            {"host": "inner", "x_forwarded_proto": "https", "x_forwarded_host": "pacs.example"},
            Origin("https://pacs.example"),
        ),
        # The nearest proxy is the one that is trusted.
        (
            {"host": "inner", "x_forwarded_host": "evil, pacs.example"},
            Origin("http://pacs.example"),
        ),
        ({"host": "pacs", "x_forwarded_prefix": "/imaging/"}, Origin("http://pacs", "/imaging")),
        ({"host": "pacs", "x_forwarded_prefix": "//evil"}, Origin("http://pacs")),
        ({"host": "pacs", "x_forwarded_prefix": "/a?b"}, Origin("http://pacs")),
        ({"host": "pacs", "x_forwarded_proto": "javascript"}, Origin("http://pacs")),
        ({"host": "pacs", "forwarded": 'host="evil/path"'}, Origin("http://pacs")),
    ],
)
def test_a_trusted_proxy_says_where_the_client_sent_its_request(
    headers: dict[str, str], expected: Origin
) -> None:
    assert origin_of(request(**headers), PROXY) == expected


@pytest.mark.parametrize("client", ["192.0.2.1", "11.0.0.1", "testclient"])
def test_nobody_else_is_believed(client: str) -> None:
    said = request(client, host="pacs", forwarded="host=evil", x_forwarded_prefix="/evil")
    assert origin_of(said, PROXY) == Origin("http://pacs")
    assert origin_of(said, ()) == Origin("http://pacs")


def test_a_network_is_spelt_as_one() -> None:
    assert networks("") == ()
    with pytest.raises(BadQuery):
        networks("10.0.0.1/8")


def test_addresses_in_answers_follow_the_proxy(node: Served) -> None:
    headers = {"X-Forwarded-Host": "pacs.example", "X-Forwarded-Prefix": "/imaging"}
    assert "pacs.example" not in node.client.get("/dicom-web/studies", headers=headers).text
    with_proxy = replace(node.parts, trusted_proxies=networks("127.0.0.1"))

    async def ask(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(create_app(with_proxy), client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://inner") as client:
            return await client.get(path, headers=headers)

    (study,) = asyncio.run(ask("/dicom-web/studies")).json()
    assert study["00081190"]["Value"] == [f"http://pacs.example/imaging/dicom-web/studies/{STUDY}"]
    (told,) = asyncio.run(ask(OF_INSTANCE + "/metadata")).json()
    assert told["7FE00010"]["BulkDataURI"] == f"/imaging{OF_INSTANCE}/bulkdata/7FE00010"


# whatever is asked

PATHS = ("", "/metadata", "/frames/1", "/bulkdata/7FE00010")
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80).map(str.strip)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=st.sampled_from(PATHS), accept=TEXT, byte_range=TEXT, encoding=TEXT)
def test_no_header_brings_the_service_down(
    node: Served, path: str, accept: str, byte_range: str, encoding: str
) -> None:
    headers = {"Accept": accept, "Range": f"bytes={byte_range}", "Accept-Encoding": encoding}
    answer = node.client.get(OF_INSTANCE + path, headers=headers)
    assert answer.status_code in (200, 206, 304, 406, 416)
    if answer.status_code == 406:
        assert "available are" in answer.json()["detail"]
