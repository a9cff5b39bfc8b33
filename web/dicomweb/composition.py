"""Instances that come in pieces: metadata parts, then the bulk data they refer to (PS3.18 10.5.2).

Bulk data wait in one nameless file of the spool folder, in the order they came, and metadata in
memory within their limit. An instance is given out as soon as the last of its bulk data has come;
when the body ends, those that still lack some are given out as failed.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final
from urllib.parse import urljoin

from pacs.archive import Incoming
from pacs.dicom.json_model import JsonModel
from pacs.dicom.part10 import Buffer
from pacs.dicom.xml_model import read_xml_model
from pacs.errors import BadObject, Exhausted, NodeError, Refused
from web.dicomweb.assembly import (
    OCTET_STREAM,
    Bulk,
    MissingBulk,
    assemble,
    copy,
    frames_of,
    pixel_uri,
    references,
)
from web.dicomweb.media_types import DICOM_JSON, DICOM_XML, JSON, media_type
from web.dicomweb.multipart import Part
from web.errors import TooLong
from web.limits import Limits

# Between two values stands a comma, so their number bounds what a text can become in memory: some
# hundred times its bytes. More in one part, or in one instance, and none of it is read (C000).
PART_VALUES_MAX: Final = 4_000_000
INSTANCE_VALUES_MAX: Final = 1_000_000

_DECODER: Final = json.JSONDecoder()
_LIST_BEGUN = re.compile(r"\s*(?P<end>\])?")
_LIST_GOES_ON = re.compile(r"\s*(?:,\s*|(?P<end>\]))")
_METADATA: Final = frozenset((DICOM_JSON, JSON, DICOM_XML))


@dataclass(frozen=True, slots=True)
class Composed:
    """An instance that is whole, or why it is none; the UIDs are those of its metadata."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    incoming: Incoming | None = None
    error: NodeError | None = None


@dataclass(frozen=True, slots=True)
class _Pending:
    """An instance that waits: its metadata as they came, which is a tenth of what they become."""

    document: bytes
    media_type: str
    uris: frozenset[str]  # of all that it refers to, absolute
    pixel_uri: str
    frames: int

    def model(self) -> JsonModel:
        """Its metadata, read again."""
        return _read(self.document, self.media_type)


@dataclass(slots=True)
class _Held:
    """Bulk data in the spool: where each part of them lies, offset and length in bytes."""

    media_type: str
    transfer_syntax_uid: str
    places: list[tuple[int, int]] = field(default_factory=list)


