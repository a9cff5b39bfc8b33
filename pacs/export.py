"""A folder of Part 10 files: instances out of an archive, or from a peer past it.

Names are numbers in the order of arrival, `ST000001/SE000001/IM000001.dcm`: they say nothing of a
patient, and nothing that a peer says becomes part of a path. A file appears under its name whole
and synced, or not at all.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from pacs.access import Actor
from pacs.archive import Archive, Incoming, Instance, Scope
from pacs.archive.ingest import examine
from pacs.dicom.attributes import Level
from pacs.dicom.mapped import windows
from pacs.dicom.part10 import preamble_and_meta
from pacs.errors import BadQuery, Exhausted, NodeError

NAMES_MAX: Final = 999_999  # studies, series of one and instances of one: six digits; more: refused

_INCOMING: Final = ".incoming-"  # the name of what is not whole yet begins so


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of one instance: the name of its file, or why there is none."""

    sop_instance_uid: str
    name: str = ""
    reason: str = ""


class Folder:
    """A folder that is new or empty, while files are written into it."""

    def __init__(self, folder: Path) -> None:
        """Make the folder. Raises BadQuery where it holds something, or cannot be made."""
        self.path = folder
        self._numbers: dict[tuple[str, ...], int] = {}  # what has a number -> its number
        self._counts: dict[tuple[str, ...], int] = {}  # what holds numbers -> the last one given
        try:
            folder.mkdir(parents=True, exist_ok=True)
            is_empty = not any(folder.iterdir())
        except OSError as error:
            raise BadQuery("the folder cannot be made or read") from error
        if not is_empty:
            raise BadQuery("the folder is not empty")

    def keep(self, incoming: Incoming, expect: Mapping[str, str]) -> str:
        """Write an instance that a peer sent. Raises BadObject, and Mismatch if not as expected."""
        examined = examine(incoming, expect)
        series = examined.values[Level.SERIES]["SeriesInstanceUID"]
        study = examined.values[Level.STUDY]["StudyInstanceUID"]
        meta = _meta(
            examined.values[Level.INSTANCE]["SOPClassUID"],
            examined.sop_instance_uid,
            incoming.transfer_syntax_uid,
        )
        self.write((study, series), examined.sop_instance_uid, meta, windows(incoming.data_set))
        return ""

    def write(
        self,
        series: tuple[str, str],
        sop_instance_uid: str,
        meta: bytes,
        data_set: Iterable[bytes | memoryview],
    ) -> str:
        """Write a file; its name below the folder. The same instance again takes its place.

        `series` are the UIDs of study and series. Raises Exhausted where the disk takes no more.
        """
        study_uid, series_uid = series
        name = "/".join(
            (
                f"ST{self._number(study_uid):06}",
                f"SE{self._number(study_uid, series_uid):06}",
                f"IM{self._number(study_uid, series_uid, sop_instance_uid):06}.dcm",
            )
        )
        try:
            _write_whole(self.path / name, chain((meta,), data_set))
        except OSError as error:
            raise Exhausted("the folder takes no more", errno=error.errno or 0) from error
        return name

    def _number(self, *names: str) -> int:
        if names not in self._numbers:
            number = self._counts.get(names[:-1], 0) + 1
            if number > NAMES_MAX:
                raise Exhausted("the folder has no more names", names_max=NAMES_MAX)
            self._counts[names[:-1]] = self._numbers[names] = number
        return self._numbers[names]


def _write_whole(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file that is there under its name whole and synced, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_INCOMING)
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """What stands before the data set: nothing of when and from whom the node had it."""
    return preamble_and_meta(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=transfer_syntax_uid,
    )


def export(actor: Actor, archive: Archive, scope: Scope, folder: Folder) -> Iterator[Exported]:
    """Write what an archive holds of a scope; one outcome per instance.

    Each file is checked against its digest while it is written. Raises Missing where there is
    nothing, Forbidden, Unreachable.
    """
    for instance in archive.retrieve(actor, scope):
        uid = instance.sop_instance_uid
        meta = _meta(instance.sop_class_uid, uid, instance.transfer_syntax_uid)
        series = (instance.study_instance_uid, instance.series_instance_uid)
        try:
            name = folder.write(series, uid, meta, _data_set(archive, instance))
        except NodeError as error:
            yield Exported(uid, reason=error.message)
        else:
            yield Exported(uid, name)


def _data_set(archive: Archive, instance: Instance) -> Iterator[memoryview]:
    """The data set of a stored file. Raises Corrupt after its last piece, if it is not as stored."""
    before = instance.data_set_offset
    for chunk in archive.chunks(instance):
        yield memoryview(chunk)[before:]
        before = max(0, before - len(chunk))
