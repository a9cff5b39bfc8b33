"""ZIP archives and DICOMDIR: streamed, without a patient's name, and read by others."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ComprehensiveSRStorage

from pacs.archive import Scope
from tests import make
from tests.unit.web.node import TESTER, Served, serving
from web.dicomweb.media import ZIP64_BYTES_MIN, zipped

STUDY = make.uid("study")


def report() -> Dataset:
    made = make.data_set(9, series_instance_uid=make.uid("report"), modality="SR", SeriesNumber=9)
    made.SOPClassUID = ComprehensiveSRStorage
    del made.PixelData
    made.ContentDate, made.ContentTime = "20240229", "101500"
    made.CompletionFlag, made.VerificationFlag = "COMPLETE", "UNVERIFIED"
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "1", "99TEST", "Title"
    made.ConceptNameCodeSequence = DicomSequence([title])
    return made


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as served:
        name = {"patient_name": "Wang^XiaoDong=王^小東", "SpecificCharacterSet": "ISO_IR 192"}
        for made in (*make.study(3, series=2, **name), report()):
            served.archive.store(TESTER, make.incoming(made))
        yield served


def zip_of(answer: httpx.Response) -> zipfile.ZipFile:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    return zipfile.ZipFile(io.BytesIO(answer.content))


def get(node: Served, path: str, accept: str = "application/zip") -> httpx.Response:
    return node.client.get(path, headers={"Accept": accept})


def scopes(node: Served) -> Iterator[tuple[str, int]]:
    one = node.archive.retrieve(TESTER, Scope(STUDY))[0]
    study = f"/dicom-web/studies/{STUDY}"
    series = f"{study}/series/{one.series_instance_uid}"
    yield from ((study, 7), (series, 3), (f"{series}/instances/{one.sop_instance_uid}", 1))


def test_a_zip_holds_the_files_as_they_are_stored(node: Served) -> None:
    held = {
        f"{one.study_instance_uid}/{one.series_instance_uid}/{one.sop_instance_uid}.dcm": one
        for one in node.archive.retrieve(TESTER, Scope(STUDY))
    }
    for path, count in scopes(node):
        found = zip_of(get(node, path))
        assert found.testzip() is None
        assert len(found.namelist()) == count
        for name in found.namelist():
            assert found.read(name) == node.archive.read(held[name])


def test_the_same_instances_give_the_same_archive(node: Served) -> None:
    first, second = (get(node, f"/dicom-web/studies/{STUDY}") for _ in range(2))
    assert first.content == second.content
    assert first.headers["etag"] == second.headers["etag"]
    assert b"Wang" not in first.headers.get("content-disposition", "").encode()


def test_a_named_transfer_syntax_is_had_in_a_zip_as_well(node: Served) -> None:
    accept = f"application/zip; transfer-syntax={make.EXPLICIT}"
    assert len(zip_of(get(node, f"/dicom-web/studies/{STUDY}", accept)).namelist()) == 7
    refused = get(node, f"/dicom-web/studies/{STUDY}", "application/zip; transfer-syntax=1.2.3")
    assert refused.status_code == 406
    assert "application/zip" in refused.json()["detail"]


def test_a_dicomdir_lists_every_file_of_the_archive(node: Served, tmp_path: Path) -> None:
    answer = get(node, f"/dicom-web/studies/{STUDY}?dicomdir=true")
    found = zip_of(answer)
    found.extractall(tmp_path)
    assert found.namelist()[0] == "DICOMDIR"
    directory = dcmread(tmp_path / "DICOMDIR")
    (patient,) = walked(directory, directory[0x00041200].value)
    assert patient.PatientName == "Wang^XiaoDong=王^小東"
    (study,) = walked(directory, patient[0x00041420].value)
    assert study.StudyInstanceUID == STUDY
    series = walked(directory, study[0x00041420].value)
    assert [one.Modality for one in series] == ["CT", "CT", "SR"]
    listed = [file for one in series for file in walked(directory, one[0x00041420].value)]
    assert [one.DirectoryRecordType for one in listed] == ["IMAGE"] * 6 + ["SR DOCUMENT"]
    for one in listed:
        file = dcmread(tmp_path.joinpath(*one.ReferencedFileID))
        assert file.SOPInstanceUID == one.ReferencedSOPInstanceUIDInFile
        assert file.file_meta.TransferSyntaxUID == one.ReferencedTransferSyntaxUIDInFile


def walked(directory: Dataset, offset: int) -> list[Dataset]:
    """The records that follow one from another, by where they stand in the file."""
    at = {record.seq_item_tell: record for record in directory.DirectoryRecordSequence}
    found = []
    while offset:
        found.append(at[offset])
        offset = found[-1].OffsetOfTheNextDirectoryRecord
    return found


def test_file_ids_are_short_and_tell_nothing(node: Served) -> None:
    found = zip_of(get(node, f"/dicom-web/studies/{STUDY}?dicomdir=true"))
    for name in found.namelist():
        assert all(len(part) <= 8 and part.isalnum() and part.isupper() for part in name.split("/"))


def test_dicomdir_is_true_or_false(node: Served) -> None:
    assert get(node, f"/dicom-web/studies/{STUDY}?dicomdir=yes").status_code == 400


def test_an_archive_is_written_while_it_is_read() -> None:
    opened: list[int] = []

    def chunks(number: int) -> Iterator[bytes]:
        opened.append(number)
        yield from (b"x" * 1000 for _ in range(10))

    body = zipped((f"{n}", 10_000, chunks(n)) for n in range(100))
    next(body)
    assert opened == [0]
    assert all(len(piece) < 10_000 for piece in body)


def test_a_file_that_may_be_long_has_room_for_its_size() -> None:
    content = b"".join(zipped([("long", ZIP64_BYTES_MIN, iter([b"short"]))]))
    with zipfile.ZipFile(io.BytesIO(content)) as found:
        assert found.read("long") == b"short"


def test_an_archive_that_breaks_off_has_no_end() -> None:
    def broken() -> Iterator[bytes]:
        yield b"begun"
        raise OSError

    content = bytearray()
    with suppress(OSError):
        for piece in zipped([("file", 10, broken())]):
            content += piece
    assert content
    assert not zipfile.is_zipfile(io.BytesIO(content))
