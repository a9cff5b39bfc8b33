"""QIDO-RS: the right rows, in a form that no viewer chokes on, and no filter dropped in silence."""

from __future__ import annotations

import email
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from pacs.archive import Scope
from pacs.dicom.attributes import INDEXED, Level
from pacs.dicom.matching import Single, UidList, Words
from pacs.dicom.xml_model import read_xml_model
from pacs.errors import BadQuery
from tests import make
from tests.unit.web.node import TESTER, Served, serving
from web.dicomweb.elements import element
from web.dicomweb.parameters import read_query
from web.dicomweb.search import as_json

CHEST, HEAD = make.uid("chest"), make.uid("head")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as served:
        data_sets = [
            *make.study(3, series=2, study_instance_uid=CHEST, patient_name="Doe^John"),
            *make.study(
                1,
                study_instance_uid=HEAD,
                patient_id="P-2",
                patient_name="Yamada^Tarou=山田^太郎",
                SpecificCharacterSet="ISO_IR 192",
                modality="MR",
                StudyDate="20200101",
            ),
        ]
        for made in data_sets:
            served.archive.store(TESTER, make.incoming(made))
        yield served


def search(node: Served, path: str) -> httpx.Response:
    return node.client.get(f"/dicom-web/{path}")


def values(answer: httpx.Response, keyword: str) -> list[Any]:
    (tag,) = element(keyword)
    return [row[tag].get("Value", [None])[0] for row in answer.json()]


def test_studies_come_newest_first_as_dicom_json(node: Served) -> None:
    answer = search(node, "studies")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert values(answer, "StudyInstanceUID") == [CHEST, HEAD]
    assert values(answer, "NumberOfStudyRelatedInstances") == [6, 1]
    assert values(answer, "ModalitiesInStudy") == ["CT", "MR"]
    assert values(answer, "RetrieveURL")[0] == f"{node.dicom_web}/studies/{CHEST}"
    tags = list(answer.json()[0])
    assert tags == sorted(tags)


def test_a_name_keeps_its_groups(node: Served) -> None:
    answer = search(node, "studies?PatientID=P-2")
    assert values(answer, "PatientName") == [
        {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}
    ]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("studies?PatientName=doe*", 1),
        ("studies?00100010=doe*", 1),
        ("studies?0020000d=" + CHEST, 1),
        (f"studies?StudyInstanceUID={CHEST},{HEAD}", 2),
        (f"studies?StudyInstanceUID={CHEST}%5C{HEAD}", 2),
        ("studies?PatientName=jo%20do&fuzzymatching=true", 1),
        ("studies?StudyDate=20200101-20201231", 1),
        ("studies?StudyDate=20240101-", 1),
        ("studies?ModalitiesInStudy=MR", 1),
        ("studies?PatientName=", 2),
        ("studies?PatientName=*", 2),
        ("studies?SeriesDescription=&BitsStored=", 2),
        ("studies?&includefield=00081030,00080060", 2),
        ("studies?includefield=all&includefield=RequestAttributesSequence.ScheduledProcedureStepID", 2),
        ("studies?limit=101&offset=0&fuzzymatching=false&includefield=00081030%2C00080060", 2),
        ("series", 3),
        ("series?Modality=CT", 2),
        (f"studies/{CHEST}/series", 2),
        ("instances", 7),
        (f"studies/{CHEST}/instances", 6),
        (f"studies/{CHEST}/series/{make.uid(CHEST, 'series', 1)}/instances", 3),
        (f"studies/{CHEST}/instances?InstanceNumber=2", 2),
        (f"studies/{CHEST}/series?StudyInstanceUID={CHEST}", 2),
    ],
)  # fmt: skip
def test_a_search_finds(node: Served, path: str, found: int) -> None:
    answer = search(node, path)
    assert (answer.status_code, len(answer.json())) == (200, found)
    assert "warning" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "studies?PatientID=nobody",
        "studies?limit=0",
        "studies?offset=100",
        f"studies/{make.uid('unknown')}/series",
        f"studies/{CHEST}/instances?SOPInstanceUID=1.2.3",
    ],
)
def test_an_empty_result_has_no_content(node: Served, path: str) -> None:
    answer = search(node, path)
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("studies?BitsStored=12", "BitsStored"),
        ("studies?00280101=12", "BitsStored"),
        ("studies?00091001=12", "00091001"),
        ("studies?NumberOfStudyRelatedSeries=1", "NumberOfStudyRelatedSeries"),
        ("studies?Modality=CT", "Modality"),
        ("studies?RequestAttributesSequence.ScheduledProcedureStepID=1", "RequestAttributesSequence"),
        ("studies?StudyDate=yesterday", "StudyDate"),
        ("studies?StudyDate=-", "StudyDate"),
        ("studies?StudyInstanceUID=1.2.x", "StudyInstanceUID"),
        ("studies?PatientID=1&PatientID=2", "PatientID"),
        ("studies?PatientName=%FC", "UTF-8"),
        ("studies?emptyvaluematching=1", "emptyvaluematching"),
        ("studies?" + "&" * 2000, "parameters"),
        ("series?RequestAttributesSequence.StudyID=1", "RequestAttributesSequence.StudyID"),
        (f"studies/{CHEST}/series?StudyInstanceUID={HEAD}", "StudyInstanceUID"),
        ("studies?fuzzymatching=maybe", "fuzzymatching"),
        ("studies?limit=-1", "limit"),
        ("studies?limit=x", "limit"),
        ("studies?limit=1e3", "limit"),
        ("studies?limit=", "limit"),
        ("studies?offset=9999999999999999999", "offset"),
        ("studies?offset=-1", "offset"),
        ("studies?offset=%D9%A3", "offset"),
    ],
)  # fmt: skip
def test_what_cannot_be_matched_is_refused_by_name(node: Served, path: str, named: str) -> None:
    answer = search(node, path)
    assert answer.status_code == 400
    assert named in answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "studies?nonsense=1",
        "studies?patientname=x",
        "studies?a%0d%0ab=1",
        "studies?%22=1",
        "studies?includefield=nonsense",
        "studies?TimezoneOffsetFromUTC=%2B0100",
    ],
)
def test_a_parameter_that_is_no_key_is_ignored_with_a_warning(node: Served, path: str) -> None:
    answer = search(node, path)
    assert (answer.status_code, len(answer.json())) == (200, 2)
    assert answer.headers["warning"].startswith("299 127.0.0.1:")
    assert "ignored" in answer.headers["warning"]


