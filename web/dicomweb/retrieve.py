"""WADO-RS: retrieving studies, series and instances as Part 10 files (PS3.18 10.4).

What is asked for as stored leaves as it lies in the archive, byte for byte. Any other transfer
syntax, Explicit VR Little Endian where a request names none (8.7.3), is made in the decoder's child
processes, never with a loss. An object that cannot be decoded leaves as stored if none was named,
and one without frames native; its part says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pacs.archive import Instance, Scope
from pacs.decode import ENCODERS, Overtaxed
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN
from pacs.errors import BadObject
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
from web.dicomweb.media import (
    ZIP,
    ZIP64_BYTES_MIN,
    File,
    directory,
    file_ids,
    names,
    zipped,
)
from web.dicomweb.media_types import DICOM, OCTET_STREAM
from web.dicomweb.negotiation import AS_STORED, NONE_NAMED, Choice, Offer, accept_of, chosen
from web.dicomweb.ranges import Body, ranged
from web.dicomweb.transfer_syntaxes import cost_of_all, target

PART_10_FILES: Final = Offer(DICOM, multipart=True)
PART_10_FILE: Final = Offer(DICOM)
ZIP_ARCHIVE: Final = Offer(ZIP)
ALONE: Final = (PART_10_FILE, Offer(OCTET_STREAM))  # further forms of one instance
CHUNK_BYTES: Final = 256 << 10  # of a transcoded file; one as stored comes in the store's pieces

router = APIRouter(route_class=DirectRoute)


@router.get("/studies/{study}")
@router.get("/studies/{study}/series/{series}")
@router.get("/studies/{study}/series/{series}/instances/{instance}")
def retrieve(request: Request, door: At, scope: InPath) -> Response:
    """Retrieve the instances of a study or series, or one instance."""
    instances = door.archive.retrieve(door.actor, scope)
    offers = [PART_10_FILES, *(ALONE if scope.sop_instance_uid else ()), ZIP_ARCHIVE]
    stored = [instance.transfer_syntax_uid for instance in instances]
    choice = chosen(accept_of(request), offers, cost_of_all(stored))
    if choice.offer in ALONE:
        return one_file(request, door, choice, instances[0])
    has_directory = _has_directory(request)
    etag = _etag(door, choice, instances, has_directory=has_directory)
    if is_current(request, etag):
        return not_modified(etag)
    if choice.offer.multipart:
        return _files(request, door, choice, instances, etag)
    files = _zip_files(door, scope, choice, instances, has_directory=has_directory)
    headers = {**caching(etag), "Content-Disposition": 'attachment; filename="dicom.zip"'}
    return streamed(request, zipped(files), ZIP, headers)


def one_file(request: Request, door: Door, choice: Choice, instance: Instance) -> Response:
    """One instance as a Part 10 file of its own."""
    etag = _etag(door, choice, [instance], has_directory=False)
    if is_current(request, etag):
        return not_modified(etag)
    return _file(request, door, choice, instance, etag)


def _has_directory(request: Request) -> bool:
    """Whether a ZIP archive is to have a DICOMDIR. Raises HTTPException 400."""
    asked = request.query_params.get("dicomdir", "false")
    if asked not in ("true", "false"):
        raise HTTPException(400, "dicomdir is neither true nor false")
    return asked == "true"


def _etag(door: Door, choice: Choice, instances: Sequence[Instance], *, has_directory: bool) -> str:
    syntaxes = [_wanted(choice, instance) for instance in instances]
    digests = [instance.digest for instance in instances]
    form = str(choice.offer) + str(has_directory)
    return fingerprint(door.parts.version, form, *digests, *syntaxes)


def _zip_files(
    door: Door,
    scope: Scope,
    choice: Choice,
    instances: Sequence[Instance],
    *,
    has_directory: bool,
) -> Iterator[File]:
    """The files of a ZIP archive: as stored, unless a transfer syntax is named."""
    if choice.transfer_syntax == NONE_NAMED:
        choice = replace(choice, transfer_syntax=AS_STORED)
    listed = file_ids(instances) if has_directory else names(instances)
    if has_directory:
        syntaxes = [_wanted(choice, instance) for instance in instances]
        digests = [one.digest for one in instances]
        content = directory(door, scope, list(zip(listed, digests, syntaxes, strict=True)))
        yield "DICOMDIR", len(content), iter((content,))
    for name, instance in zip(listed, instances, strict=True):
        size_bytes = instance.size_bytes
        if _wanted(choice, instance) != instance.transfer_syntax_uid:
            size_bytes = ZIP64_BYTES_MIN  # nobody knows before it is decoded
        yield name, size_bytes, _in_transfer_syntax(door, choice, instance)[1]


def _files(
    request: Request, door: Door, choice: Choice, instances: Sequence[Instance], etag: str
) -> Response:
    parts = (_part(door, choice, instance) for instance in instances)
    content_type = multipart.content_type(DICOM, boundary=etag)
    return streamed(request, multipart.written(etag, parts), content_type, caching(etag))


def _part(
    door: Door, choice: Choice, instance: Instance
) -> tuple[Mapping[str, str], Iterator[bytes]]:
    transfer_syntax_uid, chunks = _in_transfer_syntax(door, choice, instance)
    return {"Content-Type": f"{DICOM}; transfer-syntax={transfer_syntax_uid}"}, chunks


def _file(request: Request, door: Door, choice: Choice, instance: Instance, etag: str) -> Response:
    transfer_syntax_uid, body = _body(door, choice, instance)
    headers = {
        **caching(etag),
        "Content-Disposition": f'attachment; filename="{instance.sop_instance_uid}.dcm"',
    }
    content_type = f"{choice.offer.media_type}; transfer-syntax={transfer_syntax_uid}"
    return ranged(request, body, content_type, etag, headers)


def _body(door: Door, choice: Choice, instance: Instance) -> tuple[str, Body]:
    """The transfer syntax of one file, and the file, to be read in parts."""
    stored = instance.transfer_syntax_uid
    if _wanted(choice, instance) != stored:
        transfer_syntax_uid, chunks = _in_transfer_syntax(door, choice, instance)
        return transfer_syntax_uid, Body.of(b"".join(chunks))

    def read(start: int, stop: int) -> Iterator[bytes]:
        return withheld(door.archive.chunks(instance, start, stop - start))

    return stored, Body(instance.size_bytes, read)


def _in_transfer_syntax(
    door: Door, choice: Choice, instance: Instance
) -> tuple[str, Iterator[bytes]]:
    """The transfer syntax an instance leaves in, and its Part 10 file in chunks.

    Raises HTTPException 406 if the syntax was named and this object cannot be decoded after all.
    """
    wanted = _wanted(choice, instance)
    if wanted != instance.transfer_syntax_uid:
        try:
            part10 = door.parts.decoder.transcoded(door.archive.read(instance), wanted)
        except (BadObject, Overtaxed) as error:
            if choice.transfer_syntax != NONE_NAMED:
                raise HTTPException(406, "an instance cannot be transcoded") from error
        else:
            return wanted, _cut(part10)
    return instance.transfer_syntax_uid, withheld(door.archive.chunks(instance))


def _wanted(choice: Choice, instance: Instance) -> str:
    """The transfer syntax an instance shall leave in; what has no frames is never compressed."""
    found = target(choice.transfer_syntax, instance.transfer_syntax_uid)
    is_compressed = found in ENCODERS and found != instance.transfer_syntax_uid
    return EXPLICIT_VR_LITTLE_ENDIAN if is_compressed and not instance.frames else found


def _cut(data: bytes) -> Iterator[bytes]:
    view = memoryview(data)
    return (bytes(view[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))
