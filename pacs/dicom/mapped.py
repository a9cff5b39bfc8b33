"""Buffers that may be mapped files, read without keeping them in memory.

Pages of a mapped file count as resident memory of ours from the moment they are read until the
kernel wants them back. Whoever walks through gigabytes gives them back as he goes; they are still
there to be read again.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Final

WINDOW_BYTES: Final = 8 << 20  # read at a time; of a mapped file no more is resident

_DONTNEED: Final = getattr(mmap, "MADV_DONTNEED", None)


def forget(view: memoryview) -> None:
    """Give back the pages of the file that view is mapped from; nothing for any other buffer.

    A mapping that may be written is left alone: a private one would lose what was written, and one
    of no file everything.
    """
    mapping = view.obj
    if isinstance(mapping, mmap.mmap) and view.readonly and _DONTNEED is not None:
        mapping.madvise(_DONTNEED)


def windows(buffer: bytes | bytearray | memoryview | mmap.mmap) -> Iterator[memoryview]:
    """The buffer in pieces of WINDOW_BYTES, each forgotten when the next one is asked for."""
    view = memoryview(buffer)
    for start in range(0, len(view), WINDOW_BYTES):
        yield view[start : start + WINDOW_BYTES]
        if len(view) > WINDOW_BYTES:
            forget(view)
