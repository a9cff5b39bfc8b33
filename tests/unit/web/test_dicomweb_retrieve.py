"""WADO-RS: the same bytes back, in the form that was asked for, and never wrong bytes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from starlette.requests import Request
from starlette.types import Message

from pacs.archive import Incoming, Instance, Scope
from pacs.decode import ImagePixel
from pacs.dicom.part10 import read_part10
from pacs.dicom.xml_model import read_xml_model
from pacs.errors import Corrupt
from tests import make
from tests.unit.web.node import TESTER, Served, serving
from web.dicomweb import answers, multipart
from web.dicomweb.answers import withheld
from web.dicomweb.media_types import media_type
from web.limits import Limits

AS_STORED = "application/dicom; transfer-syntax=*"
PARTS = 'multipart/related; type="application/dicom"'
FRAMES = 'multipart/related; type="application/octet-stream"'
JPEG_2000, RLE = str(JPEG2000Lossless), str(RLELossless)
HTJ2K, JPEG_LS = "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.80"
VIDEO = "1.2.840.10008.1.2.4.102"

GREY = (np.arange(3 * 64 * 64) % 251).astype(np.uint8).reshape(3, 64, 64)
COLOURS = np.arange(1000) % 251


def compressed(transfer_syntax_uid: str) -> Incoming:
    """Three 64 × 64 frames, losslessly compressed."""
    made = make.data_set(study_instance_uid=make.uid(transfer_syntax_uid), pixels=GREY)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.compress(transfer_syntax_uid, generate_instance_uid=False)
    return make.incoming(made, transfer_syntax_uid)


def video() -> Incoming:
    made = make.data_set(study_instance_uid=make.uid(VIDEO), pixels=GREY)
    return make.incoming(make.encapsulated(made, [b"film"]), VIDEO)


def in_all_native_forms() -> Iterator[Incoming]:
    """One slice in each native transfer syntax, with a colour table that is bulk data."""
    for transfer_syntax_uid in (make.IMPLICIT, make.BIG_ENDIAN, make.DEFLATED, make.EXPLICIT):
        made = make.data_set(study_instance_uid=make.uid(transfer_syntax_uid))
        # pydicom writes words as they are given, whatever the byte order.
        order = ">u2" if transfer_syntax_uid == make.BIG_ENDIAN else "<u2"
        made.RedPaletteColorLookupTableData = COLOURS.astype(order).tobytes()
        yield make.incoming(made, transfer_syntax_uid)


def document() -> Incoming:
    made = make.data_set(study_instance_uid=make.uid("document"))
    made.SOPClassUID = EncapsulatedPDFStorage
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    made.EncapsulatedDocument = b"%PDF-1.7" + bytes(2000)
    item = Dataset()
    item.RedPaletteColorLookupTableData = b"inside" * 300
    made.IconImageSequence = DicomSequence([item])
    return make.incoming(made)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as served:
        series = make.study(2, series=2, study_instance_uid=make.uid("series"))
        large = make.data_set(
            study_instance_uid=make.uid("large"), pixels=np.zeros((1200, 1200), np.uint16)
        )
        incoming = [
            *map(make.incoming, [*series, large]),
            *(compressed(syntax) for syntax in (RLE, JPEG_2000)),
            *in_all_native_forms(),
            document(),
            video(),
        ]
        for one in incoming:
            served.archive.store(TESTER, one)
        yield served


def instance_of(node: Served, *names: object) -> Instance:
    return node.archive.retrieve(TESTER, Scope(make.uid(*names)))[0]


def path_of(instance: Instance) -> str:
    return (
        f"/dicom-web/studies/{instance.study_instance_uid}/series/{instance.series_instance_uid}"
        f"/instances/{instance.sop_instance_uid}"
    )


def get(node: Served, path: str, accept: str = "*/*", **headers: str) -> httpx.Response:
    return node.client.get(path, headers={"Accept": accept, **headers})


def parts_of(answer: httpx.Response) -> list[tuple[str, bytes]]:
    """Content-Type and body of each part."""
    content_type = media_type(answer.headers["content-type"])
    assert content_type is not None
    assert content_type.name == "multipart/related"

    async def body() -> AsyncIterator[bytes]:
        yield answer.content

    async def read() -> list[tuple[str, bytes]]:
        boundary = content_type.parameters["boundary"]
        found = multipart.read_parts(body(), boundary, Path(), Limits())
        async with aclosing(found) as parts:
            return [(part.headers["content-type"], bytes(part.buffer())) async for part in parts]

    return asyncio.run(read())


def syntax_in(content_type: str) -> str:
    return content_type.partition("transfer-syntax=")[2]


EVERY_FORM = [make.IMPLICIT, make.EXPLICIT, make.BIG_ENDIAN, make.DEFLATED, RLE, JPEG_2000, VIDEO]


@pytest.mark.parametrize("stored", EVERY_FORM)
@pytest.mark.parametrize("accept", [AS_STORED, "*/*", PARTS + "; transfer-syntax=*"])
def test_as_stored_gives_the_same_data_set_back(node: Served, stored: str, accept: str) -> None:
    instance = instance_of(node, stored)
    answer = get(node, path_of(instance), accept)
    if accept == AS_STORED:
        content_type, part10 = answer.headers["content-type"], answer.content
        assert answer.headers["content-length"] == str(len(part10))
        assert answer.headers["content-disposition"].endswith(f'{instance.sop_instance_uid}.dcm"')
    else:
        ((content_type, part10),) = parts_of(answer)
    assert content_type == f"application/dicom; transfer-syntax={stored}"
    assert bytes(read_part10(part10).data_set) == node.archive.data_set(instance)


@pytest.mark.parametrize("stored", EVERY_FORM)
@pytest.mark.parametrize("accept", [PARTS, "multipart/related; type=application/dicom"])
def test_without_a_named_syntax_an_instance_leaves_as_explicit_little_endian_if_it_can(
    node: Served, stored: str, accept: str
) -> None:
    ((content_type, part10),) = parts_of(get(node, path_of(instance_of(node, stored)), accept))
    expected = stored if stored == VIDEO else make.EXPLICIT
    assert content_type == f"application/dicom; transfer-syntax={expected}"
    data_set = dcmread(BytesIO(part10))
    assert data_set.file_meta.TransferSyntaxUID == expected
    if stored in (RLE, JPEG_2000):
        assert np.array_equal(data_set.pixel_array, GREY)


@pytest.mark.parametrize(
    ("stored", "asked", "status"),
    [
        (RLE, RLE, 200),
        (RLE, make.EXPLICIT, 200),
        (RLE, JPEG_2000, 200),
        (make.EXPLICIT, RLE, 200),
        (make.EXPLICIT, make.IMPLICIT, 406),
        (make.IMPLICIT, make.IMPLICIT, 406),
        (make.BIG_ENDIAN, make.BIG_ENDIAN, 406),
        (make.BIG_ENDIAN, make.EXPLICIT, 200),
        (VIDEO, make.EXPLICIT, 406),
        (VIDEO, VIDEO, 200),
        (make.EXPLICIT, "1.2.3", 406),
    ],
)
def test_a_named_transfer_syntax_is_kept_to(
    node: Served, stored: str, asked: str, status: int
) -> None:
    answer = get(
        node, path_of(instance_of(node, stored)), f"application/dicom; transfer-syntax={asked}"
    )
    assert answer.status_code == status
    if status == 200:
        assert syntax_in(answer.headers["content-type"]) == asked
    else:
        assert "application/dicom" in answer.json()["detail"]


def test_what_lies_ready_goes_before_what_must_be_made(node: Served) -> None:
    accept = f"application/dicom, application/dicom; transfer-syntax={RLE}"
    answer = get(node, path_of(instance_of(node, RLE)), accept)
    assert syntax_in(answer.headers["content-type"]) == RLE


def test_a_study_and_a_series_come_whole_and_in_order(node: Served) -> None:
    study = make.uid("series")
    instances = node.archive.retrieve(TESTER, Scope(study))
    parts = parts_of(get(node, f"/dicom-web/studies/{study}"))
    data_sets = [bytes(read_part10(body).data_set) for _, body in parts]
    assert data_sets == [node.archive.data_set(one) for one in instances]
    series = instances[0].series_instance_uid
    assert len(parts_of(get(node, f"/dicom-web/studies/{study}/series/{series}"))) == 2
    only_single = get(node, f"/dicom-web/studies/{study}", "application/dicom")
    assert only_single.status_code == 406


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("studies/1.2.3", 404),
        ("studies/1.2.3/metadata", 404),
        ("studies/1.2.3/series/1/instances/1/frames/1", 404),
        ("studies/1.2.x", 400),
        ("studies/" + "1" * 65, 400),
        ("studies/1.2.3/series/../metadata", 404),
        ("studies/1.2.3%0d%0aX:y/metadata", 400),
        ("studies/%c2%b2", 400),
        ("nothing", 404),
    ],
)
def test_unknown_and_malformed_paths(node: Served, path: str, status: int) -> None:
    answer = get(node, f"/dicom-web/{path}")
    assert (answer.status_code, answer.json()["status"]) == (status, status)


def test_a_project_does_not_know_identified_uids(node: Served) -> None:
    path = path_of(instance_of(node, RLE)).replace("/dicom-web", "/research/demo/dicom-web")
    unknown = get(node, "/research/demo/dicom-web/studies/1.2.3")
    for suffix in ("", "/metadata", "/frames/1", "/bulkdata/7FE00010"):
        answer = get(node, path + suffix)
        assert (answer.status_code, answer.content) == (404, unknown.content)


@pytest.mark.parametrize("suffix", ["", "/metadata", "/frames/1", "/bulkdata/7FE00010"])
def test_what_a_client_has_is_not_sent_again(node: Served, suffix: str) -> None:
    path = path_of(instance_of(node, RLE)) + suffix
    first = get(node, path)
    tag = first.headers["etag"]
    assert get(node, path).content == first.content
    for held in (tag, f'"x", W/{tag}', "*"):
        again = get(node, path, **{"If-None-Match": held})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert get(node, path, **{"If-None-Match": '"x"'}).status_code == 200


def test_another_form_has_another_etag(node: Served) -> None:
    path = path_of(instance_of(node, RLE))
    tags = {get(node, path, a).headers["etag"] for a in ("*/*", AS_STORED, "application/dicom")}
    assert len(tags) == 3


@pytest.mark.parametrize("suffix", ["", "/metadata", "/frames/1", "/bulkdata/7FE00010"])
def test_head_has_no_body(node: Served, suffix: str) -> None:
    path = path_of(instance_of(node, RLE)) + suffix
    head = node.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == node.client.get(path).headers["etag"]


# metadata


def bulk_uris(model: Any) -> Iterator[str]:  # noqa: ANN401 - parsed JSON
    if isinstance(model, dict):
        for key, value in model.items():
            yield from [value] if key == "BulkDataURI" else bulk_uris(value)
    elif isinstance(model, list):
        for value in model:
            yield from bulk_uris(value)


@pytest.mark.parametrize("level", ["study", "series", "instance"])
def test_bulk_data_uris_resolve_at_every_level(node: Served, level: str) -> None:
    instance = instance_of(node, "document")
    study, series, _ = path_of(instance).rsplit("/", 2)[0].rpartition("/series/")
    base = {"study": study, "series": f"{study}/series/{instance.series_instance_uid}"}
    path = base.get(level, path_of(instance)) + "/metadata"
    assert series
    answer = get(node, path, "application/dicom+json")
    uris = list(bulk_uris(answer.json()))
    assert len(uris) == 3
    for uri in uris:
        bulk = node.client.get(httpx.URL(node.url + path).join(uri))
        assert bulk.status_code == 200
        assert bulk.content


def test_xml_metadata_say_what_the_json_says(node: Served) -> None:
    for path in (path_of(instance_of(node, RLE)), f"/dicom-web/studies/{make.uid('series')}"):
        models = get(node, path + "/metadata", "application/dicom+json").json()
        answer = get(node, path + "/metadata", 'multipart/related; type="application/dicom+xml"')
        parts = parts_of(answer)
        assert {content_type for content_type, _ in parts} == {"application/dicom+xml"}
        for (_, document), model in zip(parts, models, strict=True):
            told = read_xml_model(document)
            assert list(told) == list(model)
            assert told["7FE00010"] == model["7FE00010"]
            assert told["00100010"] == model["00100010"]


def test_metadata_are_the_same_plain_and_compressed_and_at_every_level(node: Served) -> None:
    study = f"/dicom-web/studies/{make.uid('series')}"
    whole = get(node, study + "/metadata").json()
    assert len(whole) == 4
    for model in whole:
        series = f"{study}/series/{model['0020000E']['Value'][0]}"
        uid = model["00080018"]["Value"][0]
        for encoding in ("gzip", "identity"):
            headers = {"Accept-Encoding": encoding}
            of_series = get(node, series + "/metadata", **headers)
            of_instance = get(node, f"{series}/instances/{uid}/metadata", **headers)
            assert of_series.headers.get("content-encoding", "identity") == encoding
            assert [without_uris(one) for one in of_instance.json()] == [without_uris(model)]
            assert without_uris(model) in [without_uris(one) for one in of_series.json()]
        tags = {
            node.client.get(series + "/metadata", headers={"Accept-Encoding": e}).headers["etag"]
            for e in ("gzip", "identity")
        }
        assert len(tags) == 2, "two encodings are two representations"


def without_uris(model: dict[str, Any]) -> dict[str, Any]:
    return {tag: one for tag, one in model.items() if "BulkDataURI" not in one}


def test_metadata_are_current_until_an_instance_comes(node: Served) -> None:
    study = make.uid("growing")
    path = f"/dicom-web/studies/{study}/metadata"
    node.archive.store(TESTER, make.incoming(make.data_set(1, study_instance_uid=study)))
    before = get(node, path)
    known = {"If-None-Match": before.headers["etag"]}
    assert get(node, path, **known).status_code == 304
    node.archive.store(TESTER, make.incoming(make.data_set(2, study_instance_uid=study)))
    after = get(node, path, **known)
    assert after.status_code == 200
    assert [len(answer.json()) for answer in (before, after)] == [1, 2]


# frames and bulk data


@pytest.mark.parametrize("stored", [make.IMPLICIT, make.EXPLICIT, make.BIG_ENDIAN, make.DEFLATED])
@pytest.mark.parametrize("accept", [FRAMES, FRAMES + "; transfer-syntax=*", "*/*"])
def test_native_frames_leave_little_endian(node: Served, stored: str, accept: str) -> None:
    answer = get(node, path_of(instance_of(node, stored)) + "/frames/1", accept)
    content_type = f"application/octet-stream; transfer-syntax={make.EXPLICIT}"
    assert parts_of(answer) == [(content_type, make.slice_of(1).tobytes())]


@pytest.mark.parametrize("stored", [make.IMPLICIT, make.BIG_ENDIAN, make.DEFLATED])
@pytest.mark.parametrize("tag", ["7FE00010", "00281201"])
def test_native_bulk_data_leave_little_endian(node: Served, stored: str, tag: str) -> None:
    answer = get(node, path_of(instance_of(node, stored)) + f"/bulkdata/{tag}")
    expected = make.slice_of(1) if tag == "7FE00010" else COLOURS.astype("<u2")
    assert answer.content == expected.tobytes()
    assert syntax_in(answer.headers["content-type"]) == make.EXPLICIT


@pytest.mark.parametrize("stored", [RLE, JPEG_2000])
def test_compressed_frames_leave_decoded_or_as_stored(node: Served, stored: str) -> None:
    instance = instance_of(node, stored)
    path = path_of(instance) + "/frames/3,1"
    decoded = parts_of(get(node, path, FRAMES))
    native = f"application/octet-stream; transfer-syntax={make.EXPLICIT}"
    assert decoded == [(native, GREY[2].tobytes()), (native, GREY[0].tobytes())]
    as_stored = parts_of(
        get(node, path, "multipart/related; type=application/octet-stream; transfer-syntax=*")
    )
    assert [syntax_in(content_type) for content_type, _ in as_stored] == [stored, stored]
    assert [body for _, body in as_stored] == [node.archive.frame(instance, n) for n in (3, 1)]


@pytest.mark.parametrize("stored", [RLE, make.EXPLICIT, make.BIG_ENDIAN, make.DEFLATED])
def test_frames_leave_compressed_without_loss_where_that_is_named(
    node: Served, stored: str
) -> None:
    path = path_of(instance_of(node, stored)) + "/frames/1"
    ((_, native),) = parts_of(get(node, path, f"{FRAMES}; transfer-syntax={make.EXPLICIT}"))
    for asked in (HTJ2K, JPEG_LS):
        answer = get(node, path, f"{FRAMES}; transfer-syntax={asked}")
        ((content_type, frame),) = parts_of(answer)
        assert syntax_in(content_type) == asked
        side, bits, signed = (64, 8, 0) if stored == RLE else (16, 16, 1)
        image = ImagePixel(side, side, 1, bits, bits, signed, "MONOCHROME2")
        assert node.parts.decoder.frames(image, asked, [frame]).frames == [native]
    deflated = f"{FRAMES}; transfer-syntax={make.DEFLATED}"
    assert get(node, path, deflated).status_code == 406


def test_compressed_frames_leave_under_their_own_media_type_if_asked(node: Served) -> None:
    path = path_of(instance_of(node, JPEG_2000)) + "/frames/2"
    ((content_type, _),) = parts_of(get(node, path, 'multipart/related; type="image/jp2"'))
    assert content_type == f"image/jp2; transfer-syntax={JPEG_2000}"
    single = get(node, path, "image/*")
    assert single.headers["content-type"] == f"image/jp2; transfer-syntax={JPEG_2000}"
    assert get(node, path, "image/jpeg").status_code == 406


def test_one_frame_may_come_alone(node: Served) -> None:
    path = path_of(instance_of(node, make.EXPLICIT)) + "/frames/"
    answer = get(node, path + "1", "application/octet-stream")
    assert answer.content == make.slice_of(1).tobytes()
    several = path_of(instance_of(node, RLE)) + "/frames/1,2"
    assert get(node, several, "application/octet-stream").status_code == 406


@pytest.mark.parametrize(
    ("frames", "status"),
    [("4", 404), ("1,4", 404), ("0", 400), ("1,0", 400), ("-1", 400), ("1,", 400), ("x", 400)],
)
def test_frame_lists_are_checked(node: Served, frames: str, status: int) -> None:
    assert get(node, path_of(instance_of(node, RLE)) + f"/frames/{frames}").status_code == status


def test_a_video_leaves_as_stored(node: Served) -> None:
    path = path_of(instance_of(node, VIDEO)) + "/frames/1"
    assert parts_of(get(node, path, FRAMES)) == [
        (f"application/octet-stream; transfer-syntax={VIDEO}", b"film")
    ]
    asked = f"{FRAMES}; transfer-syntax={make.EXPLICIT}"
    assert get(node, path, asked).status_code == 406


def test_a_document_leaves_under_its_own_media_type(node: Served) -> None:
    path = path_of(instance_of(node, "document")) + "/bulkdata/00420011"
    answer = get(node, path)
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.content.startswith(b"%PDF")
    ((content_type, _),) = parts_of(get(node, path, 'multipart/related; type="application/*"'))
    assert content_type == "application/pdf"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("00880200/1/00281201", 200),
        ("00880200/2/00281201", 404),
        ("00880200/1/00281202", 404),
        ("00100010/1/00281202", 404),
        ("00880200", 200),
        ("00281201", 404),
        ("00880200/0/00281201", 400),
        ("00880200/1", 400),
        ("nonsense", 400),
    ],
)
def test_bulk_data_are_found_by_path(node: Served, path: str, status: int) -> None:
    answer = get(node, path_of(instance_of(node, "document")) + f"/bulkdata/{path}")
    assert answer.status_code == status
    if path == "00880200/1/00281201":
        assert answer.content == b"inside" * 300


# what must never happen


def spoil(node: Served, instance: Instance) -> None:
    """Change one byte near the end of a stored file."""
    (path,) = (p for p in node.objects.rglob("*") if instance.digest in p.name)
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def test_corrupt_bytes_are_never_sent_as_if_they_were_whole(tmp_path: Path) -> None:
    with serving(tmp_path) as node:
        large = np.zeros((2000, 2000), np.uint16)
        for name, pixels in (("small", None), ("large", large)):
            made = make.data_set(study_instance_uid=make.uid(name), pixels=pixels)
            node.archive.store(TESTER, make.incoming(made))
            spoil(node, instance_of(node, name))
        for accept in ("*/*", AS_STORED):
            answer = get(node, path_of(instance_of(node, "small")), accept)
            assert answer.status_code == 500
            assert answer.headers["content-type"] == "application/problem+json"
            with pytest.raises(httpx.RemoteProtocolError):
                get(node, path_of(instance_of(node, "large")), accept)


def breaking(*chunks: bytes) -> Iterator[bytes]:
    """Chunks, and then the end that must not look like one."""
    yield from chunks
    raise Corrupt


def test_a_stream_stays_behind_until_its_source_has_ended() -> None:
    seen: list[bytes] = []
    with pytest.raises(Corrupt):
        seen.extend(withheld(breaking(b"abc", b"def", b"gh"), 6))
    assert seen == []
    assert list(withheld(iter([b"abc", b"def", b"gh"]), 2)) == [b"abc", b"def", b"gh"]


def test_a_long_stream_flows_while_it_is_read() -> None:
    stream = withheld(breaking(b"abc", b"def", b"gh"), 5)
    assert next(stream) == b"abc"
    with pytest.raises(Corrupt):
        next(stream)


def test_the_first_chunk_of_a_part_is_made_before_its_headers_are_sent() -> None:
    with pytest.raises(Corrupt):
        next(multipart.written("b", [({}, breaking())]))


def test_a_client_that_stops_reading_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "STALLED_S_MAX", 0.05)
    closed: list[bool] = []

    def chunks() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(1000)
        finally:
            closed.append(True)

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) > 3:
            await asyncio.Event().wait()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def ask() -> None:
        scope = {"type": "http", "method": "GET", "headers": [], "asgi": {"spec_version": "2.4"}}
        answer = answers.streamed(Request(scope), chunks(), "text/plain", {})
        await answer({**scope, "extensions": {}}, receive, send)

    asyncio.run(ask())
    assert all(message.get("more_body", True) for message in sent), "it is not closed cleanly"
    gc.collect()
    assert closed == [True]


def test_an_object_that_is_too_short_is_no_frame(node: Served) -> None:
    made = make.data_set(1, study_instance_uid=make.uid("cut"))
    node.archive.store(TESTER, make.incoming(made))
    (one,) = node.archive.retrieve(TESTER, Scope(make.uid("cut")))
    path = node.objects / one.digest[:2] / one.digest
    path.write_bytes(path.read_bytes()[:-10])
    assert get(node, path_of(one) + "/frames/1").status_code == 500
    assert get(node, path_of(one) + "/bulkdata/7FE00010").status_code == 500


def test_one_instance_is_had_as_octets(node: Served) -> None:
    one = instance_of(node, RLE)
    answer = get(node, path_of(one), "application/octet-stream; transfer-syntax=*")
    assert answer.content == node.archive.read(one)
    assert answer.headers["content-type"] == f"application/octet-stream; transfer-syntax={RLE}"
