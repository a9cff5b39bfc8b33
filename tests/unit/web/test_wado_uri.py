"""WADO-URI: one instance by query parameters (PS3.18 9)."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from tests import make
from tests.unit.web import gallery
from tests.unit.web.gallery import FILM, RAMP, pixels
from tests.unit.web.node import TESTER, Served, serving

IMAGE, MOVING = gallery.image("ramp"), gallery.image("film", FILM)
JPEG_LS = "1.2.840.10008.1.2.4.80"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as served:
        for one in (IMAGE, MOVING, gallery.state(IMAGE), gallery.report(), gallery.document()):
            served.archive.store(TESTER, make.incoming(one))
        yield served


def ask(
    node: Served, made: Dataset = IMAGE, /, *, path: str = "/wado", **changes: str
) -> httpx.Response:
    """A request that is right, but for the changes; an empty one takes a parameter away."""
    query = {
        "requestType": "WADO",
        "studyUID": str(made.StudyInstanceUID),
        "seriesUID": str(made.SeriesInstanceUID),
        "objectUID": str(made.SOPInstanceUID),
        **changes,
    }
    return node.client.get(path, params={name: value for name, value in query.items() if value})


def test_a_single_frame_leaves_as_jpeg_and_anything_else_as_a_file(node: Served) -> None:
    assert ask(node).headers["content-type"] == "image/jpeg"
    for made in (MOVING, gallery.report(), gallery.document()):
        assert ask(node, made).headers["content-type"].startswith("application/dicom")


def test_a_file_is_the_instance_in_the_syntax_asked_for(node: Served) -> None:
    plain = ask(node, contentType="application/dicom")
    assert pydicom.dcmread(io.BytesIO(plain.content)).PixelData == IMAGE.PixelData
    named = ask(node, contentType="application/dicom", transferSyntax=JPEG_LS)
    read = pydicom.dcmread(io.BytesIO(named.content))
    assert read.file_meta.TransferSyntaxUID == JPEG_LS
    assert np.array_equal(read.pixel_array, RAMP)


def test_what_has_no_frames_is_never_compressed(node: Served) -> None:
    for made in (gallery.report(), gallery.document()):
        answer = ask(node, made, contentType="application/dicom", transferSyntax=JPEG_LS)
        assert answer.headers["content-type"].endswith(f"transfer-syntax={make.EXPLICIT}")
        read = pydicom.dcmread(io.BytesIO(answer.content))
        assert read.file_meta.TransferSyntaxUID == make.EXPLICIT


def test_a_picture_has_the_grey_levels_of_the_window(node: Served) -> None:
    assert np.array_equal(pixels(ask(node, contentType="image/png")), RAMP)
    found = pixels(ask(node, contentType="image/png", windowCenter="100", windowWidth="51"))
    fraction = np.clip((RAMP.astype(float) - 99.5) / 50 + 0.5, 0, 1)
    assert np.array_equal(found, np.floor(fraction * 255 + 0.5))


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ({"rows": "8"}, (8, 8)),
        ({"columns": "4"}, (4, 4)),
        ({"rows": "32", "columns": "64"}, (32, 32)),
    ],
)
def test_rows_and_columns_bound_the_picture(
    node: Served, size: dict[str, str], shape: tuple[int, int]
) -> None:
    assert pixels(ask(node, contentType="image/png", **size)).shape == shape


def test_a_region_is_given_in_fractions_of_the_image(node: Served) -> None:
    found = pixels(ask(node, contentType="image/png", region="0.5,0.25,1,0.75"))
    assert np.array_equal(found, RAMP[4:12, 8:])


def test_frames_are_counted_from_one(node: Served) -> None:
    for number in (1, 4):
        found = pixels(ask(node, MOVING, contentType="image/png", frameNumber=str(number)))
        assert (found == FILM[number - 1]).all()
    assert (pixels(ask(node, MOVING, contentType="image/png")) == FILM[0]).all()
    assert ask(node, MOVING, contentType="image/jpeg", frameNumber="5").status_code == 404


def test_a_presentation_state_is_applied(node: Served) -> None:
    state = gallery.state(IMAGE)
    named = {
        "presentationUID": str(state.SOPInstanceUID),
        "presentationSeriesUID": str(state.SeriesInstanceUID),
    }
    found = pixels(ask(node, contentType="image/png", **named))
    assert np.array_equal(found, 255 - RAMP[::-1, ::-1])
    assert ask(node, windowCenter="1", windowWidth="2", **named).status_code == 400


@pytest.mark.parametrize(
    "changes",
    [
        *({"requestType": ""}, {"requestType": "wado"}, {"studyUID": ""}, {"seriesUID": "x"}),
        *({"objectUID": "1.2/../3"}, {"anonymize": "yes"}, {"windowCenter": "1"}),
        *({"windowCenter": "1", "windowWidth": "0"}, {"rows": "0"}, {"columns": "1e3"}),
        *(
            {"rows": "100000"},
            {"region": "0,0,1"},
            {"region": "0.5,0,0.5,1"},
            {"region": "0,0,1,2"},
        ),
        *({"imageQuality": "101"}, {"frameNumber": "0"}, {"frameNumber": "-1"}),
        *({"transferSyntax": JPEG_LS}, {"presentationUID": "1.2"}),
        {"contentType": "application/dicom", "transferSyntax": "x"},
        {"contentType": "application/dicom", "rows": "10"},
        {"contentType": "application/dicom", "frameNumber": "1"},
    ],
)
def test_a_bad_parameter_is_refused(node: Served, changes: dict[str, str]) -> None:
    answer = ask(node, **changes)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "changes",
    [
        *({"contentType": "video/mp4"}, {"contentType": "text/html"}, {"charset": "ISO-8859-7"}),
        {"contentType": "application/dicom", "transferSyntax": "1.2.840.10008.1.2"},
        {"contentType": "application/dicom", "transferSyntax": "1.2.840.10008.1.2.4.102"},
    ],
)
def test_what_cannot_be_had_is_not_acceptable(node: Served, changes: dict[str, str]) -> None:
    assert ask(node, **changes).status_code == 406


def test_the_unknown_is_not_found(node: Served) -> None:
    for name in ("studyUID", "seriesUID", "objectUID"):
        assert ask(node, **{name: "1.2.3"}).status_code == 404
    assert ask(node, path="/research/demo/wado").status_code == 404
    assert ask(node, path="/research/nobody/wado").status_code == 404


def test_documents_and_reports_leave_as_what_they_are(node: Served) -> None:
    assert ask(node, gallery.document(), contentType="application/pdf").content == gallery.PDF
    page = ask(node, gallery.report(), contentType="text/html", charset="utf-8")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert ask(node, gallery.report(), contentType="image/jpeg").status_code == 406


def test_a_preference_list_is_followed(node: Served) -> None:
    assert ask(node, contentType="video/mp4,image/png").headers["content-type"] == "image/png"
