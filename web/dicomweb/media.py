"""Instances as a ZIP archive (PS3.18 8.7.3.6; PS3.10 annex V), streamed and never whole in memory.

Names in it are UIDs, or, where a DICOMDIR is asked for, those short ones that a file-set may have
(PS3.10 8.2): nothing of a patient. Files are not compressed, since pixels hardly shrink, and bear no
time, so the same instances give the same bytes.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pacs.archive import Instance
from pacs.archive.series_metadata import metadata_of
from pacs.archive.values import Scope
from pacs.dicom.dicomdir import FileEntry, dicomdir
from web.dicomweb.door import Door

ZIP: Final = "application/zip"
ZIP64_BYTES_MIN: Final = 1 << 31  # a file that may be longer gets the longer form of its sizes

# A file's name, the most bytes it may have, and its content.
File = tuple[str, int, Iterator[bytes]]


def zipped(files: Iterable[File]) -> Iterator[bytes]:
    """A ZIP archive in chunks. Where a file raises, the directory at its end is missing."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, bytes_max, chunks in files:
            with archive.open(
                zipfile.ZipInfo(name), "w", force_zip64=bytes_max >= ZIP64_BYTES_MIN
            ) as target:
                for chunk in chunks:
                    target.write(chunk)
                    yield from sink.taken()
    yield from sink.taken()


class _Sink(io.RawIOBase):
    """What was written and not yet sent."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override] # zipfile writes bytes alone
        self._held.append(bytes(data))
        return len(data)

    def taken(self) -> Iterator[bytes]:
        held, self._held = self._held, []
        if held:
            yield b"".join(held)


def names(instances: Sequence[Instance]) -> list[str]:
    """A name for each file: its UIDs."""
    return [
        f"{one.study_instance_uid}/{one.series_instance_uid}/{one.sop_instance_uid}.dcm"
        for one in instances
    ]


def file_ids(instances: Sequence[Instance]) -> list[str]:
    """A file ID for each file, of components of eight capital letters and digits (PS3.10 8.2)."""
    series = {
        uid: n for n, uid in enumerate(dict.fromkeys(i.series_instance_uid for i in instances))
    }
    return [
        f"DICOM/S{series[one.series_instance_uid]:07d}/I{number:07d}"
        for number, one in enumerate(instances)
    ]


def directory(door: Door, scope: Scope, listed: Sequence[tuple[str, str, str]]) -> bytes:
    """The DICOMDIR of files, each given by its file ID, its digest and its transfer syntax."""
    lines = {
        digest: line
        for outline in door.archive.outlines(door.actor, scope)
        for kept in (metadata_of(door.archive, outline),)
        for digest, line in zip(kept.digests, kept.lines(), strict=True)
    }
    return dicomdir(
        [
            FileEntry(tuple(file_id.split("/")), syntax, json.loads(lines[digest]))
            for file_id, digest, syntax in listed
            if digest in lines
        ]
    )
