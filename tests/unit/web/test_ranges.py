"""Byte ranges: what RFC 9110 14 says of them, and what a hostile header may cost."""

from __future__ import annotations

from collections.abc import Iterator
from email import message_from_bytes

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import EncapsulatedPDFStorage
from starlette.exceptions import HTTPException

from tests import make
from tests.unit.web.node import TESTER, Served, serving
from web.dicomweb.ranges import RANGES_MAX, ranges_of

SIZE = 1000


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-9", [(0, 10)]),
        ("bytes=990-", [(990, 1000)]),
        ("bytes=-10", [(990, 1000)]),
        ("bytes=-5000", [(0, 1000)]),
        ("bytes=990-5000", [(990, 1000)]),
        ("BYTES = 0-0 , 5-6", [(0, 1), (5, 7)]),
        ("bytes=0-9,5000-6000", [(0, 10)]),
        # What is no range is ignored, all of it (14.2).
        ("", []),
        ("lines=1-2", []),
        ("bytes=", []),
        ("bytes=-", []),
        ("bytes=9-0", []),
        ("bytes=0-9,x", []),
        ("bytes=１-２", []),
        (f"bytes=0-{'9' * 19}", []),
        # Nobody needs more than the body in pieces.
        ("bytes=0-,0-", []),
        ("bytes=" + ",".join(["0-0"] * (RANGES_MAX + 1)), []),
    ],
)
def test_a_range_header_is_understood_or_ignored(
    header: str, expected: list[tuple[int, int]]
) -> None:
    assert ranges_of(header, SIZE) == expected


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=1000-2000,5000-", "bytes=-0"])
def test_ranges_beyond_the_end_cannot_be_had(header: str) -> None:
    with pytest.raises(HTTPException) as raised:
        ranges_of(header, SIZE)
    assert raised.value.status_code == 416
    assert raised.value.headers == {"Content-Range": f"bytes */{SIZE}"}


@given(st.text("bytes=0123456789-, ", max_size=40), st.integers(0, 2000))
def test_no_header_gives_more_than_the_body(header: str, size: int) -> None:
    try:
        found = ranges_of("bytes=" + header, size)
    except HTTPException:
        return
    assert all(0 <= start < stop <= size for start, stop in found)
    assert sum(stop - start for start, stop in found) <= size


FRAMES = [b"one1", b"two two2", b"three three3"]
J2K = "1.2.840.10008.1.2.4.90"


def _documents() -> Iterator[tuple[Dataset, str]]:
    yield make.data_set(study_instance_uid=make.uid("native"), pixels=np.arange(600, dtype="<i2").reshape(2, 15, 20)), make.EXPLICIT  # fmt: skip
    deflated = make.data_set(study_instance_uid=make.uid("deflated"))
    yield deflated, make.DEFLATED
    yield make.data_set(study_instance_uid=make.uid("big")), make.BIG_ENDIAN
    compressed = make.data_set(study_instance_uid=make.uid("compressed"))
    yield make.encapsulated(compressed, FRAMES), J2K
    document = make.data_set(study_instance_uid=make.uid("document"))
    document.SOPClassUID = EncapsulatedPDFStorage
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocument = b"%PDF-1.7" + bytes(range(250)) * 8
    item = Dataset()
    item.RedPaletteColorLookupTableData = bytes(range(256)) * 8
    document.IconImageSequence = DicomSequence([item])
    yield document, make.EXPLICIT


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as served:
        for made, syntax in _documents():
            served.archive.store(TESTER, make.incoming(made, syntax))
        yield served


def path_of(name: str, suffix: str) -> str:
    study = make.uid(name)
    series = make.uid(study, "series")
    instance = make.uid(series, 1)
    return f"/dicom-web/studies/{study}/series/{series}/instances/{instance}{suffix}"


SINGLE = [
    ("native", "", "application/dicom; transfer-syntax=*"),
    ("compressed", "", "application/dicom; transfer-syntax=*"),
    ("deflated", "", "application/dicom"),
    ("native", "/bulkdata/7FE00010", "*/*"),
    ("deflated", "/bulkdata/7FE00010", "*/*"),
    ("big", "/bulkdata/7FE00010", "*/*"),
    ("compressed", "/bulkdata/7FE00010", "*/*"),
    ("document", "/bulkdata/00420011", "*/*"),
    ("document", "/bulkdata/00880200/1/00281201", "*/*"),
    ("native", "/frames/2", "application/octet-stream"),
]


