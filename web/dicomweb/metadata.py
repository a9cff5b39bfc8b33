"""WADO-RS metadata: instances as DICOM JSON or XML, bulk data by reference (PS3.18 10.4.1.1.2, F).

What is sent was made at ingest or soon after (`pacs.archive.series_metadata`); a series leaves as
the very bytes that are kept. A BulkDataURI is relative where it then is right wherever the service
stands, behind whatever proxy; only an instance's own metadata, one level too deep for that, gets a
path from the root.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pacs.archive import Scope
from pacs.archive.series_metadata import GZIP, SeriesMetadata, metadata_of
from pacs.dicom.json_model import JsonModel
from pacs.dicom.xml_model import xml_model
from pacs.index.series_metadata import Outline
from web.dicomweb import multipart
from web.dicomweb.answers import (
    GZIP_LEVEL,
    caching,
    fingerprint,
    is_current,
    not_modified,
    streamed,
    takes_gzip,
)
from web.dicomweb.direct import DirectRoute
from web.dicomweb.door import At, Door, InPath
from web.dicomweb.media_types import DICOM_XML
from web.dicomweb.negotiation import JSON_OFFERS, Offer, accept_of, chosen

XML: Final = Offer(DICOM_XML, multipart=True)
CHUNK_BYTES: Final = 64 << 10  # of an answer that is put together while it is sent

# How a reference begins in what is kept. Inside a string of JSON its quotes would be escaped.
_IN_SERIES: Final = b'"BulkDataURI":"instances/'

router = APIRouter(route_class=DirectRoute)


@router.get("/studies/{study}/metadata")
@router.get("/studies/{study}/series/{series}/metadata")
@router.get("/studies/{study}/series/{series}/instances/{instance}/metadata")
def metadata(request: Request, door: At, scope: InPath) -> Response:
    """Retrieve the metadata of all instances of a study or series, or of one instance."""
    offer = chosen(accept_of(request), (*JSON_OFFERS, XML)).offer
    outlines = door.archive.outlines(door.actor, scope)
    is_gzip = offer != XML and takes_gzip(request)
    facts = [one.fingerprint for one in outlines]
    place = door.path + request.url.path
    etag = fingerprint(door.parts.version, place, str(offer), str(is_gzip), *facts)
    if is_current(request, etag):
        return not_modified(etag)
    if offer == XML:
        parts = _documents(_lines(door, scope, outlines))
        content_type = multipart.content_type(DICOM_XML, boundary=etag)
        return streamed(request, multipart.written(etag, parts), content_type, caching(etag))
    headers = {**caching(etag), "Vary": "Accept, Accept-Encoding"}
    if is_gzip:
        headers["Content-Encoding"] = "gzip"
    if scope.series_instance_uid and not scope.sop_instance_uid:
        kept = metadata_of(door.archive, outlines[0])
        as_kept = iter((kept.gzipped,)) if is_gzip else kept.array()
        return streamed(request, as_kept, offer.media_type, headers)
    body = _in_chunks(_array(_lines(door, scope, outlines)))
    return streamed(request, _gzipped(body) if is_gzip else body, offer.media_type, headers)


def instance_metadata(door: Door, scope: Scope) -> JsonModel:
    """The same of one instance, for other resources that tell of it. Raises Missing, Forbidden."""
    (line,) = _lines(door, scope, door.archive.outlines(door.actor, scope))
    model: JsonModel = json.loads(line)
    return model


def _lines(door: Door, scope: Scope, outlines: Sequence[Outline]) -> Iterator[bytes]:
    """The DICOM JSON of each instance of a scope, its references right where it is asked for."""
    for outline in outlines:
        kept = metadata_of(door.archive, outline)
        prefix = b'"BulkDataURI":"' + _base(door.path, scope, kept).encode() + b"instances/"
        lines = (kept.line(outline.digests[0]),) if scope.sop_instance_uid else kept.lines()
        for line in lines:
            yield line.replace(_IN_SERIES, prefix)


def _base(service_path: str, scope: Scope, kept: SeriesMetadata) -> str:
    """What stands before `instances/...` so that it resolves from the metadata's own address."""
    in_study = f"series/{kept.series_instance_uid}/"
    if scope.sop_instance_uid:
        return f"{service_path}/studies/{kept.study_instance_uid}/{in_study}"
    return "" if scope.series_instance_uid else in_study


def _documents(lines: Iterable[bytes]) -> Iterator[tuple[dict[str, str], tuple[bytes]]]:
    """Each instance as a part of its own (PS3.18 8.7.2, F.1)."""
    for line in lines:
        yield {"Content-Type": DICOM_XML}, (xml_model(json.loads(line)),)


def _array(lines: Iterable[bytes]) -> Iterator[bytes]:
    opening = b"[\n"
    for line in lines:
        yield opening + line
        opening = b",\n"
    yield b"\n]\n"


def _in_chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer pieces: each one sent costs a turn of the event loop."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= CHUNK_BYTES:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def _gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    squeeze = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP)
    yield from filter(None, map(squeeze.compress, chunks))
    yield squeeze.flush()
