"""Where bytes wait until they are judged: in memory while they are few, then in a nameless file.

The file has no name from its first moment, so a broken connection, a kill or a power cut leaves
nothing to tidy; it is gone with the last who reads it. What cannot be taken is counted and not
kept, so that a sender may be read to its end and be told why.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from io import BytesIO
from pathlib import Path
from typing import IO, Final

from pacs.errors import Exhausted
from pacs.store.files import FREE_BYTES_MIN

MEMORY_BYTES_MAX: Final = 8 << 20  # of one spool; more goes to its file in steps of this size

Buffer = memoryview | mmap.mmap


class Spool:
    """The bytes of one object while they arrive.

    `folder` is where its file lies, None for the system's own; with less than `free_bytes_min` free
    there, no more is taken.
    """

    def __init__(
        self,
        bytes_max: int,
        folder: Path | None = None,
        *,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        free_bytes_min: int = FREE_BYTES_MIN,
    ) -> None:
        self.size_bytes = 0
        self._bytes_max = bytes_max
        self._memory_bytes_max = memory_bytes_max
        self._free_bytes_min = free_bytes_min
        self._folder = folder
        self._memory = BytesIO()
        self._file: IO[bytes] | None = None
        self._refusal: Exhausted | None = None

    def add(self, data: bytes | memoryview) -> None:
        """Append data. Once a limit is passed, all is dropped and what still comes is counted."""
        self.size_bytes += len(data)
        if self.size_bytes > self._bytes_max and self._refusal is None:
            self._refuse(
                Exhausted("the data set is larger than this node takes", bytes_max=self._bytes_max)
            )
        if self._refusal is not None:
            return
        if self._memory.tell() + len(data) > self._memory_bytes_max:
            self._spill()
        self._memory.write(data)

    def buffer(self) -> Buffer:
        """All bytes; of a file they are mapped, not read. Raises Exhausted for what was dropped."""
        if self._file is not None:
            self._spill()
        if self._refusal is not None:
            raise self._refusal
        if self._file is None:
            return self._memory.getbuffer()
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def close(self) -> None:
        """Give the bytes back. A buffer still in use stays readable."""
        self._memory = BytesIO()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _refuse(self, refusal: Exhausted) -> None:
        self._refusal = refusal
        self.close()

    def _spill(self) -> None:
        """Move what is in memory to the file."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - it lives as long as the spool
            disk = os.fstatvfs(self._file.fileno())
            if disk.f_bavail * disk.f_frsize < self._free_bytes_min:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rest = self._memory.getbuffer()
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            refusal = Exhausted("the spool folder takes no more", errno=error.errno or 0)
            refusal.__cause__ = error
            self._refuse(refusal)
            return
        self._memory = BytesIO()
