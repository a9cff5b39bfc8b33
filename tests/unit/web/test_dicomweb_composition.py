"""STOW-RS of metadata and bulk data: whole instances, whatever form and order their pieces have."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset

from pacs.archive import Instance, Scope
from pacs.dicom.data_sets import read_data_set
from pacs.dicom.json_model import json_model
from pacs.dicom.xml_model import xml_model
from pacs.errors import BadObject, Missing
from tests import make
from tests.unit.web.node import TESTER, Served, serving
from web.dicomweb import multipart
from web.dicomweb.composition import INSTANCE_VALUES_MAX, PART_VALUES_MAX, Composition
from web.limits import Limits

JSON, XML = "application/dicom+json", "application/dicom+xml"
LIMITS = Limits(memory_bytes_max=1000, metadata_bytes_max=200_000, held_bytes_max=2_000_000)
BASELINE, LOSSLESS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70"

Part = tuple[dict[str, str], bytes]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node"), limits=LIMITS) as served:
        yield served


def data_set(name: str, number: int = 1, **attributes: object) -> Dataset:
    return make.data_set(number, study_instance_uid=make.uid(name), **attributes)  # type: ignore[arg-type]


def model_of(made: Dataset, uri: str = "pixels") -> dict[str, Any]:
    """The metadata of an instance, its pixel data by reference."""
    model = json_model(made, str)
    return model | {"7FE00010": {"vr": "OW", "BulkDataURI": uri}}


def metadata(*models: dict[str, Any], media_type: str = JSON) -> list[Part]:
    if media_type == JSON:
        return [({"Content-Type": JSON}, json.dumps(models).encode())]
    return [({"Content-Type": XML}, xml_model(model)) for model in models]


def bulk(uri: str, data: bytes, media_type: str = "application/octet-stream") -> Part:
    return {"Content-Type": media_type, "Content-Location": uri}, data


def post(node: Served, parts: list[Part], *, root: str = JSON, **headers: str) -> httpx.Response:
    body = b"".join(multipart.written("b", [(heads, [data]) for heads, data in parts]))
    content_type = f'multipart/related; type="{root}"; boundary=b'
    return node.client.post(
        "/dicom-web/studies", content=body, headers={"Content-Type": content_type, **headers}
    )


def reasons(answer: httpx.Response) -> list[int]:
    return [
        item["00081197"]["Value"][0]
        for sequence in ("00081198", "0008119A")
        for item in answer.json().get(sequence, {}).get("Value", [])
    ]


def kept(node: Served, made: Dataset) -> tuple[Instance, Dataset]:
    scope = Scope(made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID)
    (instance,) = node.archive.retrieve(TESTER, scope)
    raw = node.archive.data_set(instance)
    return instance, read_data_set(raw, instance.transfer_syntax_uid)


@pytest.mark.parametrize("media_type", [JSON, XML])
def test_native_pixels_come_back_as_they_were_sent(node: Served, media_type: str) -> None:
    made = [data_set(f"native {media_type}", number, PatientName="Öß^Ä") for number in (1, 2)]
    models = [model_of(one, f"pixels/{number}") for number, one in enumerate(made)]
    parts = metadata(*models, media_type=media_type)
    parts += [bulk(f"pixels/{number}", one.PixelData) for number, one in enumerate(made)]
    answer = post(node, parts, root=media_type)
    assert answer.status_code == 200
    for one in made:
        instance, found = kept(node, one)
        assert instance.transfer_syntax_uid == make.EXPLICIT
        assert instance.frames == 1
        assert found.PixelData == one.PixelData
        del found.SpecificCharacterSet
        assert found == one


def test_an_instance_without_bulk_data_is_whole_at_once(node: Served) -> None:
    made = data_set("no pixels", SliceThickness=0.1 + 0.2)
    del made.PixelData
    made.SmallestPixelValueInSeries = None
    assert post(node, metadata(json_model(made, str))).status_code == 200
    assert len(str(kept(node, made)[1].SliceThickness)) <= 16


def test_inline_binary_and_bulk_data_inside_sequences_are_taken(node: Served) -> None:
    made = data_set("nested")
    model = model_of(made)
    model["7FE00010"] = {"vr": "OW", "InlineBinary": base64.b64encode(made.PixelData).decode()}
    inner = {"00282010": {"vr": "OW", "BulkDataURI": "inner"}}
    model["00089121"] = {"vr": "SQ", "Value": [inner]}
    assert post(node, [*metadata(model), bulk("inner", b"abcd")]).status_code == 200
    _, found = kept(node, made)
    assert found[0x00089121].value[0][0x00282010].value == b"abcd"
    assert found.PixelData == made.PixelData


def jpeg(grey: int = 8, size: tuple[int, int] = (24, 16)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full(size, grey, np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("media_type", "syntax"),
    [
        ("image/jpeg", BASELINE),
        (f"image/jpeg; transfer-syntax={BASELINE}", BASELINE),
        (f'image/jpeg; transfer-syntax="{LOSSLESS}"', LOSSLESS),
    ],
)
def test_a_compressed_frame_is_encapsulated_and_describes_itself(
    node: Served, media_type: str, syntax: str
) -> None:
    made = data_set(media_type)
    model = model_of(made)
    for tag in list(model):
        if tag.startswith("0028"):
            del model[tag]
    assert post(node, [*metadata(model), bulk("pixels", jpeg(), media_type)]).status_code == 200
    instance, found = kept(node, made)
    assert instance.transfer_syntax_uid == syntax
    assert node.archive.frame(instance, 1).rstrip(b"\0") == jpeg().rstrip(b"\0")
    assert (found.Rows, found.Columns, found.BitsAllocated) == (24, 16, 8)
    assert (found.SamplesPerPixel, found.PhotometricInterpretation) == (1, "MONOCHROME2")


def test_the_frames_of_an_image_are_parts_in_their_order(node: Served) -> None:
    made = data_set("frames", NumberOfFrames=3)
    frames = [jpeg(grey) for grey in (10, 100, 200)]
    parts = metadata(model_of(made)) + [bulk("pixels", one, "image/jpeg") for one in frames]
    assert post(node, parts).status_code == 200
    instance, _ = kept(node, made)
    assert instance.frames == 3
    assert [node.archive.frame(instance, n).rstrip(b"\0") for n in (1, 2, 3)] == [
        frame.rstrip(b"\0") for frame in frames
    ]


def test_a_video_is_one_fragment(node: Served) -> None:
    made = data_set("video", NumberOfFrames=250)
    assert post(node, [*metadata(model_of(made)), bulk("pixels", b"odd", "video/mp4")]).status_code == 200  # fmt: skip
    assert kept(node, made)[0].transfer_syntax_uid == "1.2.840.10008.1.2.4.102"


def test_an_encapsulated_document_is_bulk_data_too(node: Served) -> None:
    made = data_set("document")
    del made.PixelData
    model = json_model(made, str) | {"00420011": {"vr": "OB", "BulkDataURI": "file.pdf"}}
    document = bulk("file.pdf", b"%PDF-1.7", "application/pdf")
    assert post(node, [*metadata(model), document]).status_code == 200
    assert kept(node, made)[1].EncapsulatedDocument == b"%PDF-1.7"


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("http://x.example/a/pixels", "http://x.example/a/pixels"),
        ("/dicom-web/pixels", "pixels"),
        ("./pixels", "pixels"),
    ],
)
def test_metadata_and_parts_may_spell_a_uri_differently(
    node: Served, uri: str, location: str
) -> None:
    made = data_set(uri)
    parts = [*metadata(model_of(made, uri)), bulk(location, made.PixelData)]
    assert post(node, parts).status_code == 200


def test_bulk_data_may_come_before_what_refers_to_them(node: Served) -> None:
    made = data_set("before")
    assert (
        post(node, [bulk("pixels", made.PixelData), *metadata(model_of(made))]).status_code == 200
    )


@pytest.mark.parametrize(
    ("media_type", "reason"),
    [
        ("application/octet-stream; transfer-syntax=1.2.840.10008.1.2.4.50", 0xC122),
        ("image/png", 0xC122),
        ("image/jpeg; transfer-syntax=1.2.840.10008.1.2.1", 0xC122),
        ("image/jp2", 0xC122),
        ("text/plain", 0xC122),
    ],
)
def test_pixels_of_a_media_type_that_cannot_be_are_refused(
    node: Served, media_type: str, reason: int
) -> None:
    made = data_set("media")
    answer = post(node, [*metadata(model_of(made)), bulk("pixels", b"no image", media_type)])
    assert (answer.status_code, reasons(answer)) == (409, [reason])


def test_what_lacks_bulk_data_fails_alone(node: Served) -> None:
    lacking, whole = data_set("lacking"), data_set("not lacking")
    parts = [*metadata(model_of(lacking, "a"), model_of(whole, "b")), bulk("b", whole.PixelData)]
    answer = post(node, parts)
    assert (answer.status_code, reasons(answer)) == (202, [0xA922])
    (failed,) = answer.json()["00081198"]["Value"]
    assert failed["00081155"]["Value"] == [lacking.SOPInstanceUID]
    with pytest.raises(Missing):
        node.archive.retrieve(TESTER, Scope(lacking.StudyInstanceUID))


def test_too_few_frames_are_bulk_data_that_is_missing(node: Served) -> None:
    made = data_set("too few", NumberOfFrames=2)
    answer = post(node, [*metadata(model_of(made)), bulk("pixels", jpeg(), "image/jpeg")])
    assert (answer.status_code, reasons(answer)) == (409, [0xA922])


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ({"00080018": {"vr": "UI"}}, 0xA900),
        ({"0020000D": {"vr": "UI", "Value": ["x.y"]}}, 0xA900),
        ({"00080016": {"vr": "UI", "Value": ["1.2.840.10008.1.1"]}}, 0x0122),
        ({"00200013": {"vr": "IS", "Value": [{"a": 1}]}}, 0xC000),
        ({"00200032": {"vr": "DS", "Value": "x"}}, 0xC000),
        ({"00081140": {"vr": "SQ", "Value": [7]}}, 0xC000),
        ({"00081140": {"vr": "SQ", "Value": {"a": 1}}}, 0xC000),
        ({"00081140": 7}, 0xC000),
        ({"nonsense": {"vr": "LO"}}, 0xC000),
        ({"00XX0010": {"vr": "LO"}}, 0xC000),
        ({"00100010": {}}, 0xC000),
    ],
)
def test_metadata_that_cannot_be_an_instance_are_refused(
    node: Served, spoiled: dict[str, Any], reason: int
) -> None:
    made = data_set("spoiled")
    answer = post(node, [*metadata(model_of(made) | spoiled), bulk("pixels", made.PixelData)])
    assert (answer.status_code, reasons(answer)) == (409, [reason])


@pytest.mark.parametrize(
    ("root", "document"),
    [
        (JSON, b"{"),
        (JSON, b"[" * 100_000),
        (JSON, b'[{"00081140":{"vr":"SQ","Value":[' * 400 + b"{}" + b"]}}]" * 400),
        (JSON, b"[1]"),
        (XML, b"<x>"),
        (XML, b'<!DOCTYPE x [<!ENTITY a "b">]><NativeDicomModel>&a;</NativeDicomModel>'),
    ],
)
def test_a_document_that_is_none_is_refused(node: Served, root: str, document: bytes) -> None:
    answer = post(node, [({"Content-Type": root}, document)], root=root)
    assert (answer.status_code, reasons(answer)) == (409, [0xC000])


@pytest.mark.parametrize("values_max", [PART_VALUES_MAX, INSTANCE_VALUES_MAX])
@pytest.mark.parametrize("value", [b"{}", b"[]", b"1", b'""'])
def test_metadata_of_too_many_values_are_never_read(
    tmp_path: Path, value: bytes, values_max: int
) -> None:
    many = b",".join([value] * (values_max + 2))
    part = multipart.Part({"content-type": JSON}, tmp_path, Limits())
    asyncio.run(part.write(b'[{"00081140":{"vr":"SQ","Value":[' + many + b"]}}]"))
    made = Composition(JSON, "http://here/studies", tmp_path, Limits())
    (refused,) = made.take(part)
    made.close()
    part.close()
    assert isinstance(refused.error, BadObject)
    assert refused.error.facts == {"values_max": values_max}


def test_more_metadata_or_bulk_data_than_are_taken_break_the_request(node: Served) -> None:
    much = [({"Content-Type": JSON}, b" " * 100_001)] * 2
    assert post(node, much).status_code == 413
    assert post(node, [bulk("a", bytes(1_000_001)), bulk("b", bytes(1_000_001))]).status_code == 413
    assert post(node, [bulk("nobody refers to it", b"x")]).status_code == 400
    assert list(node.parts.spool.iterdir()) == []


def test_the_answer_comes_as_xml_for_who_asks_for_it(node: Served) -> None:
    made = data_set("xml answer")
    parts = [*metadata(model_of(made)), bulk("pixels", made.PixelData)]
    answer = post(node, parts, Accept=XML)
    assert (answer.status_code, answer.headers["content-type"]) == (200, XML)
    assert made.SOPInstanceUID in answer.text
    assert 'keyword="ReferencedSOPSequence"' in answer.text


def test_a_value_that_does_not_fit_is_kept_told_and_not_indexed(node: Served) -> None:
    made = data_set("unfit")
    model = model_of(made) | {"00080020": {"vr": "DA", "Value": ["yesterday"]}}
    answer = post(node, [*metadata(model), bulk("pixels", made.PixelData)])
    assert answer.status_code == 202
    (stored,) = answer.json()["00081199"]["Value"]
    assert stored["00081196"]["Value"] == [0xB007]
    assert stored["00741048"]["Value"][0]["00720026"]["Value"] == ["00080020"]
    row = node.client.get(f"/dicom-web/studies?StudyInstanceUID={made.StudyInstanceUID}").json()[0]
    assert "Value" not in row["00080020"]
