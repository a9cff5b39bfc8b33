"""What is committed is what the programme writes."""

from __future__ import annotations

import hashlib
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

import sample_dicom
from sample_dicom.__main__ import all_files

FOLDER = Path(sample_dicom.__file__).parent
TOTAL_BYTES_MAX = 9_000_000
LOSSY_DIFFERENCE_MAX = 4  # between two versions of a lossy encoder, in grey values


@pytest.fixture(scope="module")
def written() -> dict[str, bytes]:
    return dict(all_files())


def committed() -> dict[str, bytes]:
    data = set(FOLDER.rglob("*.dcm")) | {FOLDER / "README.md", FOLDER / "SHA256SUMS"}
    return {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in data}


def inflated(file: bytes) -> bytes:
    end_of_meta = 144 + int.from_bytes(file[140:144], "little")
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(file[end_of_meta:])


def assert_same_picture(one: bytes, other: bytes) -> None:
    first, second = dcmread(BytesIO(one)), dcmread(BytesIO(other))
    assert first.SOPInstanceUID == second.SOPInstanceUID
    difference = first.pixel_array.astype(np.int64) - second.pixel_array
    allowed = LOSSY_DIFFERENCE_MAX if first.get("LossyImageCompression") == "01" else 0
    assert abs(difference).max() <= allowed


def test_no_file_is_missing_and_none_is_left_over(written: dict[str, bytes]) -> None:
    assert committed().keys() == written.keys()


def test_every_file_is_written_again_byte_for_byte(written: dict[str, bytes]) -> None:
    """Where a library encodes, another version of it may choose other bytes for the same content.

    The digests in SHA256SUMS are then others too.
    """
    differ = {path for path, content in committed().items() if written[path] != content}
    for path in differ - {"SHA256SUMS"}:
        old, new = (FOLDER / path).read_bytes(), written[path]
        if path.startswith("compressed/"):
            assert_same_picture(old, new)
        else:
            assert path == "odd/deflate_bomb.dcm", f"{path} is stale: run python -m sample_dicom"
            assert inflated(old) == inflated(new)


def test_the_digests_are_those_of_the_files() -> None:
    digests = {
        f"{hashlib.sha256(content).hexdigest()}  {path}"
        for path, content in committed().items()
        if path.endswith(".dcm")
    }
    assert set((FOLDER / "SHA256SUMS").read_text().splitlines()) == digests


def test_all_is_small_enough_to_commit() -> None:
    assert sum(map(len, committed().values())) < TOTAL_BYTES_MAX
