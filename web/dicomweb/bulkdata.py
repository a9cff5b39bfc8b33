"""WADO-RS bulk data: one value by the path of its element (PS3.18 10.4.1.1.5).

The paths are those that the metadata give: `7FE00010`, or inside sequences `00480200/1/00281101`,
tag and item number by turns. Values leave little endian, whole or by byte range.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from fastapi import APIRouter
from pydicom import Dataset
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pacs.archive import Instance
from pacs.decode.syntaxes import NATIVE
from pacs.dicom.data_sets import UNFIT, read_data_set
from pacs.dicom.frames import Span
from pacs.dicom.part10 import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    read_part10,
    scan,
)
from pacs.errors import Missing
from web.dicomweb import multipart
from web.dicomweb.answers import (
    caching,
    fingerprint,
    is_current,
    not_modified,
    streamed,
    withheld,
)
from web.dicomweb.direct import DirectRoute
from web.dicomweb.door import At, Door, InPath
from web.dicomweb.frames import FRAME_MEDIA_TYPE
from web.dicomweb.media_types import OCTET_STREAM
from web.dicomweb.negotiation import Offer, accept_of, chosen
from web.dicomweb.ranges import Body, ranged

ENCAPSULATED_DOCUMENT: Final = 0x00420011
# What an encapsulated document may call itself in an answer. HTML or XML would run in the page of
# whoever opens it, so they leave as octets.
DOCUMENT_MEDIA_TYPES: Final = frozenset(["application/pdf", "model/stl", "model/obj", "model/mtl"])

router = APIRouter(route_class=DirectRoute)

_PATH = re.compile(r"[0-9A-Fa-f]{8}(/[1-9]\d{0,8}/[0-9A-Fa-f]{8}){0,64}", re.ASCII)


@router.get("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{path:path}")
def retrieve_bulk_data(request: Request, door: At, scope: InPath, path: str) -> Response:
    """Retrieve the value of one element."""
    if not _PATH.fullmatch(path):
        raise HTTPException(400, "the path is not made of tags and item numbers")
    tag, *steps = path.split("/")
    (instance,) = door.archive.retrieve(door.actor, scope)
    media_types = [OCTET_STREAM] if steps else _media_types(door, instance, int(tag, 16))
    offers = [Offer(name, multipart=form) for form in (False, True) for name in media_types]
    offer = chosen(accept_of(request), offers).offer
    etag = fingerprint(door.parts.version, instance.digest, path.upper(), str(offer))
    if is_current(request, etag):
        return not_modified(etag)
    body = _nested(door, instance, path) if steps else _value(door, instance, int(tag, 16))
    content_type = offer.media_type
    if content_type not in DOCUMENT_MEDIA_TYPES:
        content_type += f"; transfer-syntax={_syntax_of(instance, int(tag, 16), steps)}"
    if not offer.multipart:
        return ranged(request, body, content_type, etag, caching(etag))
    part = {"Content-Type": content_type}, body.read(0, body.size_bytes)
    related = multipart.content_type(offer.media_type, boundary=etag)
    return streamed(request, multipart.written(etag, [part]), related, caching(etag))


def _media_types(door: Door, instance: Instance, tag: int) -> list[str]:
    """The media types a value can leave as, the one without an Accept first.

    A document's own; of compressed pixel data, that of the one picture or film they are.
    """
    if tag == instance.table.pixel_tag and instance.frames == 1:
        own = FRAME_MEDIA_TYPE.get(instance.transfer_syntax_uid)
        return [OCTET_STREAM, own] if own else [OCTET_STREAM]
    if tag != ENCAPSULATED_DOCUMENT:
        return [OCTET_STREAM]
    header = scan(door.archive.header(instance), _syntax_of_header(instance))
    claimed = header.text("MIMETypeOfEncapsulatedDocument").lower()
    return [claimed, OCTET_STREAM] if claimed in DOCUMENT_MEDIA_TYPES else [OCTET_STREAM]


def _syntax_of(instance: Instance, tag: int, steps: Sequence[str]) -> str:
    """Compressed pixel data are as stored; every other value is little endian."""
    stored = instance.transfer_syntax_uid
    is_compressed = not steps and tag == instance.table.pixel_tag and stored not in NATIVE
    return stored if is_compressed else EXPLICIT_VR_LITTLE_ENDIAN


def _syntax_of_header(instance: Instance) -> str:
    """The archive gives a header inflated."""
    stored = instance.transfer_syntax_uid
    is_deflated = stored == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    return EXPLICIT_VR_LITTLE_ENDIAN if is_deflated else stored


def _value(door: Door, instance: Instance, tag: int) -> Body:
    """The value of a top-level element; pixel data are never whole in memory."""
    stored = instance.transfer_syntax_uid
    if stored == EXPLICIT_VR_BIG_ENDIAN:
        return Body.of(_turned(door, instance, tag))
    table = instance.table
    if tag != table.pixel_tag or not table.count or stored == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return Body.of(door.archive.bulk(instance, tag))
    if table.frame_bits:
        return _places(door, instance, [(table.start, -(-table.frame_bits * table.count // 8))])
    return _places(door, instance, [span for frame in table.places for span in frame])


def _places(door: Door, instance: Instance, spans: Sequence[Span]) -> Body:
    """What lies in some places of a data set, one after the other."""

    def read(start: int, stop: int) -> Iterator[bytes]:
        wanted = list(_cut(spans, start, stop))
        return withheld(door.archive.pieces(instance, wanted)) if wanted else iter(())

    return Body(sum(size for _, size in spans), read)


def _cut(spans: Sequence[Span], start: int, stop: int) -> Iterator[Span]:
    """The part of spans that holds the bytes from start to stop of what they are together."""
    at = 0
    for offset, size in spans:
        first, last = max(start, at), min(stop, at + size)
        if first < last:
            yield offset + first - at, last - first
        at += size


def _turned(door: Door, instance: Instance, tag: int) -> bytes:
    """A value of a big endian object, in little endian."""
    part10 = door.parts.decoder.explicit_little_endian(door.archive.read(instance))
    value = scan(read_part10(part10).data_set, EXPLICIT_VR_LITTLE_ENDIAN).value(tag)
    if value is None:
        raise Missing("the instance has no such element")
    return value


def _nested(door: Door, instance: Instance, path: str) -> Body:
    """The value of an element inside sequences."""
    *outer, last = path.split("/")
    data_set = _little_endian(door, instance)
    try:
        for tag, number in zip(outer[::2], outer[1::2], strict=True):
            data_set = data_set[int(tag, 16)].value[int(number) - 1]
        value = data_set[int(last, 16)].value
    except UNFIT as error:
        raise Missing("the instance has no such element") from error
    if not isinstance(value, bytes):
        raise Missing("the element has no bulk data")
    return Body.of(value)


def _little_endian(door: Door, instance: Instance) -> Dataset:
    """What is around the pixel data, in little endian."""
    if instance.transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN:
        return door.archive.around_pixels(instance)
    part10 = door.parts.decoder.explicit_little_endian(door.archive.read(instance))
    return read_data_set(read_part10(part10).data_set, EXPLICIT_VR_LITTLE_ENDIAN)