def test_pages_follow_each_other_and_say_when_more_remain(node: Served) -> None:
    all_uids = values(search(node, "instances"), "SOPInstanceUID")
    first, last = search(node, "instances?limit=4"), search(node, "instances?limit=4&offset=4")
    assert values(first, "SOPInstanceUID") + values(last, "SOPInstanceUID") == all_uids
    assert '"There are 3 additional results that can be requested"' in first.headers["warning"]
    assert "warning" not in last.headers


def test_what_takes_too_long_to_count_remains_without_a_number(
    node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.dicomweb.search.COUNTED_MAX", 2)
    answer = search(node, "instances?limit=4")
    assert '"There are additional results that can be requested"' in answer.headers["warning"]


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("patients/count", 2),
        ("studies/count", 2),
        ("studies/count?limit=1&offset=1", 2),
        ("studies/count?ModalitiesInStudy=MR", 1),
        ("series/count", 3),
        ("instances/count?PatientID=nobody", 0),
        (f"studies/{CHEST}/series/count", 2),
        (f"studies/{CHEST}/instances/count", 6),
        (f"studies/{CHEST}/series/{make.uid(CHEST, 'series', 1)}/instances/count", 3),
    ],
)
def test_what_would_be_found_can_be_counted(node: Served, path: str, number: int) -> None:
    answer = search(node, path)
    assert (answer.status_code, answer.json()) == (200, {"count": number})
    assert answer.headers["content-type"] == "application/json"


def test_patients_are_found(node: Served) -> None:
    answer = search(node, "patients?PatientName=yamada*")
    assert values(answer, "PatientID") == ["P-2"]
    assert values(answer, "NumberOfPatientRelatedStudies") == [1]
    assert "00081190" not in answer.json()[0]


def test_answers_come_as_xml_for_who_asks_for_it(node: Served) -> None:
    accept = {"Accept": 'multipart/related; type="application/dicom+xml"'}
    answer = node.client.get("/dicom-web/studies", headers=accept)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(
        'multipart/related; type="application/dicom+xml"'
    )
    message = email.message_from_bytes(
        b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.content
    )
    documents = [part.get_payload(decode=True) for part in message.get_payload()]  # type: ignore[union-attr] # a multipart message
    models = [read_xml_model(document) for document in documents]  # type: ignore[arg-type] # bytes
    assert models == search(node, "studies").json()


def test_what_is_not_indexed_is_read_from_the_stored_object(node: Served) -> None:
    tag, unknown = "00280106", "00280107"
    answer = search(
        node, f"studies/{CHEST}/instances?includefield=SmallestImagePixelValue,{unknown}"
    )
    assert all("PhotometricInterpretation" not in row for row in answer.json())
    assert [tag in row or unknown in row for row in answer.json()] == [False] * 6
    answer = search(
        node, f"studies/{CHEST}/instances?includefield=00280004&includefield=BitsStored"
    )
    assert values(answer, "PhotometricInterpretation") == ["MONOCHROME2"] * 6
    assert values(answer, "BitsStored") == [16] * 6
    answer = search(node, f"studies/{CHEST}/instances?includefield=all")
    assert values(answer, "SamplesPerPixel") == [1] * 6
    assert "7FE00010" not in answer.json()[0]
    tags = list(answer.json()[0])
    assert tags == sorted(tags)


