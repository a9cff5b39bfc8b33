"""The embedded back end: one file per object, below folders of 256.

An object is written to a temporary file, synced, renamed to its digest, and the folder synced:
only then is it kept (PostgreSQL once missed the folder). A sync that fails is never retried and
believed, since the kernel may have dropped the pages; the object counts as not kept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pacs.dicom.mapped import windows
from pacs.errors import Exhausted, Missing, NodeError, Unreachable
from pacs.store import CHUNK_BYTES, Blob, Piece, is_digest

INCOMING_AGE_S: Final = 3_600.0  # no write takes longer; what is older was left behind
FREE_BYTES_MIN: Final = 256 << 20  # below this much free room new objects are refused

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FileStore:
    """Objects as files below a folder of ours."""

    def __init__(self, folder: Path, *, free_bytes_min: int = FREE_BYTES_MIN) -> None:
        self._folder = folder
        self._incoming = folder / "incoming"
        self._free_bytes_min = free_bytes_min
        _make_durable_folder(self._incoming)
        for n in range(256):
            (folder / f"{n:02x}").mkdir(exist_ok=True)
        _sync_folder(folder)

    def put(self, pieces: Sequence[Piece]) -> Blob:
        """Keep the pieces: file synced, renamed, folder synced. Raises Exhausted, Unreachable."""
        self.check()
        try:
            return self._write(pieces)
        except OSError as error:
            raise _translated(error) from error

    def _write(self, pieces: Sequence[Piece]) -> Blob:
        handle, name = tempfile.mkstemp(dir=self._incoming)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                for piece in pieces:
                    for window in windows(piece):
                        _write_all(file.fileno(), window)
                _begin_writeback(file.fileno())
                blob = _blob(pieces)
                os.fsync(file.fileno())
            target = self._path(blob.digest)
            os.rename(name, target)  # noqa: PTH104 - one system call, on the path of every instance
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)
        return blob

    def read(self, digest: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """The bytes of an object or a range of it. Raises Missing."""
        chunks = _chunks(self._path(digest), start, size)
        next(chunks)
        return chunks

    def delete(self, digest: str) -> None:
        """Forget an object, durably."""
        path = self._path(digest)
        try:
            path.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except OSError as error:
            raise _translated(error) from error

    def digests(self) -> Iterator[str]:
        """Every object's digest."""
        for n in range(256):
            try:
                names = os.listdir(self._folder / f"{n:02x}")  # noqa: PTH208 - names are wanted
            except OSError as error:
                raise _translated(error) from error
            yield from (name for name in names if is_digest(name))

    def check(self) -> None:
        """Return if there is room. Raises Exhausted or Unreachable."""
        try:
            disk = os.statvfs(self._folder)
        except OSError as error:
            raise _translated(error) from error
        free = disk.f_bavail * disk.f_frsize
        if free < self._free_bytes_min:
            raise Exhausted("the store's disk is nearly full", free_bytes=free)

    def tidy(self) -> int:
        """Remove what killed processes left half-written long enough ago; how many."""
        oldest = time.time() - INCOMING_AGE_S
        left = [path for path in self._incoming.iterdir() if path.stat().st_mtime < oldest]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def _path(self, digest: str) -> Path:
        assert is_digest(digest), "keys are digests"
        return self._folder / digest[:2] / digest


def _blob(pieces: Sequence[Piece]) -> Blob:
    digest = hashlib.sha256()
    for piece in pieces:
        for window in windows(piece):
            digest.update(window)
    return Blob(digest.hexdigest(), sum(len(piece) for piece in pieces))


def _begin_writeback(handle: int) -> None:
    """Let the disk begin while the digest is computed; the sync then finds less to do."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def _write_all(handle: int, view: memoryview) -> None:
    while view:
        view = view[os.write(handle, view) :]


def _chunks(path: Path, start: int, size: int | None) -> Iterator[bytes]:
    """An empty chunk, then those of the file; who drops it after the first closes the file."""
    left = sys.maxsize if size is None else size
    try:
        with path.open("rb", buffering=0) as file:
            yield b""
            file.seek(start)
            while chunk := file.read(min(CHUNK_BYTES, left)):
                left -= len(chunk)
                yield chunk
    except FileNotFoundError as error:
        raise Missing("the store has no such object", digest=path.name) from error
    except OSError as error:
        raise _translated(error) from error


def _make_durable_folder(folder: Path) -> None:
    """Make a folder and sync every parent that had to be made, so that none is lost."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _translated(error: OSError) -> NodeError:
    if error.errno in _NO_ROOM:
        return Exhausted("the store's disk is full")
    return Unreachable("the store's disk failed", errno=error.errno or 0)
