"""A canary patient, whose name may stand in the store and in the index and nowhere else.

Its values stand in every attribute that tells of a patient, and in objects, queries and addresses
that are wrong in every way we know. After the whole flow each byte that the node wrote or answered
outside of store and index is searched for them, in several encodings; and so is everything that
the research archive gives away.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.sequence import Sequence

import sample_dicom
from sample_dicom.studies import CT_CHEST
from tests import make
from tests.story.running import StartedNode, started_node, wait_for

pytestmark = pytest.mark.timeout(120)

CHEST: Final = Path(sample_dicom.__file__).parent / CT_CHEST.folder
STUDY: Final = make.uid("canary")
SPOILED: Final = make.uid("canary", "spoiled")

NAME: Final = "Zwitscherling^Kanaria=金絲雀^鳴"
PATIENT: Final[Mapping[str, str]] = {
    "PatientName": NAME,
    "PatientID": "KNR-7391-Q",
    "OtherPatientIDs": "KNR-OTHER-55",
    "PatientBirthDate": "19270313",
    "PatientBirthTime": "031322",
    "PatientMotherBirthName": "Kanaria^Mother",
    "PatientAddress": "Volierengasse 41",
    "PatientTelephoneNumbers": "+49 555 739177",
    "PatientComments": "Kanaria sings",
    "AccessionNumber": "ACC88213377",
    "ReferringPhysicianName": "Kanaria^Referrer",
    "OperatorsName": "Kanaria^Operator",
    "InstitutionName": "Kanaria Hospital",
    "SeriesDescription": "for Kanaria",
    "ProtocolName": "Kanaria protocol",
    "ImageComments": "Kanaria image",
    "StudyDescription": "Thorax of Kanaria",
    "RequestingPhysician": "Kanaria^Requester",
}
WORDS: Final = (
    *("Zwitscherling", "Kanaria", "金絲雀", "KNR-7391-Q", "KNR-OTHER-55", "19270313"),
    *("Volierengasse", "739177", "ACC88213377", "1927-03-13"),
)


def needles() -> set[bytes]:
    """Every word, in the encodings in which it could slip out, in lower case."""
    return {needle.lower() for word in WORDS for needle in _encoded(word)}


def _encoded(word: str) -> Iterator[bytes]:
    for encoding in ("utf-8", "utf-16-le", "utf-16-be", "gb18030"):
        plain = word.encode(encoding)
        yield plain
        yield plain.hex().encode()
    plain = word.encode()
    yield quote(word).encode()
    yield json.dumps(word).strip('"').encode()
    yield repr(plain)[2:-1].encode()
    for shift in range(3):  # in base64 the same bytes look different at each place
        whole_bytes = plain[-shift % 3 :]
        if len(whole_bytes) >= 6:  # four letters of base64 are found by chance
            yield base64.b64encode(whole_bytes[: len(whole_bytes) // 3 * 3])


@dataclass
class Searched:
    """Everything that must not hold the canary, by where it was found."""

    found: list[str] = field(default_factory=list)
    searched_bytes: int = 0

    def search(self, place: str, content: bytes | str) -> None:
        content = content.encode() if isinstance(content, str) else content
        self.searched_bytes += len(content)
        lowered = content.lower()
        for needle in needles():
            if (at := lowered.find(needle)) >= 0:
                around = content[max(0, at - 60) : at + 60]
                self.found.append(f"{place}: {needle!r} in {around!r}")

    def search_answer(self, answer: httpx.Response) -> None:
        place = f"{answer.request.method} {answer.request.url.path} ({answer.status_code})"
        self.search(place, answer.content)
        self.search(f"headers of {place}", str(answer.headers.raw))


def _with_canary(made: Dataset, study: str) -> Dataset:
    """The data set, moved to another study and to the canary patient."""
    made.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in PATIENT.items():
        setattr(made, keyword, value)
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        setattr(made, keyword, make.uid(study, made[keyword].value))
    made.StudyInstanceUID = study
    request = Dataset()
    request.RequestedProcedureDescription = "for Kanaria"
    request.PatientName = NAME
    made.RequestAttributesSequence = Sequence([request])
    made.private_block(0x0099, "KANARIA SYSTEMS", create=True).add_new(1, "LO", "Kanaria private")
    return made


def _spoiled(made: Dataset, *keywords: str) -> Dataset:
    """The data set with the canary's name in place of what these attributes should hold."""
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        assert tag is not None
        made.add_new(tag, "LO", "Kanaria")
    return made


