"""DICOMweb over a real socket, to clients that are not ours, with files that are not ours."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import numpy as np
import pydicom.data
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

import sample_dicom
from pacs.archive import Scope
from pacs.dicom.part10 import read_part10
from tests import make
from tests.unit.web.node import TESTER, Served, serving
from web.dicomweb import multipart
from web.limits import Limits

SAMPLES: Final = Path(sample_dicom.__file__).parent
PYDICOM: Final = Path(pydicom.data.__file__).parent / "test_files"
AS_STORED: Final = {"Accept": "application/dicom; transfer-syntax=*"}
DICOM: Final = {"Content-Type": "application/dicom"}

# What no archive can keep, and why: the Failure Reason (0008,1197).
NOT_DICOM, NO_UIDS = 0xC000, 0xA900
REFUSED: Final = {
    # truncated, bombs, or without a Part 10 header
    **dict.fromkeys(["deflate_bomb.dcm", "nested_300.dcm", "not_dicom.dcm"], NOT_DICOM),
    **dict.fromkeys(["truncated.dcm", "MR_truncated.dcm", "rtplan_truncated.dcm"], NOT_DICOM),
    **dict.fromkeys(["rtstruct.dcm", "no_meta.dcm", "meta_missing_tsyntax.dcm"], NOT_DICOM),
    **dict.fromkeys(["ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm"], NOT_DICOM),
    # without the UIDs that name an instance, or with something else in their place
    **dict.fromkeys(["uid_65.dcm", "uid_path.dcm", "empty_charset_LEI.dcm"], NO_UIDS),
    **dict.fromkeys(["nested_priv_SQ.dcm", "priv_SQ.dcm", "UN_sequence.dcm"], NO_UIDS),
    **dict.fromkeys(["no_meta_group_length.dcm", "DICOMDIR-empty.dcm"], NO_UIDS),
    **dict.fromkeys(["JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm"], NO_UIDS),
    **dict.fromkeys(["SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm"], NO_UIDS),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as served:
        yield served


@pytest.fixture
def client(node: Served) -> DICOMwebClient:
    return DICOMwebClient(node.dicom_web)


DOUBTED = {"bad_vr_value.dcm", "badVR.dcm"}  # a number of theirs is none


def _files() -> list[Path]:
    return sorted([*SAMPLES.rglob("*.dcm"), *PYDICOM.rglob("*.dcm")])


def test_every_file_comes_back_the_same_or_is_refused_with_its_reason(node: Served) -> None:
    kept = drawn = 0
    for path in _files():
        content = path.read_bytes()
        answer = node.client.post("/dicom-web/studies", content=content, headers=DICOM)
        if path.name in REFUSED:
            assert answer.status_code == 409, path.name
            assert _failure_reason(answer) == REFUSED[path.name], path.name
            continue
        assert answer.status_code == (202 if path.name in DOUBTED else 200), path.name
        url = answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
        _check_same(node, url, content, path.name)
        drawn += _is_drawn(node, url, path.name)
        # Some of these files share a UID; each is to meet an archive that does not know it.
        node.archive.delete(TESTER, Scope(url.split("/")[5]))
        kept += 1
    assert kept > 150
    assert drawn > 100


def _is_drawn(node: Served, url: str, name: str) -> bool:
    """Whether there is a picture of an instance; if not, a problem says why."""
    answer = node.client.get(f"{url}/rendered?viewport=64,64", headers={"Accept": "image/jpeg"})
    assert answer.status_code in (200, 404, 406, 422), name
    is_jpeg = answer.content.startswith(b"\xff\xd8\xff")
    assert is_jpeg or answer.headers["content-type"] == "application/problem+json", name
    return is_jpeg


def _failure_reason(answer: httpx.Response) -> int:
    found = answer.json()
    (item,) = (found.get("00081198") or found["0008119A"])["Value"]
    return int(item["00081197"]["Value"][0])


def _check_same(node: Served, url: str, sent: bytes, name: str) -> None:
    returned = node.client.get(url, headers=AS_STORED)
    assert returned.status_code == 200, name
    part10 = read_part10(sent)
    assert read_part10(returned.content).data_set == part10.data_set, name
    assert returned.headers["content-type"].endswith(f"={part10.transfer_syntax_uid}"), name
    assert node.client.get(f"{url}/metadata").status_code == 200, name


def test_a_study_travels_through_dicomweb_client(client: DICOMwebClient) -> None:
    study = make.uid("client")
    sent = make.study(3, series=2, study_instance_uid=study)
    for made in sent:
        made.preamble = bytes(128)
        made.ensure_file_meta()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    answer = client.store_instances(sent, study_instance_uid=study)
    assert len(answer.ReferencedSOPSequence) == 6
    assert "FailedSOPSequence" not in answer

    assert len(client.search_for_studies(search_filters={"StudyInstanceUID": study})) == 1
    assert len(client.search_for_series(study)) == 2
    assert len(client.search_for_instances(study, limit=2, get_remaining=True)) == 6

    assert len(client.retrieve_study_metadata(study)) == 6
    assert len(client.retrieve_series_metadata(study, sent[0].SeriesInstanceUID)) == 3
    assert client.retrieve_study(study) == sent
    assert list(client.iter_series(study, sent[0].SeriesInstanceUID)) == sent[:3]
    one = (study, sent[1].SeriesInstanceUID, sent[1].SOPInstanceUID)
    assert client.retrieve_instance(*one) == sent[1]
    assert client.retrieve_instance_metadata(*one)["00280010"]["Value"] == [16]
    assert client.retrieve_instance_frames(*one, [1]) == [sent[1].PixelData]
    jpeg = client.retrieve_instance_rendered(*one, media_types=("image/jpeg",))
    assert jpeg.startswith(b"\xff\xd8\xff")
    png = client.retrieve_instance_frames_rendered(*one, [1], media_types=("image/png",))
    assert png.startswith(b"\x89PNG")
    native = client.retrieve_instance_frames(*one, [1], media_types=("application/octet-stream",))
    assert native == [sent[1].PixelData]


def test_bulk_data_are_read_by_the_uri_of_the_metadata(
    node: Served, client: DICOMwebClient
) -> None:
    made = make.data_set(study_instance_uid=make.uid("bulk"), pixels=np.ones((64, 64), np.uint16))
    node.archive.store(TESTER, make.incoming(made))
    series = client.retrieve_series_metadata(made.StudyInstanceUID, made.SeriesInstanceUID)
    uri = series[0]["7FE00010"]["BulkDataURI"]
    base = (
        f"{node.dicom_web}/studies/{made.StudyInstanceUID}/series/{made.SeriesInstanceUID}/metadata"
    )
    assert client.retrieve_bulkdata(str(httpx.URL(base).join(uri))) == [made.PixelData]


@pytest.mark.parametrize(
    "syntax", ["rle", "jpeg_ls", "jpeg_lossless", "jpeg_2000", "deflated", "big_endian"]
)
def test_a_client_that_names_no_syntax_gets_pixels_it_can_read(
    node: Served, client: DICOMwebClient, syntax: str
) -> None:
    path = min((SAMPLES / "compressed" / syntax).glob("*.dcm"))
    sent = dcmread(path)
    node.client.post("/dicom-web/studies", content=path.read_bytes(), headers=DICOM)
    one = (sent.StudyInstanceUID, sent.SeriesInstanceUID, sent.SOPInstanceUID)
    received = client.retrieve_instance(*one, media_types=("application/dicom",))
    assert received.file_meta.TransferSyntaxUID == make.EXPLICIT
    assert np.array_equal(received.pixel_array, sent.pixel_array)
    (frame,) = client.retrieve_instance_frames(*one, [1], media_types=("application/octet-stream",))
    assert frame == received.PixelData[: len(frame)]
    assert len(frame) >= sent.pixel_array.nbytes


def test_many_senders_of_one_study_are_all_answered(node: Served) -> None:
    study = make.uid("crowd")
    data_sets = make.study(16, study_instance_uid=study)
    answers: list[int] = []

    def send(content: bytes) -> None:
        answers.append(
            httpx.post(f"{node.dicom_web}/studies", content=content, headers=DICOM).status_code
        )

    threads = [threading.Thread(target=send, args=(make.part10_bytes(one),)) for one in data_sets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 16
    rows = node.client.get(f"/dicom-web/studies?StudyInstanceUID={study}").json()
    assert [row["00201208"]["Value"] for row in rows] == [[16]]


def test_a_body_in_chunks_of_unknown_length_is_taken(node: Served) -> None:
    body = b"".join(
        multipart.written(
            "b",
            [
                ({}, [make.part10_bytes(one)])
                for one in make.study(2, study_instance_uid=make.uid("c"))
            ],
        )
    )
    answer = node.client.post(
        "/dicom-web/studies",
        content=(body[at : at + 7] for at in range(0, len(body), 7)),
        headers={"Content-Type": "multipart/related; boundary=b"},
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nAccept: " + b"a/b," * 3000 + b"\r\n\r\n",
        b"GET /dicom-web/studies?" + b"a=b&" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /dicom-web/studies/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /dicom-web/studies?PatientName=%ff%fe%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nAccept: \xff\xfe\r\n\r\n",
        b"GET /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: \"\r\nRange: bytes=0-\r\n\r\n",
        b"TRACE /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
        b"Content-Type: multipart/related; boundary=\"a\\\"\r\n\r\nabc",
    ],
)  # fmt: skip
def test_an_odd_request_gets_an_answer_that_is_no_crash(node: Served, request_bytes: bytes) -> None:
    address = urlsplit(node.url)
    with socket.create_connection((str(address.hostname), address.port or 0), 10) as connection:
        connection.sendall(request_bytes)
        status = int(connection.recv(64).split(b" ")[1])
    assert status < 500
    assert node.client.get("/dicom-web/studies?limit=1").status_code in (200, 204)


def test_a_long_instance_is_stored_and_returned_in_pieces(node: Served) -> None:
    made = make.data_set(
        study_instance_uid=make.uid("long"),
        pixels=np.arange(20 << 20, dtype=np.uint16).reshape(5, 2048, 2048),
    )
    content = make.part10_bytes(made)
    assert len(content) > Limits().memory_bytes_max
    body = multipart.written("b", [({"Content-Type": "application/dicom"}, [content])])
    answer = node.client.post(
        "/dicom-web/studies",
        content=body,
        headers={"Content-Type": "multipart/related; boundary=b"},
    )
    assert answer.status_code == 200
    url = answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
    with node.client.stream("GET", url, headers=AS_STORED) as stream:
        assert int(stream.headers["content-length"]) > 40 << 20
        received = b"".join(stream.iter_bytes())
    assert dcmread(BytesIO(received)).PixelData == made.PixelData
    assert list(node.parts.spool.iterdir()) == []
