"""WADO-RS rendered: the picture that was asked for, or a clear no."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from pydicom import Dataset

from tests import make
from tests.unit.web import gallery
from tests.unit.web.gallery import FILM, RAMP, path_of, pixels
from tests.unit.web.node import TESTER, Served, serving
from web.dicomweb import reports
from web.dicomweb.media_types import media_type

PNG = "image/png"
SERIES = [gallery.image("series", (RAMP + n).astype(np.uint8), n) for n in range(1, 6)]
BOMBS = dict(gallery.bombs())
RAMP_IMAGE, MOVING = gallery.image("ramp"), gallery.image("film", FILM, FrameTime="50")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as served:
        single = [RAMP_IMAGE, MOVING, gallery.state(RAMP_IMAGE), gallery.report()]
        for one in (*single, *SERIES, gallery.document()):
            served.archive.store(TESTER, make.incoming(one))
        served.archive.store(TESTER, gallery.video())
        for bomb in BOMBS.values():
            served.archive.store(TESTER, bomb)
        yield served


def get(node: Served, path: str, accept: str = PNG, **headers: str) -> httpx.Response:
    return node.client.get(path, headers={"Accept": accept, **headers})


def parts(answer: httpx.Response) -> list[tuple[str, bytes]]:
    content_type = media_type(answer.headers["content-type"])
    assert answer.status_code == 200
    assert content_type is not None
    assert content_type.name == "multipart/related"
    boundary = content_type.parameters["boundary"].encode()
    found = []
    for piece in answer.content.split(b"--" + boundary)[1:-1]:
        head, _, body = piece.strip(b"\r\n").partition(b"\r\n\r\n")
        found.append((head.decode().lower(), body))
    return found


def test_an_instance_is_rendered_as_its_grey_levels(node: Served) -> None:
    assert np.array_equal(pixels(get(node, path_of(RAMP_IMAGE) + "/rendered")), RAMP)


@pytest.mark.parametrize("accept", ["*/*", "", "image/jpeg", "image/*", "image/png;q=0.1, */*"])
def test_a_jpeg_is_what_most_clients_get(node: Served, accept: str) -> None:
    found = pixels(get(node, path_of(RAMP_IMAGE) + "/rendered", accept), "image/jpeg")
    assert np.abs(found.astype(int) - RAMP).max() < 40


@pytest.mark.parametrize("accept", ["video/mp4", "text/html", "application/dicom", "image/jxl"])
def test_what_an_image_cannot_be_is_not_acceptable(node: Served, accept: str) -> None:
    answer = get(node, path_of(RAMP_IMAGE) + "/rendered", accept)
    assert answer.status_code == 406
    assert "image/jpeg" in answer.json()["detail"]


def test_the_accept_parameter_goes_before_the_header(node: Served) -> None:
    answer = get(node, path_of(RAMP_IMAGE) + "/rendered?accept=image/png", "*/*")
    assert answer.headers["content-type"] == PNG


def test_frames_are_rendered_by_number(node: Served) -> None:
    for number in range(1, 5):
        found = pixels(get(node, f"{path_of(MOVING)}/frames/{number}/rendered"))
        assert (found == FILM[number - 1]).all()
    assert get(node, path_of(MOVING) + "/frames/5/rendered").status_code == 404
    assert get(node, path_of(MOVING) + "/frames/0/rendered").status_code == 400


def test_several_frames_come_in_parts_in_the_order_asked_for(node: Served) -> None:
    accept = 'multipart/related; type="image/png"'
    found = parts(get(node, path_of(MOVING) + "/frames/4,1/rendered", accept))
    assert [head for head, _ in found] == ["content-type: image/png"] * 2
    greys = [np.asarray(Image.open(io.BytesIO(body)))[0, 0] for _, body in found]
    assert greys == [240, 0]
    assert len(parts(get(node, path_of(MOVING) + "/rendered", accept))) == 4


def test_an_animation_has_every_frame_and_its_pace(node: Served) -> None:
    answer = get(node, path_of(MOVING) + "/rendered", "image/gif")
    film = Image.open(io.BytesIO(answer.content))
    assert isinstance(film, GifImageFile)
    assert (film.n_frames, film.info["duration"], film.info["loop"]) == (4, 50, 0)
    greys = []
    for number in range(4):
        film.seek(number)
        greys.append(film.convert("L").getpixel((0, 0)))
    assert greys == [0, 80, 160, 240]


def test_the_middle_image_stands_for_a_series_and_a_study(node: Served) -> None:
    series = path_of(SERIES[0]).partition("/instances")[0]
    for path in (series, series.partition("/series")[0]):
        assert np.array_equal(pixels(get(node, path + "/rendered")), (RAMP + 3).astype(np.uint8))
        assert len(parts(get(node, path + "/rendered", 'multipart/related; type="image/png"'))) == 5


def test_thumbnails_are_small_and_never_enlarged(node: Served) -> None:
    wide = gallery.image("wide", np.zeros((300, 600), np.uint8))
    node.archive.store(TESTER, make.incoming(wide))
    study = path_of(wide).partition("/series")[0]
    for path in (study, path_of(wide), path_of(wide) + "/frames/1"):
        assert pixels(get(node, path + "/thumbnail")).shape == (64, 128)
        assert pixels(get(node, path + "/thumbnail?viewport=32,32")).shape == (16, 32)
    assert pixels(get(node, path_of(RAMP_IMAGE) + "/thumbnail")).shape == (16, 16)


def test_window_viewport_and_quality_are_heeded(node: Served) -> None:
    base = path_of(RAMP_IMAGE) + "/rendered"
    found = pixels(get(node, base + "?window=100,50,linear-exact"))
    fraction = np.clip((RAMP.astype(float) - 100) / 50 + 0.5, 0, 1)
    assert np.array_equal(found, np.floor(fraction * 255 + 0.5))
    assert pixels(get(node, base + "?viewport=64,32")).shape == (32, 32)
    cut = pixels(get(node, base + "?viewport=4,4,8,0,-4,4"))
    assert np.array_equal(cut, RAMP[:4, 8:12][:, ::-1])
    assert np.array_equal(pixels(get(node, base + "?viewport=8,8,8,8,,")), RAMP[8:, 8:])
    sizes = [len(get(node, f"{base}?quality={n}", "image/jpeg").content) for n in (1, 50, 100)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    "query",
    [
        *("window=1", "window=a,b", "window=1,0", "window=1,2,cubic", "window=nan,1", "window="),
        *("window=1,-5", "window=1,2,linear,3", "window=1e999,1", "window=1,inf"),
        *("viewport=0,10", "viewport=10", "viewport=100000,100000", "viewport=16384,16384"),
        *("viewport=10,10,1", "viewport=10,10,nan,0,1,1", "viewport=10,10,1e300,0,1,1"),
        *("viewport=-1,5", "viewport=a,b", "viewport=10,10,16,0,1,1", "viewport=10,10,-9,0,5,5"),
        *("quality=0", "quality=101", "quality=x", "quality=", "iccprofile=perhaps"),
    ],
)
def test_a_parameter_that_cannot_be_read_is_refused_by_name(node: Served, query: str) -> None:
    answer = get(node, f"{path_of(RAMP_IMAGE)}/rendered?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


def test_unknown_parameters_are_ignored_and_unknown_annotations_warned_of(node: Served) -> None:
    assert get(node, path_of(RAMP_IMAGE) + "/rendered?colour=blue").status_code == 200
    answer = get(node, path_of(RAMP_IMAGE) + "/rendered?annotation=horoscope")
    assert answer.status_code == 200
    assert answer.headers["warning"].startswith("299 ")
    assert "horoscope" not in answer.headers["warning"]


def test_only_who_asks_for_the_patient_sees_the_patient(node: Served) -> None:
    dark = gallery.image("dark", np.zeros((200, 300), np.uint8), KVP="120")
    node.archive.store(TESTER, make.incoming(dark))
    drawn = [
        np.count_nonzero(pixels(get(node, f"{path_of(dark)}/rendered?annotation={kinds}")))
        for kinds in ("", "technique", "patient", "patient,technique")
    ]
    assert drawn[0] == 0
    assert 0 < drawn[1] < drawn[3]
    assert 0 < drawn[2] < drawn[3]


def test_a_presentation_state_shows_the_image_that_it_is_about(node: Served) -> None:
    expected = 255 - RAMP[::-1, ::-1]
    state = gallery.state(RAMP_IMAGE)
    assert np.array_equal(pixels(get(node, path_of(state) + "/rendered")), expected)
    query = (
        f"presentationSeriesUID={state.SeriesInstanceUID}&presentationUID={state.SOPInstanceUID}"
    )
    named = get(node, f"{path_of(RAMP_IMAGE)}/rendered?{query}")
    assert np.array_equal(pixels(named), expected)


def test_a_presentation_state_that_is_none_is_refused(node: Served) -> None:
    base = path_of(RAMP_IMAGE) + "/rendered?presentationUID="
    assert get(node, base + "1.2").status_code == 400
    assert get(node, base + "1.2&presentationSeriesUID=1.2").status_code == 404
    other = f"{RAMP_IMAGE.SOPInstanceUID}&presentationSeriesUID={RAMP_IMAGE.SeriesInstanceUID}"
    assert get(node, base + other).status_code == 400


def test_a_document_leaves_as_it_is_and_as_pdf_whatever_it_claims(node: Served) -> None:
    answer = get(node, path_of(gallery.document()) + "/rendered", "*/*")
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.content == gallery.PDF
    assert get(node, path_of(gallery.document()) + "/rendered", "image/jpeg").status_code == 406
    assert get(node, path_of(gallery.document()) + "/thumbnail").status_code == 404


def test_a_video_leaves_as_it_is(node: Served) -> None:
    answer = get(node, path_of(gallery.image("video")) + "/rendered", "video/mp4")
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.content == b"\0\0\0\x18ftypisommoov"
    part = get(node, path_of(gallery.image("video")) + "/rendered", "*/*", Range="bytes=10-13")
    assert (part.status_code, part.content) == (206, b"ommo")


def test_a_report_is_a_page_that_runs_nothing_and_names_nobody(node: Served) -> None:
    answer = get(node, path_of(gallery.report()) + "/rendered", "text/html")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "Findings &lt;b&gt;" in answer.text
    assert "Remark: &lt;script&gt;" in answer.text
    assert "<li>Volume: 12.5 ml</li>" in answer.text
    assert "Secret" not in answer.text
    named = get(node, path_of(gallery.report()) + "/rendered?annotation=patient", "text/html")
    assert "Secret" in named.text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, "UNVERIFIED"),
        (
            {"0040A491": "COMPLETE", "0040A493": "VERIFIED", "0040A496": "FINAL"},
            "COMPLETE, FINAL, VERIFIED",
        ),
        ({"0040A493": "UNVERIFIED", "0040A496": "PRELIMINARY"}, "PRELIMINARY, UNVERIFIED"),
    ],
)
def test_a_report_says_first_whether_somebody_stands_behind_it(
    flags: dict[str, str], said: str
) -> None:
    model = {tag: {"vr": "CS", "Value": [value]} for tag, value in flags.items()}
    assert f"</h1><p><strong>{said}</strong></p><ul>" in reports.html(model)


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("resource", ["rendered", "thumbnail", "frames/1/rendered"])
def test_what_cannot_be_drawn_is_a_problem_and_no_failure(
    node: Served, name: str, resource: str
) -> None:
    answer = get(node, f"{path_of(gallery.image(name))}/{resource}")
    assert answer.status_code in (404, 406, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert get(node, path_of(RAMP_IMAGE) + "/rendered").status_code == 200


def test_an_animation_that_would_be_too_large_is_refused(node: Served) -> None:
    answer = get(node, path_of(MOVING) + "/rendered?viewport=8192,4096", "image/gif")
    assert answer.status_code == 400


def test_a_picture_that_is_current_is_not_drawn_again(node: Served) -> None:
    path = path_of(RAMP_IMAGE) + "/rendered"
    first = get(node, path)
    assert first.headers["cache-control"] == "private, no-cache"
    again = get(node, path, **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for other in ("?window=1,2", "?quality=3", "?viewport=9,9"):
        etag = get(node, path + other).headers["etag"]
        assert etag != first.headers["etag"]
    assert get(node, path, "image/jpeg").headers["etag"] != first.headers["etag"]


def test_a_project_shows_what_is_its_own_alone(node: Served) -> None:
    assert (
        get(node, path_of(RAMP_IMAGE, "/research/demo/dicom-web") + "/rendered").status_code == 404
    )
    assert get(node, "/dicom-web/studies/1.2.3/rendered").status_code == 404
    assert get(node, "/dicom-web/studies/x/rendered").status_code == 400


def test_big_endian_bytes_are_turned(node: Served) -> None:
    for name, syntax in (("big", make.BIG_ENDIAN), ("deflated", make.DEFLATED)):
        made: Dataset = gallery.image(name, (RAMP.astype(np.uint16) + 1000))
        made.WindowCenter = "1127.5"
        node.archive.store(TESTER, make.incoming(made, syntax))
        assert np.array_equal(pixels(get(node, path_of(made) + "/rendered")), RAMP)
