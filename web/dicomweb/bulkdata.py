"""WADO-RS bulk data: one value by the path of its element (PS3.18 10.4.1.1.5).

The paths are those that the metadata give: `7FE00010`, or inside sequences `00480200/1/00281101`,
tag and item number by turns. Values leave little endian.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from fastapi import APIRouter
from pydicom import Dataset
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pacs.archive import Instance
from pacs.decode.syntaxes import NATIVE
from pacs.dicom.data_sets import read_header
from pacs.dicom.part10 import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    read_part10,
    scan,
)
from pacs.errors import Missing
from web.dicomweb import multipart
from web.dicomweb.answers import caching, fingerprint, is_current, not_modified, streamed
from web.dicomweb.door import At, Door, InPath
from web.dicomweb.media_types import OCTET_STREAM
from web.dicomweb.negotiation import Offer, accept_of, chosen

ENCAPSULATED_DOCUMENT: Final = 0x00420011
# What an encapsulated document may call itself in an answer. HTML or XML would run in the page of
# whoever opens it, so they leave as octets.
DOCUMENT_MEDIA_TYPES: Final = frozenset(["application/pdf", "model/stl", "model/obj", "model/mtl"])

router = APIRouter()

_PATH = re.compile(r"[0-9A-Fa-f]{8}(/[1-9]\d{0,8}/[0-9A-Fa-f]{8}){0,64}", re.ASCII)


@router.get("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{path:path}")
def retrieve_bulk_data(request: Request, door: At, scope: InPath, path: str) -> Response:
    """Retrieve the value of one element."""
    if not _PATH.fullmatch(path):
        raise HTTPException(400, "the path is not made of tags and item numbers")
    tag, *steps = path.split("/")
    (instance,) = door.archive.retrieve(door.actor, scope)
    media_types = _media_types(door, instance, int(tag, 16))
    offers = [Offer(name, multipart=form) for form in (False, True) for name in media_types]
    offer = chosen(accept_of(request), offers).offer
    etag = fingerprint(door.parts.version, instance.digest, path.upper(), str(offer))
    if is_current(request, etag):
        return not_modified(etag)
    chunks = _nested(door, instance, path) if steps else _value(door, instance, int(tag, 16))
    content_type = offer.media_type
    if content_type == OCTET_STREAM:
        content_type += f"; transfer-syntax={_syntax_of(instance, int(tag, 16))}"
    if offer.multipart:
        chunks = multipart.written(etag, [({"Content-Type": content_type}, chunks)])
        content_type = multipart.content_type(offer.media_type, boundary=etag)
    return streamed(request, chunks, content_type, caching(etag))


def _media_types(door: Door, instance: Instance, tag: int) -> list[str]:
    """The media types a value can leave as, its own first."""
    if tag != ENCAPSULATED_DOCUMENT:
        return [OCTET_STREAM]
    header = scan(door.archive.header(instance), _syntax_of_header(instance))
    claimed = header.text("MIMETypeOfEncapsulatedDocument").lower()
    return [claimed, OCTET_STREAM] if claimed in DOCUMENT_MEDIA_TYPES else [OCTET_STREAM]


def _syntax_of(instance: Instance, tag: int) -> str:
    """Compressed pixel data are as stored; every other value is little endian."""
    stored = instance.transfer_syntax_uid
    is_compressed = tag == instance.table.pixel_tag and stored not in NATIVE
    return stored if is_compressed else EXPLICIT_VR_LITTLE_ENDIAN


def _syntax_of_header(instance: Instance) -> str:
    """The archive gives a header inflated."""
    stored = instance.transfer_syntax_uid
    is_deflated = stored == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    return EXPLICIT_VR_LITTLE_ENDIAN if is_deflated else stored


def _value(door: Door, instance: Instance, tag: int) -> Iterator[bytes]:
    """The value of a top-level element; pixel data come frame by frame, never whole in memory."""
    if instance.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        return iter((_turned(door, instance, tag),))
    table = instance.table
    if tag == table.pixel_tag and table.count and table.frame_bits % 8 == 0:
        return (door.archive.frame(instance, number) for number in range(1, table.count + 1))
    return iter((door.archive.bulk(instance, tag),))


def _turned(door: Door, instance: Instance, tag: int) -> bytes:
    """A value of a big endian object, in little endian."""
    part10 = door.parts.decoder.explicit_little_endian(door.archive.read(instance))
    value = scan(read_part10(part10).data_set, EXPLICIT_VR_LITTLE_ENDIAN).value(tag)
    if value is None:
        raise Missing("the instance has no such element")
    return value


def _nested(door: Door, instance: Instance, path: str) -> Iterator[bytes]:
    """The value of an element inside sequences."""
    *outer, last = path.split("/")
    data_set: Dataset = read_header(door.archive.header(instance), instance.transfer_syntax_uid)
    try:
        for tag, number in zip(outer[::2], outer[1::2], strict=True):
            data_set = data_set[int(tag, 16)].value[int(number) - 1]
        value = data_set[int(last, 16)].value
    except (KeyError, IndexError, TypeError) as error:
        raise Missing("the instance has no such element") from error
    if not isinstance(value, bytes):
        raise Missing("the element has no bulk data")
    return iter((value,))
