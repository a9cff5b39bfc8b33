"""Whatever a frame does to a decoding process, the next frame is decoded."""

from __future__ import annotations

import os
import random
import signal
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.encaps import generate_frames

from pacs.decode import Decoder, ImagePixel
from pacs.errors import BadObject, Exhausted, NodeError

FILES = Path(str(pydicom.__file__)).parent / "data" / "test_files"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
RLE = "1.2.840.10008.1.2.5"
DEFLATED_IMAGE_FRAME = "1.2.840.10008.1.2.8.1"
SMALL = ImagePixel(64, 64, 1, 16, 16, 1, "MONOCHROME2")

ONE_OF_EACH_CODEC = (
    *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm"),
    *("SC_rgb_jpeg_dcmtk.dcm", "MR_small_RLE.dcm", "JPGExtended.dcm"),
)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(children_max=1, request_s_max=20) as decoder:
        yield decoder


def first_frame(name: str) -> tuple[ImagePixel, str, bytes]:
    data_set = pydicom.dcmread(FILES / name)
    image = ImagePixel(
        data_set.Rows,
        data_set.Columns,
        data_set.SamplesPerPixel,
        data_set.BitsAllocated,
        data_set.BitsStored,
        data_set.PixelRepresentation,
        data_set.PhotometricInterpretation,
        data_set.get("PlanarConfiguration") or 0,
    )
    encoded = next(generate_frames(data_set.PixelData, number_of_frames=1))
    return image, str(data_set.file_meta.TransferSyntaxUID), encoded


def assert_still_decoding(decoder: Decoder) -> None:
    image, transfer_syntax_uid, encoded = first_frame("MR_small_jp2klossless.dcm")
    native = pydicom.dcmread(FILES / "MR_small.dcm").PixelData
    assert decoder.frames(image, transfer_syntax_uid, [encoded]).frames == [native]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 65535, "columns": 65535},
        {"rows": 0},
        {"bits_allocated": 255},
        {"bits_stored": 17},
        {"samples_per_pixel": 60000},
    ],
)
def test_absurd_image_attributes_are_refused_before_decoding(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadObject):
        replace(SMALL, **wrong)


@pytest.mark.parametrize("name", ONE_OF_EACH_CODEC)
@pytest.mark.parametrize("kept", [0.02, 0.6])
def test_a_frame_cut_short_is_refused_never_filled_up(
    decoder: Decoder, name: str, kept: float
) -> None:
    image, transfer_syntax_uid, encoded = first_frame(name)
    with pytest.raises(BadObject):
        decoder.frames(image, transfer_syntax_uid, [encoded[: int(kept * len(encoded))]])
    assert_still_decoding(decoder)


@pytest.mark.parametrize("name", ONE_OF_EACH_CODEC)
def test_a_mutated_frame_gives_samples_or_an_error_of_ours(decoder: Decoder, name: str) -> None:
    image, transfer_syntax_uid, encoded = first_frame(name)
    chance = random.Random(name)
    for _ in range(40):
        mutated = bytearray(encoded)
        for _ in range(chance.choice((1, 5, 50))):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        try:
            found = decoder.frames(image, transfer_syntax_uid, [bytes(mutated)])
        except NodeError:
            continue
        assert [len(frame) for frame in found.frames] == [image.frame_bytes]
    assert_still_decoding(decoder)


def test_a_codestream_of_another_size_is_refused(decoder: Decoder) -> None:
    """JPEG 2000 that claims 60,000 × 60,000 pixels for an image of 64 × 64."""
    image, transfer_syntax_uid, encoded = first_frame("MR_small_jp2klossless.dcm")
    bomb = encoded[:8] + struct.pack(">II", 60_000, 60_000) + encoded[16:]
    with pytest.raises(BadObject, match="another size"):
        decoder.frames(image, transfer_syntax_uid, [bomb])


@pytest.mark.parametrize("segments", [0, 1, 3, 16, 0xFFFFFFFF])
def test_an_rle_header_that_lies_is_refused(decoder: Decoder, segments: int) -> None:
    header = struct.pack("<16I", segments, *([64] * 15))
    with pytest.raises(BadObject):
        decoder.frames(SMALL, RLE, [header + b"\x81\0" * 200])
    assert_still_decoding(decoder)


def test_a_deflated_frame_is_inflated_to_its_size_and_no_further(decoder: Decoder) -> None:
    def deflated(raw: bytes) -> bytes:
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return deflater.compress(raw) + deflater.flush()

    right = bytes(SMALL.frame_bytes)
    assert decoder.frames(SMALL, DEFLATED_IMAGE_FRAME, [deflated(right)]).frames == [right]
    with pytest.raises(BadObject, match="another size"):
        decoder.frames(SMALL, DEFLATED_IMAGE_FRAME, [deflated(bytes(200_000_000))])


def test_a_child_killed_at_work_costs_one_request(decoder: Decoder) -> None:
    assert_still_decoding(decoder)
    child = decoder._free.queue[-1]
    assert child is not None
    os.kill(child._process.pid, signal.SIGSTOP)  # so that it is surely in the middle
    killer = threading.Timer(0.2, os.kill, (child._process.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(BadObject, match="ended the process"):
        assert_still_decoding(decoder)
    killer.join()
    assert_still_decoding(decoder)


def test_a_child_that_hangs_is_killed_at_the_time_limit() -> None:
    with Decoder(children_max=1, request_s_max=2) as decoder:
        assert_still_decoding(decoder)
        child = decoder._free.queue[-1]
        assert child is not None
        os.kill(child._process.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(Exhausted, match="too long"):
            assert_still_decoding(decoder)
        assert time.monotonic() - began < 4
        assert child._process.returncode is not None
        assert_still_decoding(decoder)


def test_an_rle_bomb_reaches_the_memory_limit_of_its_child_alone() -> None:
    """Two segments of a million runs each would grow to half a gigabyte before they are cut."""
    header = struct.pack("<16I", 2, 64, 64 + 2_000_000, *([0] * 13))
    with Decoder(children_max=1, memory_bytes_max=256 << 20) as decoder:
        with pytest.raises((BadObject, Exhausted)):
            decoder.frames(SMALL, RLE, [header + b"\x81\0" * 2_000_000])
        assert_still_decoding(decoder)


def test_a_child_can_open_nothing(decoder: Decoder) -> None:
    """With three descriptors in use and three allowed, no file and no socket can be opened."""
    assert_still_decoding(decoder)
    child = decoder._free.queue[-1]
    assert child is not None
    folder = Path("/proc") / str(child._process.pid)
    if not folder.exists():
        pytest.skip("the limits of another process can be read on Linux alone")
    limits = (folder / "limits").read_text().splitlines()
    rows = {line[:26].strip(): line[26:].split()[:2] for line in limits}
    assert rows["Max open files"] == ["3", "3"]
    assert rows["Max file size"] == ["0", "0"]
    assert {int(name.name) for name in (folder / "fd").iterdir()} >= {0, 1, 2}
    assert b"ISOCENTER" not in (folder / "environ").read_bytes()


def test_threads_share_the_pool() -> None:
    image, transfer_syntax_uid, encoded = first_frame("MR_small_jpeg_ls_lossless.dcm")
    native = pydicom.dcmread(FILES / "MR_small.dcm").PixelData
    answers: list[bytes] = []

    def decode_many(decoder: Decoder) -> None:
        for _ in range(20):
            answers.extend(decoder.frames(image, transfer_syntax_uid, [encoded]).frames)

    with Decoder(children_max=2) as decoder:
        threads = [threading.Thread(target=decode_many, args=(decoder,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [native] * 80
