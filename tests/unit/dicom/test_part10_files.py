"""Part 10 files taken apart and put together."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import pydicom
import pytest
from pydicom import dcmread

from pacs.dicom import uids
from pacs.dicom.part10 import META_BYTES_MAX, preamble_and_meta, read_part10
from pacs.errors import BadObject, Exhausted
from tests import make


def meta(private: dict[str, object] | None = None, source_ae_title: str = "") -> bytes:
    return preamble_and_meta(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid="1.2.3",
        transfer_syntax_uid=make.EXPLICIT,
        source_ae_title=source_ae_title,
        private=private,
    )


def test_a_file_of_ours_comes_apart_as_it_was_put_together() -> None:
    file = read_part10(meta({"received_at": 1.5}) + b"data set")
    assert bytes(file.data_set) == b"data set"
    assert file.data_set_offset == len(meta({"received_at": 1.5}))
    assert (file.sop_class_uid, file.sop_instance_uid) == ("1.2.840.10008.5.1.4.1.1.2", "1.2.3")
    assert file.transfer_syntax_uid == make.EXPLICIT
    assert file.private == {"received_at": 1.5}


def test_pydicom_reads_a_file_of_ours() -> None:
    made = make.data_set()
    file = dcmread(io.BytesIO(meta({"a": 1}, "SCANNER") + make.data_set_bytes(made)))
    assert file.file_meta.SourceApplicationEntityTitle == "SCANNER"
    assert file.file_meta.ImplementationClassUID == uids.IMPLEMENTATION_CLASS_UID
    assert file.preamble == bytes(128)
    assert file == made


@pytest.mark.filterwarnings("ignore:Expected explicit VR")  # pydicom's, of a mislabelled file
@pytest.mark.parametrize(
    "path",
    sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")),
    ids=lambda path: path.name,
)
def test_files_of_others_come_apart_where_pydicom_says(path: Path) -> None:
    content = path.read_bytes()
    if content[128:132] != b"DICM":
        with pytest.raises(BadObject, match="DICM"):
            read_part10(content)
        return
    known = dcmread(path, stop_before_pixels=True).file_meta
    if "TransferSyntaxUID" not in known:
        with pytest.raises(BadObject, match="transfer syntax"):
            read_part10(content)
        return
    file = read_part10(content)
    assert file.transfer_syntax_uid == known.TransferSyntaxUID
    assert file.sop_instance_uid == known.get("MediaStorageSOPInstanceUID", "")
    assert file.private == {}


def test_private_information_of_others_is_not_believed() -> None:
    other = meta({"received_at": 1}).replace(
        uids.PRIVATE_INFORMATION_CREATOR_UID.encode(),
        uids.PRIVATE_INFORMATION_CREATOR_UID.replace("2.25", "2.26").encode(),
    )
    assert read_part10(other).private == {}


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "1" * 5000, '"text"', "\xff"])
def test_private_information_that_is_forged_is_left_out(text: str) -> None:
    value = text.encode("latin-1") + b" " * (len(text) % 2)
    honest, forged = b'{"a":1}\0', value
    file = meta({"a": 1})
    at = file.index(honest)
    file = file[: at - 4] + struct.pack("<I", len(forged)) + forged + file[at + len(honest) :]
    assert read_part10(file + make.data_set_bytes(make.data_set())).private == {}


def test_private_information_that_does_not_fit_is_refused() -> None:
    with pytest.raises(Exhausted):
        meta({"a": "x" * META_BYTES_MAX})


def test_an_ae_title_is_cut_to_sixteen_characters() -> None:
    assert b"ABCDEFGHIJKLMNOP" in meta(source_ae_title="ABCDEFGHIJKLMNOPQ")
    assert b"ABCDEFGHIJKLMNOPQ" not in meta(source_ae_title="ABCDEFGHIJKLMNOPQ")


def test_an_endless_meta_group_is_refused() -> None:
    filler = struct.pack("<HH2sHI", 2, 0x0102, b"OB", 0, META_BYTES_MAX + 2)
    with pytest.raises(BadObject, match="too long"):
        read_part10(bytes(128) + b"DICM" + filler + bytes(META_BYTES_MAX + 2))


def test_cut_and_spoiled_files_are_taken_apart_or_refused() -> None:
    whole = meta({"a": 1}, "SCANNER") + make.data_set_bytes(make.data_set())
    for cut in range(500):
        assert comes_apart_or_is_refused(whole[:cut])
    chance = random.Random(1)
    for _ in range(2000):
        spoiled = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            spoiled[chance.randrange(500)] = chance.randrange(256)
        assert comes_apart_or_is_refused(bytes(spoiled))


def comes_apart_or_is_refused(content: bytes) -> bool:
    try:
        return len(read_part10(content).data_set) < len(content)
    except BadObject:
        return True