def _chest(study: str) -> list[Dataset]:
    return [_with_canary(dcmread(path), study) for path in sorted(CHEST.glob("*.dcm"))]


def _strange_chests() -> Iterator[Dataset]:
    """Chests that can be kept, and that a model or the cleaning must stumble over."""
    for keyword in ("PixelSpacing", "ImagePositionPatient", "RescaleSlope", "BitsStored", "KVP"):
        for made in _chest(make.uid("canary", keyword))[:12]:
            yield _spoiled(made, keyword)


def _no_instances() -> Iterator[bytes]:
    """Files with the canary in them that no archive can keep."""
    whole = make.part10_bytes(_with_canary(make.data_set(), SPOILED))
    yield whole[: len(whole) // 2]
    yield NAME.encode() * 50
    yield bytes(128) + b"DICM" + NAME.encode() * 50
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        yield make.part10_bytes(_spoiled(_with_canary(make.data_set(), SPOILED), keyword))


def _odd_instances() -> Iterator[bytes]:
    """Files with the canary where numbers, dates and codes belong; some archives keep them."""
    for number, keyword in enumerate(
        ("InstanceNumber", "Rows", "StudyDate", "StudyTime", "Modality"), 10
    ):
        made = _with_canary(make.data_set(number), SPOILED)
        yield make.part10_bytes(_spoiled(made, keyword))
    whole = make.part10_bytes(_with_canary(make.data_set(20), SPOILED))
    yield whole.replace(b"ISO_IR 192", b"Kanaria   ")
    yield whole.replace(b"Kanaria^Referrer", b"Kanaria\xff\xfe\x00\x1b$B\xff")


def _requests(study: str) -> Iterator[tuple[str, str]]:
    """Method and address of requests with the canary in them, right and wrong ones."""
    name, patient_id = quote("Zwitscherling^Kanaria"), PATIENT["PatientID"]
    studies = "/dicom-web/studies"
    for root in ("", "/research/demo"):
        yield "GET", f"{root}{studies}?PatientName={name}"
        yield "GET", f"{root}{studies}?PatientID={patient_id}&PatientBirthDate=19270313"
        yield "GET", f"{root}{studies}?PatientBirthDate=Kanaria"
        yield "GET", f"{root}{studies}?StudyInstanceUID=Kanaria&limit=Kanaria"
        yield "GET", f"{root}{studies}?Kanaria={patient_id}&includefield=Kanaria"
        yield "GET", f"{root}{studies}/{name}"
        yield "GET", f"{root}{studies}/{name}/series/{patient_id}/instances/19270313/metadata"
    yield "GET", f"/api/studies/{patient_id}/results"
    yield "GET", "/api/studies/19270313/results"
    yield "GET", f"/api/jobs?state={name}&study={name}&cursor={name}"
    yield "GET", f"/studies/{name}"
    yield "GET", f"/fragments/study/{name}"
    yield "GET", f"/{name}/{patient_id}"
    yield "DELETE", f"{studies}/{study}?PatientName={name}"
    yield "POST", f"{studies}/{name}"
    yield "PUT", f"/{name}"


def _send_all(node: StartedNode, folder: Path, searched: Searched) -> None:
    """Every object through both doors; what was answered with an error is searched."""
    good = [make.part10_bytes(made) for made in (*_chest(STUDY), *_strange_chests())]
    other_bytes = make.part10_bytes(_spoiled(_chest(STUDY)[0], "ContentLabel"))
    sent = [*good, good[0], other_bytes, *_odd_instances(), *_no_instances()]
    for number, content in enumerate(sent):
        folder.joinpath(f"{number:04}.dcm").write_bytes(content)
    outcomes = node.send([folder])
    assert sum(outcome.is_stored for outcome in outcomes) > len(good)
    for outcome in outcomes:
        searched.search(f"C-STORE {outcome.status}", outcome.comment)
    for content in (*_odd_instances(), *_no_instances(), other_bytes):
        searched.search_answer(_stow(node, content))


def _stow(node: StartedNode, content: bytes) -> httpx.Response:
    headers = {
        "Content-Type": "multipart/related; boundary=Kanaria",
        "Referer": "http://viewer.invalid/?patient=Kanaria",
    }
    part = b"--Kanaria\r\nContent-Type: application/dicom\r\nContent-Location: Kanaria\r\n\r\n"
    body = part + content + b"\r\n--Kanaria--\r\n"
    return node.client.post("/dicom-web/studies", content=body, headers=headers)


def test_the_canary_is_found_nowhere_but_in_store_and_index(tmp_path: Path) -> None:
    searched = Searched()
    sent = tmp_path / "sent"
    sent.mkdir()
    with started_node(tmp_path) as node:
        _send_all(node, sent, searched)
        (run,) = node.wait_for_results(STUDY)
        assert run["state"] == "succeeded"
        wait_for("every job", lambda: not _unfinished(node))
        assert node.json("/dicom-web/studies", PatientName="Zwitscherling*"), "it can be found"
        for method, address in _requests(STUDY):
            answer = node.client.request(method, address)
            assert answer.status_code < 500, (address, answer.text)
            if answer.is_error or answer.request.url.path.startswith("/research"):
                searched.search_answer(answer)
        for address in ("/metrics", "/readyz", "/api/models", "/api/jobs?limit=1000", "/jobs"):
            searched.search_answer(node.client.get(address))
        _search_research(node, searched)
        node.stop()
        for command in (("fsck",), ("scrub",), ("import", str(sent)), ("fsck", "--json")):
            done = node.command(*command)
            searched.search(" ".join(command[:1]), done.stdout + done.stderr)
        _search_files(node, searched)
    assert searched.searched_bytes > 1_000_000
    assert searched.found == [], "\n".join(searched.found[:40])


def _unfinished(node: StartedNode) -> bool:
    counts = node.json("/api/jobs", limit="1000")["jobs"]
    studies = node.json("/api/worklist-status")["studies"].values()
    return any(job["state"] in ("queued", "running") for job in counts) or any(
        study["state"] != "complete" for study in studies
    )


def _search_research(node: StartedNode, searched: Searched) -> None:
    """Whatever the research archive gives away: rows, metadata and every byte of every object."""
    research = DICOMwebClient(node.dicom_web("demo"))
    studies = node.json("/research/demo/dicom-web/studies", includefield="all")
    assert studies
    for row in studies:
        study = row["0020000D"]["Value"][0]
        place = f"/research/demo/dicom-web/studies/{study}"
        for path in ("/series", "/instances", "/metadata"):
            searched.search(path, node.client.get(f"{place}{path}?includefield=all").content)
        for copy in research.iter_study(study):
            searched.search("research copy", make.part10_bytes(copy))
        searched.search("research study", json.dumps(row))
    searched.search("research studies", json.dumps(studies, ensure_ascii=False))


def _search_files(node: StartedNode, searched: Searched) -> None:
    """Names of all files, and the content of those that are neither store nor index."""
    searched.search("log", node.said())
    assert "job 1" in node.said(), "the log says something"
    for path in _files_below([node.data, node.temporary]):
        searched.search("file name", str(path))
        if not _is_store_or_index(path.relative_to(node.data.parent)):
            searched.search(str(path), path.read_bytes())


def _files_below(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file())


def _is_store_or_index(path: Path) -> bool:
    return path.parts[:2] == ("data", "objects") or path.name.startswith("index.db")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb18030", "unicode_escape"])
def test_the_search_would_find_it(encoding: str) -> None:
    searched = Searched()
    searched.search("log", "patient 金絲雀".encode(encoding))
    searched.search("log", base64.b64encode(b"by 19270313 at"))
    assert len(searched.found) >= 2