class Composition:
    """The instances of one body. Close it, or its file stays until the process ends."""

    def __init__(self, root_type: str, url: str, spool: Path, limits: Limits) -> None:
        self._root_type = root_type
        self._url = url
        self._spool = spool
        self._limits = limits
        self._file = _spooled(spool)
        self._held: dict[str, _Held] = {}
        self._pending: list[_Pending] = []
        self._awaited: set[str] = set()
        self._unawaited = 0
        self._metadata_bytes = 0
        self._held_bytes = 0

    def take(self, part: Part) -> Iterator[Composed]:
        """Take one part in, and give out what is whole with it. Raises TooLong, Exhausted."""
        claimed = media_type(part.headers.get("content-type", self._root_type))
        name = claimed.name if claimed else ""
        if part.too_long:
            return
        if name in _METADATA and "content-location" not in part.headers:
            yield from self._take_metadata(part, name)
        elif "content-location" in part.headers:
            syntax = claimed.parameters.get("transfer-syntax", "") if claimed else ""
            yield from self._take_bulk(part, name, syntax)

    def finish(self) -> Iterator[Composed]:
        """The body has ended: what is still incomplete."""
        for pending in self._pending:
            yield self._composed(pending)
        self._pending = []

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _take_metadata(self, part: Part, name: str) -> Iterator[Composed]:
        self._metadata_bytes += part.size_bytes
        if self._metadata_bytes > self._limits.metadata_bytes_max:
            raise TooLong(
                "there are too many metadata", metadata_bytes_max=self._limits.metadata_bytes_max
            )
        try:
            for document in _documents(bytes(memoryview(part.buffer())), name):
                yield from self._take_document(document, name)
        except BadObject as error:
            yield Composed(error=error)

    def _take_document(self, document: bytes, name: str) -> Iterator[Composed]:
        model = _read(document, name)
        uris = frozenset(self._resolved(uri) for uri in references(model))
        pixels = pixel_uri(model)
        pending = _Pending(
            document, name, uris, pixels and self._resolved(pixels), frames_of(model)
        )
        if self._is_whole(pending):
            yield self._composed(pending)
            return
        self._pending.append(pending)
        self._awaited |= uris

    def _take_bulk(self, part: Part, name: str, syntax: str) -> Iterator[Composed]:
        self._held_bytes += part.size_bytes
        if self._held_bytes > self._limits.held_bytes_max:
            raise TooLong(
                "there are too many bulk data", held_bytes_max=self._limits.held_bytes_max
            )
        uri = self._resolved(part.headers["content-location"])
        held = self._held.setdefault(uri, _Held(name, syntax))
        try:
            start = self._file.tell()
            copy(part.buffer(), self._file.write)
            self._file.flush()
        except OSError as error:
            raise Exhausted("the spool folder takes no more") from error
        held.places.append((start, part.size_bytes))
        self._unawaited += uri not in self._awaited
        if self._unawaited > self._limits.unreadable_parts_max:
            raise Refused("too many parts are nothing that the metadata refer to")
        whole = [one for one in self._waiting_for(uri) if self._is_whole(one)]
        self._pending = [one for one in self._pending if one not in whole]
        for pending in whole:
            yield self._composed(pending)

    def _waiting_for(self, uri: str) -> list[_Pending]:
        return [one for one in self._pending if uri in one.uris]

    def _resolved(self, uri: str) -> str:
        """A URI as an absolute one: metadata and parts may each use another form."""
        try:
            return urljoin(self._url, uri.strip())
        except ValueError:
            return uri

    def _is_whole(self, pending: _Pending) -> bool:
        if not pending.uris <= self._held.keys():
            return False
        pixels = self._held.get(pending.pixel_uri)
        if pixels is None:
            return True
        is_one = pixels.media_type == OCTET_STREAM or pixels.media_type.startswith("video/")
        return is_one or len(pixels.places) >= pending.frames

    def _composed(self, pending: _Pending) -> Composed:
        model = pending.model()
        given = (_text(model, "00080016"), _text(model, "00080018"))
        try:
            return Composed(*given, incoming=self._assembled(pending, model))
        except NodeError as error:
            return Composed(*given, error=error)

    def _assembled(self, pending: _Pending, model: JsonModel) -> Incoming:
        if not self._is_whole(pending):
            raise MissingBulk
        whole = _mapped(self._file)
        bulk = {uri: _bulk(whole, self._held[self._resolved(uri)]) for uri in references(model)}
        made = _spooled(self._spool)
        try:
            syntax = assemble(model, bulk, made.write)
            made.flush()
            return Incoming(_mapped(made), syntax)
        except OSError as error:
            raise Exhausted("the spool folder takes no more") from error
        finally:
            made.close()


def _bulk(whole: Buffer, held: _Held) -> Bulk:
    view = memoryview(whole)
    frames = [view[start : start + size] for start, size in held.places]
    return Bulk(frames, held.media_type, held.transfer_syntax_uid)


def _spooled(spool: Path) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=spool)
    except OSError as error:
        raise Exhausted("the spool folder takes no more") from error


def _mapped(file: IO[bytes]) -> Buffer:
    """The bytes of a file, not read but mapped; they stay readable when it is closed."""
    if not os.fstat(file.fileno()).st_size:
        return b""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _documents(part: bytes, media_type: str) -> Iterator[bytes]:
    """The data sets of one metadata part, each by itself. Raises BadObject.

    A JSON part is a list of them; its text is cut rather than read as a whole.
    """
    if media_type == DICOM_XML:
        yield part
        return
    _check_values(part, PART_VALUES_MAX)
    try:
        text = part.decode("utf-8-sig").strip()
        if not text.startswith("["):
            yield text.encode()
            return
        at, separator = 1, _LIST_BEGUN
        while not (found := separator.match(text, at)) or not found["end"]:
            if not found:
                raise BadObject("the metadata are not JSON")
            _, at = _DECODER.raw_decode(text, found.end())
            yield text[found.end() : at].encode()
            separator = _LIST_GOES_ON
    except (ValueError, RecursionError) as error:
        raise BadObject("the metadata are not JSON") from error


def _check_values(text: bytes, values_max: int) -> None:
    if text.count(b",") > values_max:
        raise BadObject("the metadata have too many values", values_max=values_max)


def _read(document: bytes, media_type: str) -> JsonModel:
    """The model of one data set. Raises BadObject."""
    if media_type == DICOM_XML:
        return read_xml_model(document)
    _check_values(document, INSTANCE_VALUES_MAX)
    try:
        model = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise BadObject("the metadata are not JSON") from error
    if not isinstance(model, dict):
        raise BadObject("the metadata of an instance are no DICOM JSON object")
    return model


def _text(model: JsonModel, tag: str) -> str:
    """The only value of an element, if it is a text."""
    element = model.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    value = values[0] if isinstance(values, list) and values else ""
    return value if isinstance(value, str) else ""
