"""Mapped files are read without becoming resident."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pacs.dicom.mapped import WINDOW_BYTES, forget, windows


@contextmanager
def mapped(size_bytes: int) -> Iterator[mmap.mmap]:
    """A file of so many bytes, mapped for reading."""
    with tempfile.TemporaryFile() as file:
        for start in range(0, size_bytes, 1 << 20):
            file.write(bytes([start >> 20 & 0xFF]) * min(1 << 20, size_bytes - start))
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
            yield mapping


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("size", [0, 1, WINDOW_BYTES, WINDOW_BYTES + 1])
def test_windows_together_are_the_buffer(size: int) -> None:
    content = os.urandom(size)
    assert b"".join(windows(content)) == content
    assert b"".join(windows(memoryview(content)[1:])) == content[1:]


def test_a_mapped_file_is_read_whole_and_never_resident_whole() -> None:
    size = 10 * WINDOW_BYTES
    with mapped(size) as mapping:
        before, most, digest = resident_bytes(), 0, hashlib.sha256()
        for window in windows(memoryview(mapping)[100:]):
            digest.update(window)
            most = max(most, resident_bytes())
            window.release()
        assert most - before < 3 * WINDOW_BYTES
        assert digest.digest() == hashlib.sha256(mapping[100:]).digest()


def test_what_was_written_into_a_private_mapping_is_not_forgotten() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(8_192))
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapping:
            mapping[:4] = b"kept"
            view = memoryview(mapping)
            forget(view)
            view.release()
            assert mapping[:4] == b"kept"
