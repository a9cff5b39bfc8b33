"""STOW-RS: every part gets its own verdict, and success is only said of what is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection
from urllib.parse import urlsplit

import httpx
import pytest

from pacs.archive import Scope
from pacs.errors import Exhausted, Missing, NodeError, Unreachable
from tests import make
from tests.unit.web.node import TESTER, Served, serving
from web.dicomweb import multipart
from web.limits import Limits

DICOM = {"Content-Type": "application/dicom"}
MULTIPART = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
LIMITS = Limits(parts_max=50, part_bytes_max=200_000, memory_bytes_max=1000)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node"), limits=LIMITS) as served:
        yield served


def message(*bodies: bytes, content_type: str = "application/dicom") -> bytes:
    headers = {"Content-Type": content_type}
    return b"".join(multipart.written("b", [(headers, [body]) for body in bodies]))


def post(node: Served, *bodies: bytes, study: str = "") -> httpx.Response:
    path = f"/dicom-web/studies/{study}".rstrip("/")
    return node.client.post(path, content=message(*bodies), headers=MULTIPART)


def reasons(answer: httpx.Response) -> list[int]:
    """The failure reasons of an answer, those of unreadable parts last."""
    return [
        item["00081197"]["Value"][0]
        for sequence in ("00081198", "0008119A")
        for item in answer.json().get(sequence, {}).get("Value", [])
    ]


def stored(answer: httpx.Response) -> list[str]:
    items = answer.json().get("00081199", {}).get("Value", [])
    return [item["00081155"]["Value"][0] for item in items]


def file_of(*names: object, **attributes: object) -> bytes:
    """A Part 10 file of a study that goes by these names."""
    made = make.data_set(study_instance_uid=make.uid(*names), **attributes)  # type: ignore[arg-type]
    return make.part10_bytes(made)


def test_a_multipart_body_is_stored_and_referenced(node: Served) -> None:
    data_sets = make.study(3, study_instance_uid=make.uid("plain"))
    answer = post(node, *map(make.part10_bytes, data_sets))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert stored(answer) == [made.SOPInstanceUID for made in data_sets]
    assert set(answer.json()) == {"00081190", "00081199"}
    url = answer.json()["00081190"]["Value"][0]
    assert url == f"{node.dicom_web}/studies/{make.uid('plain')}"
    retrieved = answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
    assert httpx.get(retrieved, headers={"Accept": "application/dicom"}).status_code == 200


def test_a_bare_body_is_stored(node: Served) -> None:
    answer = node.client.post("/dicom-web/studies", content=file_of("bare"), headers=DICOM)
    assert (answer.status_code, len(stored(answer))) == (200, 1)


def test_the_same_bytes_again_are_plain_success(node: Served) -> None:
    assert post(node, file_of("twice")).status_code == 200
    assert post(node, file_of("twice")).status_code == 200


def test_other_bytes_under_a_known_uid_are_kept_with_a_warning(node: Served) -> None:
    post(node, file_of("other"))
    answer = post(node, file_of("other", StudyDescription="changed"))
    assert answer.status_code == 202
    assert answer.json()["00081199"]["Value"][0]["00081196"]["Value"] == [0xB007]
    assert answer.headers["warning"].startswith("299 127.0.0.1:")


def test_good_parts_are_stored_beside_bad_ones(node: Served) -> None:
    answer = post(node, b"no DICOM", file_of("mixed"), file_of("mixed 2")[:-100])
    assert answer.status_code == 202
    assert len(stored(answer)) == 1
    assert reasons(answer) == [0xC000, 0xC000]
    assert len(answer.json()["0008119A"]["Value"]) == 1
    assert "299" in answer.headers["warning"]


def test_nothing_stored_is_a_conflict_with_its_reasons(node: Served) -> None:
    answer = post(node, b"", b"no DICOM")
    assert (answer.status_code, reasons(answer)) == (409, [0xC000, 0xC000])
    assert "00081199" not in answer.json()


def test_an_instance_of_another_study_than_the_path_is_refused(node: Served) -> None:
    answer = post(node, file_of("elsewhere"), study=make.uid("here"))
    assert (answer.status_code, reasons(answer)) == (409, [0xA901])
    with pytest.raises(Missing):
        node.archive.retrieve(TESTER, Scope(make.uid("elsewhere")))
    assert post(node, file_of("here"), study=make.uid("here")).status_code == 200


@pytest.mark.parametrize(
    "spoiled", [{"SOPInstanceUID": "not a uid"}, {"StudyInstanceUID": ""}, {"SOPClassUID": "1.2.3"}]
)
def test_missing_and_differing_uids_are_refused(node: Served, spoiled: dict[str, str]) -> None:
    made = make.data_set(study_instance_uid=make.uid("spoiled"))
    head = make.part10_bytes(made)[: -len(make.data_set_bytes(made))]
    for keyword, value in spoiled.items():
        setattr(made, keyword, value)
    answer = post(node, head + make.data_set_bytes(made))
    assert (answer.status_code, reasons(answer)) == (409, [0xA900])


def test_a_part_over_its_limit_fails_alone(node: Served) -> None:
    answer = post(node, b"x" * 200_001, file_of("beside the long one"))
    assert (answer.status_code, reasons(answer)) == (202, [0xA700])


def test_a_part_of_another_media_type_fails_alone(node: Served) -> None:
    body = message(b"{}", content_type="application/dicom+json")
    answer = node.client.post("/dicom-web/studies", content=body, headers=MULTIPART)
    assert (answer.status_code, reasons(answer)) == (409, [0xC122])


def test_a_part_with_a_transfer_syntax_or_without_any_type_is_taken(node: Served) -> None:
    parts = [
        ({"Content-Type": "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"}, [file_of("t")]),
        ({}, [file_of("u")]),
    ]  # fmt: skip
    body = b"".join(multipart.written("b", parts))
    answer = node.client.post("/dicom-web/studies", content=body, headers=MULTIPART)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/related; boundary=b",
        "multipart/related; type=application/dicom; boundary=b",
        'Multipart/Related; Type="Application/DICOM"; Boundary="b"',
    ],
)
def test_type_and_boundary_may_be_quoted_bare_or_absent(node: Served, content_type: str) -> None:
    answer = node.client.post(
        "/dicom-web/studies",
        content=message(file_of("forms")),
        headers={"Content-Type": content_type},
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (400, MULTIPART, b"no boundary"),
        (400, MULTIPART, b""),
        (400, MULTIPART, b"--b--"),
        (400, MULTIPART, b"--b\r\nContent-Type: x/y\r\n\r\nabc"),
        (400, MULTIPART, b"--b\r\nX: " + b"y" * 20_000 + b"\r\n\r\n\r\n--b--"),
        (400, {"Content-Type": "multipart/related; type=application/dicom"}, b"--b--"),
        (400, DICOM, b""),
        (413, MULTIPART, b"--b\r\n\r\n\r\n" * 51 + b"--b--"),
        (413, DICOM, b"x" * 200_001),
        (415, {}, b"abc"),
        (415, {"Content-Type": "nonsense"}, b"abc"),
        (415, {"Content-Type": "application/json"}, b"{}"),
        (415, {"Content-Type": "multipart/form-data; boundary=b"}, b"--b--"),
        (415, {"Content-Type": "multipart/related; type=text/plain; boundary=b"}, b"x"),
        (400, {"Content-Type": "multipart/related; type=application/dicom+xml; boundary=b"}, b"x"),
        (415, DICOM | {"Content-Encoding": "gzip"}, b"abc"),
        (406, DICOM | {"Accept": "text/html"}, b"abc"),
    ],
)
def test_a_body_that_cannot_be_taken_gets_a_problem_document(
    node: Served, status: int, headers: dict[str, str], body: bytes
) -> None:
    answer = node.client.post("/dicom-web/studies", content=body, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_body_of_nothing_at_all_is_given_up_and_what_was_stored_stays(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    limits = Limits(unreadable_parts_max=10)
    with serving(tmp_path_factory.mktemp("node"), limits=limits) as node:
        assert post(node, *[b"x"] * 10).status_code == 409
        answer = post(node, *[b"x"] * 11)
        assert (answer.status_code, answer.headers["connection"]) == (400, "close")
        assert post(node, file_of("first"), *[b"x"] * 20).status_code == 202


def test_a_body_that_pauses_too_long_is_given_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    limits = Limits(chunk_wait_s_max=0.1)
    with serving(tmp_path_factory.mktemp("node"), limits=limits) as node:
        address = urlsplit(node.url)
        with create_connection((str(address.hostname), address.port or 0)) as connection:
            connection.sendall(
                b"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
                b"Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\n\r\nabc"
            )
            connection.settimeout(10)
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert list(node.parts.spool.iterdir()) == []


def test_a_class_that_is_no_storage_class_is_refused(node: Served) -> None:
    verification = "1.2.840.10008.1.1"
    answer = post(node, file_of("no storage", SOPClassUID=verification))
    assert (answer.status_code, reasons(answer)) == (409, [0x0122])
    assert post(node, file_of("private", SOPClassUID="1.2.3.4")).status_code == 200


@pytest.mark.parametrize(
    ("error", "status"), [(Exhausted("full"), 507), (Unreachable("not there"), 503)]
)
def test_a_store_that_takes_nothing_is_said_before_the_body_is_read(
    node: Served, monkeypatch: pytest.MonkeyPatch, error: NodeError, status: int
) -> None:
    def check() -> None:
        raise error

    monkeypatch.setattr(node.archive.objects, "check", check)
    answer = post(node, file_of("in vain"))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("study", ["a.b", "1.2%0d%0aX:3", "1.2 ", "1" * 65, "١.٢"])
def test_a_study_uid_that_is_none_is_refused(node: Served, study: str) -> None:
    assert post(node, file_of("x"), study=study).status_code == 400


def test_a_part_that_a_break_interrupts_leaves_nothing_and_whole_parts_stay(node: Served) -> None:
    whole, open_part = file_of("whole"), file_of("interrupted")
    body = message(whole, open_part)[:-100]
    address = urlsplit(node.url)
    with create_connection((str(address.hostname), address.port or 0)) as connection:
        connection.sendall(
            b"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
            b"Content-Type: multipart/related; boundary=b\r\n\r\n" + body
        )
        _wait_for(node, Scope(make.uid("whole")))
    with pytest.raises(Missing):
        node.archive.retrieve(TESTER, Scope(make.uid("interrupted")))
    assert list(node.parts.spool.iterdir()) == []


def _wait_for(node: Served, scope: Scope) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            assert node.archive.retrieve(TESTER, scope)
        except Missing:
            time.sleep(0.02)
        else:
            return
    pytest.fail("the whole part was not stored")


def test_a_project_keeps_its_own(node: Served) -> None:
    path = "/research/demo/dicom-web/studies"
    answer = node.client.post(path, content=file_of("research"), headers=DICOM)
    assert answer.status_code == 200
    url = answer.json()["00081190"]["Value"][0]
    assert url == f"{node.url}{path}/{make.uid('research')}"
    assert node.client.get(f"/dicom-web/studies/{make.uid('research')}").status_code == 404
    assert node.client.get(f"{path}/{make.uid('research')}").status_code == 200
    assert node.client.get("/research/other/dicom-web/studies").status_code == 404


def test_an_index_that_is_down_from_the_start_is_unavailable(tmp_path: Path) -> None:
    with serving(tmp_path) as node:
        node.parts.identified.index.engine.dispose()
        for path in tmp_path.glob("index.db*"):
            path.unlink()
        (tmp_path / "index.db").mkdir()
        answer = post(node, file_of("down"))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
