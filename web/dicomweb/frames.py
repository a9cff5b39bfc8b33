"""WADO-RS frames (PS3.18 10.4.1.1.6).

A stored frame is a range of its file and needs no decoding. Frames of native objects always leave
as Explicit VR Little Endian, whichever native syntax they are stored in; a compressed frame leaves
as stored, or decoded where that is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pacs.archive import Instance
from pacs.decode import ImagePixel, Overtaxed
from pacs.decode.syntaxes import NATIVE
from pacs.dicom.part10 import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    scan,
)
from pacs.errors import BadObject, Missing
from web.dicomweb import multipart
from web.dicomweb.answers import caching, fingerprint, is_current, not_modified, streamed
from web.dicomweb.direct import DirectRoute
from web.dicomweb.door import At, Door, InPath
from web.dicomweb.media_types import OCTET_STREAM
from web.dicomweb.negotiation import AS_STORED, NONE_NAMED, Choice, Cost, Offer, accept_of, chosen
from web.dicomweb.ranges import Body, ranged
from web.dicomweb.transfer_syntaxes import cost, target

# The media type of a compressed frame as stored (PS3.18 tables 8.7.3-2 to 8.7.3-5).
FRAME_MEDIA_TYPE: Final[Mapping[str, str]] = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70)], "image/jpeg"),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)], "image/jls"),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (90, 91)], "image/jp2"),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (92, 93)], "image/jpx"),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112)], "image/jxl"),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203)], "image/jphc"),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (100, 101)], "video/mpeg"),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in range(102, 107)], "video/mp4"),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (107, 108)], "video/H265"),
}

router = APIRouter(route_class=DirectRoute)

_INSTANCE: Final = "/studies/{study}/series/{series}/instances/{instance}"
_NUMBERS = re.compile(r"\d{1,9}(,\d{1,9})*", re.ASCII)


@router.get(_INSTANCE + "/frames/{frames}")
def retrieve_frames(request: Request, door: At, scope: InPath, frames: str) -> Response:
    """Retrieve frames by number, from 1, in the order asked for."""
    numbers = frame_numbers(frames)
    (instance,) = door.archive.retrieve(door.actor, scope)
    if max(numbers) > instance.frames:
        raise Missing("there is no such frame", frames=instance.frames)
    stored = _syntax_of_frames(instance)
    choice = chosen(accept_of(request), _offers(stored, len(numbers)), _cost_for(stored))
    etag = fingerprint(door.parts.version, instance.digest, frames, repr(choice))
    if is_current(request, etag):
        return not_modified(etag)
    source = _Frames(door, instance, choice)
    if choice.offer.multipart:
        content_type = multipart.content_type(choice.offer.media_type, boundary=etag)
        parts = (source.part(number) for number in numbers)
        return streamed(request, multipart.written(etag, parts), content_type, caching(etag))
    headers, (frame,) = source.part(numbers[0])
    return ranged(request, Body.of(frame), headers["Content-Type"], etag, caching(etag))


def frame_numbers(text: str) -> list[int]:
    """The frame list of a path. Raises HTTPException 400 for what is none, holds 0 or repeats.

    Without the last rule a short request could ask for one large frame ten thousand times.
    """
    numbers = [int(number) for number in text.split(",")] if _NUMBERS.fullmatch(text) else [0]
    if 0 in numbers:
        raise HTTPException(400, "the frame list holds something else than numbers from 1")
    if len(set(numbers)) < len(numbers):
        raise HTTPException(400, "the frame list names a frame twice")
    return numbers


def _syntax_of_frames(instance: Instance) -> str:
    """The transfer syntax of frames as they leave when nothing is decoded."""
    stored = instance.transfer_syntax_uid
    return EXPLICIT_VR_LITTLE_ENDIAN if stored in NATIVE else stored


def _offers(stored: str, count: int) -> list[Offer]:
    """Octet streams first; the media type of the compressed form for those who ask for it."""
    media_types = [OCTET_STREAM, *filter(None, [FRAME_MEDIA_TYPE.get(stored)])]
    forms = (True, False) if count == 1 else (True,)
    return [Offer(media_type, multipart=form) for form in forms for media_type in media_types]


def _cost_for(stored: str) -> Cost:
    """What a choice costs. A media type of its own is only ever the stored form."""

    def of_choice(choice: Choice) -> int | None:
        if choice.transfer_syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            return None  # which deflates whole data sets, no frames
        if choice.offer.media_type == OCTET_STREAM:
            return cost(choice.transfer_syntax, stored)
        return 0 if choice.transfer_syntax in (AS_STORED, NONE_NAMED, stored) else None

    return of_choice


class _Frames:
    """The frames of one instance in the form that a request has chosen."""

    def __init__(self, door: Door, instance: Instance, choice: Choice) -> None:
        self._door = door
        self._instance = instance
        self._media_type = choice.offer.media_type
        is_own = self._media_type != OCTET_STREAM
        self._asked = AS_STORED if is_own else choice.transfer_syntax

    def part(self, number: int) -> tuple[dict[str, str], Sequence[bytes]]:
        """Headers and body of one frame."""
        transfer_syntax_uid, frame = self._frame(number)
        return {"Content-Type": f"{self._media_type}; transfer-syntax={transfer_syntax_uid}"}, (
            frame,
        )

    def _frame(self, number: int) -> tuple[str, bytes]:
        """Raises HTTPException 406 for a named syntax if the frame cannot be decoded after all."""
        raw = self._door.archive.frame(self._instance, number)
        as_stored = _syntax_of_frames(self._instance)
        wanted = target(self._asked, as_stored)
        is_native = wanted == EXPLICIT_VR_LITTLE_ENDIAN
        if wanted == self._instance.transfer_syntax_uid or (is_native and self._is_little_endian()):
            return wanted, raw
        try:
            return wanted, self._decoded(raw) if is_native else self._encoded(raw, wanted)
        except (BadObject, Overtaxed) as error:
            if self._asked != NONE_NAMED or as_stored != self._instance.transfer_syntax_uid:
                raise HTTPException(406, "a frame cannot be transcoded") from error
            return as_stored, raw

    def _is_little_endian(self) -> bool:
        stored = self._instance.transfer_syntax_uid
        return stored in NATIVE and stored != EXPLICIT_VR_BIG_ENDIAN

    def _decoded(self, raw: bytes) -> bytes:
        stored = self._instance.transfer_syntax_uid
        return self._door.parts.decoder.frames(self._image_pixel, stored, [raw]).frames[0]

    def _encoded(self, raw: bytes, wanted: str) -> bytes:
        """A frame compressed anew, without loss. Colours then are as that syntax wants them."""
        stored, decoder = self._instance.transfer_syntax_uid, self._door.parts.decoder
        decoded = decoder.frames(self._image_pixel, stored, [raw])
        return decoder.encoded(decoded.image, wanted, decoded.frames).frames[0]

    @cached_property
    def _image_pixel(self) -> ImagePixel:
        stored = self._instance.transfer_syntax_uid
        if stored == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            stored = EXPLICIT_VR_LITTLE_ENDIAN  # the archive gives the header inflated
        return ImagePixel.of(scan(self._door.archive.header(self._instance), stored))