def get(node: Served, path: str, **headers: str) -> httpx.Response:
    return node.client.get(path, headers={name.replace("_", "-"): v for name, v in headers.items()})


@pytest.mark.parametrize(("name", "suffix", "accept"), SINGLE)
def test_every_single_part_body_can_be_had_in_ranges(
    node: Served, name: str, suffix: str, accept: str
) -> None:
    path = path_of(name, suffix)
    whole = get(node, path, accept=accept)
    content, etag = whole.content, whole.headers["etag"]
    assert whole.headers["accept-ranges"] == "bytes"
    assert int(whole.headers["content-length"]) == len(content)
    for first, last in ((0, 0), (3, 17), (5, 11), (len(content) - 2, len(content) - 1)):
        part = get(node, path, accept=accept, range=f"bytes={first}-{last}")
        assert (part.status_code, part.content) == (206, content[first : last + 1])
        assert part.headers["content-range"] == f"bytes {first}-{last}/{len(content)}"
        assert part.headers["content-type"] == whole.headers["content-type"]
        assert part.headers["etag"] == etag
    assert get(node, path, accept=accept, range="bytes=-4").content == content[-4:]
    beyond = get(node, path, accept=accept, range=f"bytes={len(content)}-")
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(content)}"


def test_several_ranges_come_as_parts(node: Served) -> None:
    path = path_of("compressed", "/bulkdata/7FE00010")
    whole = b"".join(FRAMES)
    assert get(node, path).content == whole
    answer = get(node, path, range="bytes=0-3,6-13,-2")
    assert answer.status_code == 206
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    parts = list(message_from_bytes(head + answer.content).walk())[1:]
    assert [part.get_payload(decode=True) for part in parts] == [whole[:4], whole[6:14], whole[-2:]]
    assert parts[1]["Content-Range"] == f"bytes 6-13/{len(whole)}"


def test_ten_thousand_ranges_are_one_body(node: Served) -> None:
    path = path_of("native", "/bulkdata/7FE00010")
    ranges = "bytes=" + ",".join(["7-7"] * 10_000)
    answer = get(node, path, range=ranges)
    assert (answer.status_code, len(answer.content)) == (200, 1200)


def test_a_range_of_what_is_no_longer_there_is_the_whole(node: Served) -> None:
    path = path_of("native", "/bulkdata/7FE00010")
    etag = get(node, path).headers["etag"]
    asked = {"range": "bytes=0-9", "if_range": etag}
    assert get(node, path, **asked).status_code == 206
    for other in ('"another"', f"W/{etag}", "Thu, 29 Feb 2024 10:15:30 GMT"):
        assert get(node, path, **(asked | {"if_range": other})).status_code == 200


def test_a_head_request_tells_the_size_of_the_whole(node: Served) -> None:
    path = path_of("native", "/bulkdata/7FE00010")
    head = node.client.head(path, headers={"Range": "bytes=0-9"})
    assert (head.status_code, head.headers["content-length"]) == (200, "1200")


def test_a_multipart_body_has_no_ranges(node: Served) -> None:
    path = path_of("native", "/bulkdata/7FE00010")
    accept = "multipart/related; type=application/octet-stream"
    assert get(node, path, accept=accept, range="bytes=0-9").status_code == 200


@pytest.mark.parametrize(
    "suffix",
    [
        "/bulkdata/00880200/2/00281201",
        "/bulkdata/00880200/1/00281202",
        "/bulkdata/00100010/1/00281201",
        "/bulkdata/00420013",
    ],
)
def test_bulk_data_that_are_not_there_are_missing(node: Served, suffix: str) -> None:
    assert get(node, path_of("document", suffix)).status_code == 404


@pytest.mark.parametrize("frames", ["1,1", "0", "1-2", "1,", "1,,2", "-1", "x", "1" * 10])
def test_a_frame_list_that_is_none_is_refused(node: Served, frames: str) -> None:
    assert get(node, path_of("native", f"/frames/{frames}")).status_code == 400