def test_an_open_search_reads_no_more_objects_than_is_bearable(
    node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.dicomweb.search.INCLUDED_ROWS_MAX", 2)
    answer = search(node, "instances?includefield=BitsStored")
    assert len(answer.json()) == 2
    assert "There are 5 additional results" in answer.headers["warning"]
    assert len(search(node, f"studies/{CHEST}/instances?includefield=BitsStored").json()) == 6


def test_who_asks_for_fuzzy_matching_in_vain_is_told(node: Served) -> None:
    answer = search(node, "studies?fuzzymatching=true&AccessionNumber=A-1")
    assert "Only literal matching has been performed" in answer.headers["warning"]
    assert "warning" not in search(node, "studies?fuzzymatching=true&PatientName=doe").headers


def test_several_values_and_none_are_matched_where_that_is_asked_for(node: Served) -> None:
    several = "studies?multiplevaluematching=true&PatientName=doe*%5Cyamada*"
    assert len(search(node, several).json()) == 2
    assert len(search(node, 'studies?emptyvaluematching=true&StudyID=""').content) == 0
    empty = 'studies?emptyvaluematching=true&ReferringPhysicianName=""'
    assert search(node, empty).status_code == 204


def test_a_charset_that_answers_do_not_come_in_is_not_acceptable(node: Served) -> None:
    assert search(node, "studies?charset=utf-8").status_code == 200
    assert search(node, "studies?charset=iso-8859-1").status_code == 406


def test_a_search_that_takes_too_long_is_given_up(
    node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacs.archive.SEARCH_S_MAX", 0.0)
    monkeypatch.setattr(
        "pacs.index.queries.found_ids",
        lambda connection, *_: connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        ),
    )
    answer = search(node, "studies")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")


def test_an_instance_tells_its_transfer_syntax(node: Served) -> None:
    answer = search(node, f"studies/{HEAD}/instances")
    assert values(answer, "AvailableTransferSyntaxUID") == [make.EXPLICIT]
    url = values(answer, "RetrieveURL")[0]
    assert url.startswith(f"{node.dicom_web}/studies/{HEAD}/series/")
    assert httpx.get(url).status_code == 200


def test_a_long_answer_is_compressed_for_who_takes_it(node: Served) -> None:
    plain = node.client.get("/dicom-web/instances", headers={"Accept-Encoding": "identity"})
    packed = node.client.get("/dicom-web/instances", headers={"Accept-Encoding": "br, gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json() == plain.json()


@pytest.mark.parametrize(
    ("accept", "status", "content_type"),
    [
        ("application/json", 200, "application/json"),
        ("*/*", 200, "application/dicom+json"),
        ("application/dicom+xml;q=1, application/json;q=0.1", 200, "application/json"),
        ("application/dicom+xml", 406, "application/problem+json"),
    ],
)
def test_json_comes_under_the_name_that_was_asked_for(
    node: Served, accept: str, status: int, content_type: str
) -> None:
    answer = node.client.get("/dicom-web/studies", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (status, content_type)


def test_the_accept_parameter_overrides_the_header(node: Served) -> None:
    answer = search(node, "studies?accept=application/dicom+json")
    assert answer.status_code == 200
    assert search(node, "studies?accept=image/png").status_code == 406


def test_a_host_header_that_is_none_does_not_reach_the_urls(node: Served) -> None:
    answer = node.client.get("/dicom-web/studies", headers={"Host": 'evil"/><script>'})
    assert answer.status_code == 421
    assert "evil" not in answer.text
    answer = node.client.get("/dicom-web/studies", headers={"Host": "pacs.localhost:8443"})
    assert values(answer, "RetrieveURL")[0].startswith("http://pacs.localhost:8443/dicom-web/")


def test_a_wrong_method_is_told_the_right_ones(node: Served) -> None:
    answer = node.client.put("/dicom-web/studies")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")


def test_head_has_the_headers_of_get(node: Served) -> None:
    headers = {"Accept-Encoding": "identity"}
    head = node.client.head("/dicom-web/studies", headers=headers)
    get = node.client.get("/dicom-web/studies", headers=headers)
    assert head.content == b""
    assert head.headers["content-length"] == str(len(get.content))


def test_a_path_and_its_parameters_become_one_query() -> None:
    asked = read_query(
        Level.INSTANCE,
        Scope("1.2", "1.2.3"),
        b"PatientName=jo%20do&FuzzyMatching=true&InstanceNumber=7&limit=5",
    )
    assert asked.query.keys == {
        INDEXED["StudyInstanceUID"]: UidList(("1.2",)),
        INDEXED["SeriesInstanceUID"]: UidList(("1.2.3",)),
        INDEXED["PatientName"]: Words(("jo", "do")),
        INDEXED["InstanceNumber"]: Single(7),
    }
    assert (asked.query.limit, asked.query.offset, asked.warnings) == (5, 0, ())


def test_a_refused_value_is_not_repeated() -> None:
    with pytest.raises(BadQuery) as raised:
        read_query(Level.STUDY, Scope(""), b"PatientBirthDate=Canary")
    assert "Canary" not in raised.value.message


def test_a_row_with_gaps_is_still_a_row() -> None:
    row = as_json(
        {"StudyInstanceUID": "1.2", "PatientName": None, "ModalitiesInStudy": ()}, Level.STUDY, ""
    )
    assert row["00080061"] == {"vr": "CS", "Value": ["OT"]}
    assert row["00100010"] == {"vr": "PN"}
