"""Spools: what went in comes out, from memory or from a file without a name."""

from __future__ import annotations

import mmap
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.errors import Exhausted
from pacs.store.spool import Spool


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def files_no_longer_than(size_bytes: int) -> Iterator[None]:
    """A disk that takes no more of one file, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@given(pieces=st.lists(st.binary(max_size=40), max_size=12), memory=st.integers(0, 60))
def test_what_goes_in_comes_out_in_order(pieces: list[bytes], memory: int) -> None:
    spool = Spool(1_000, memory_bytes_max=memory)
    for piece in pieces:
        spool.add(memoryview(piece))
    assert bytes(spool.buffer()) == b"".join(pieces)
    assert spool.size_bytes == len(b"".join(pieces))
    spool.close()


def test_what_is_long_lies_in_a_file_that_nobody_can_name(tmp_path: Path) -> None:
    spool = Spool(1_000_000, tmp_path, memory_bytes_max=1_000)
    for _ in range(50):
        spool.add(bytes(777))
    mapped = spool.buffer()
    assert isinstance(mapped, mmap.mmap)
    assert len(mapped) == 50 * 777
    assert list(tmp_path.iterdir()) == []
    spool.close()
    assert mapped[:777] == bytes(777)


def test_what_is_short_never_becomes_a_file(tmp_path: Path) -> None:
    spool = Spool(1_000_000, tmp_path / "is not there")
    spool.add(b"short")
    assert bytes(spool.buffer()) == b"short"


def test_what_is_too_long_is_dropped_and_counted(tmp_path: Path) -> None:
    before = descriptors_open()
    spool = Spool(5_000, tmp_path, memory_bytes_max=1_000)
    for _ in range(10):
        spool.add(bytes(700))
    assert descriptors_open() == before
    with pytest.raises(Exhausted, match="larger than this node takes"):
        spool.buffer()
    assert spool.size_bytes == 7_000


def test_a_disk_that_takes_no_more_drops_the_spool(tmp_path: Path) -> None:
    before = descriptors_open()
    with files_no_longer_than(100_000):
        spool = Spool(1_000_000, tmp_path, memory_bytes_max=60_000)
        for _ in range(40):
            spool.add(bytes(10_000))
    assert descriptors_open() == before
    with pytest.raises(Exhausted, match="takes no more"):
        spool.buffer()


def test_the_last_bytes_may_be_those_that_do_not_fit(tmp_path: Path) -> None:
    spool = Spool(1_000_000, tmp_path, memory_bytes_max=60_000)
    spool.add(bytes(60_000))
    spool.add(bytes(60_000))
    with files_no_longer_than(100_000), pytest.raises(Exhausted):
        spool.buffer()


@pytest.mark.parametrize("folder", ["is not there", ""])
def test_a_spool_without_room_is_refused(tmp_path: Path, folder: str) -> None:
    spool = Spool(1_000, tmp_path / folder, memory_bytes_max=10, free_bytes_min=1 << 62)
    spool.add(bytes(100))
    with pytest.raises(Exhausted):
        spool.buffer()


def test_a_spool_that_is_dropped_closes_its_file(tmp_path: Path) -> None:
    before = descriptors_open()
    spool = Spool(1_000, tmp_path, memory_bytes_max=10)
    spool.add(bytes(100))
    spool.add(bytes(100))
    assert descriptors_open() == before + 1
    spool.close()
    spool.close()
    assert descriptors_open() == before
