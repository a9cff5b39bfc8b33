"""STOW-RS: storing instances (PS3.18 10.5).

Each part is spooled, judged and kept as soon as its closing boundary has been read, so what is
listed as stored stays stored even if the sender then breaks off. Bodies of metadata and bulk data
(10.5.2) are refused with 415.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pacs.archive import Incoming, Stored
from pacs.dicom import uids
from pacs.dicom.part10 import Part10, read_part10
from pacs.errors import (
    BadObject,
    Conflict,
    Forbidden,
    Mismatch,
    NodeError,
    Refused,
    Unavailable,
    Unreachable,
)
from web.dicomweb import multipart
from web.dicomweb.answers import json_answer
from web.dicomweb.door import At, Door, InPath, warning
from web.dicomweb.elements import JsonElement, element
from web.dicomweb.media_types import DICOM, MULTIPART, media_type
from web.dicomweb.multipart import Part
from web.dicomweb.negotiation import json_type
from web.errors import TooLong
from web.parts import Parts

# Failure Reason (0008,1197), by error; PS3.18 I.2.2 and the project's own C111.
FAILURE_REASON: Final[Mapping[type[NodeError], int]] = {
    NodeError: 0x0110,
    BadObject: 0xC000,
    Mismatch: 0xA900,
    Conflict: 0xC111,
    Forbidden: 0x0124,
    Unavailable: 0xA700,
}
OTHER_STUDY: Final = 0xA901  # the Study Instance UID is not that of the path
PART_TOO_LONG: Final = 0xA700
NOT_DICOM_MEDIA: Final = 0xC122  # the part is of another media type
WARNING_REASON: Final = 0xB007  # Warning Reason (0008,1196) of whatever the archive warns of

SOME_FAILED: Final = "Some instances were not stored: see the failure reasons"
SOME_WARNED: Final = "Some instances were stored with warnings: see the warning reasons"

router = APIRouter()
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failed:
    """A part that was not stored. The UIDs are empty where they could not be read."""

    reason: int
    sop_class_uid: str = ""
    sop_instance_uid: str = ""


Judged = Stored | Failed


@router.post("/studies")
@router.post("/studies/{study}")
async def store(request: Request, door: At, scope: InPath) -> Response:
    """Store instances, into one study if the path names it."""
    answer_type = json_type(request)
    judged: list[Judged] = []
    async with aclosing(_received(request, door.parts)) as parts:
        async for part in parts:
            found = await run_in_threadpool(_keep, door, part, scope.study_instance_uid, not judged)
            judged.append(found)
    if not judged:
        raise Refused("the body holds no parts")
    body, headers = _report(judged, door.url), warning(door, *_sentences(judged))
    return json_answer(request, body, answer_type, status=_status(judged), headers=headers)


def _received(request: Request, parts: Parts) -> AsyncGenerator[Part, None]:
    """The parts of a body, whichever form it has. Raises HTTPException 415 before reading it."""
    content_type = media_type(request.headers.get("content-type", ""))
    encoding = request.headers.get("content-encoding", "identity")
    if content_type is None or encoding.lower() != "identity":
        raise HTTPException(415, "the Content-Type is missing, or the body has a Content-Encoding")
    if content_type.name == DICOM:
        return _bare(request, parts)
    root_type = content_type.parameters.get("type", DICOM).lower()
    if (content_type.name, root_type) != (MULTIPART, DICOM):
        raise HTTPException(415, f'{DICOM} or {MULTIPART}; type="{DICOM}" can be stored')
    boundary = content_type.parameters.get("boundary", "")
    return multipart.read_parts(request.stream(), boundary, parts.spool, parts.limits)


async def _bare(request: Request, parts: Parts) -> AsyncGenerator[Part, None]:
    """A body that is one Part 10 file."""
    part = Part({}, parts.spool, parts.limits)
    try:
        async for chunk in request.stream():
            await part.write(chunk)
            if part.too_long:
                raise TooLong("the body is too long", part_bytes_max=parts.limits.part_bytes_max)
        if part.size_bytes:
            yield part
    finally:
        part.close()


def _keep(door: Door, part: Part, study: str, is_first: bool) -> Judged:
    """Judge one part and keep it. What goes wrong with one part leaves the others alone.

    Only if the store or the index is out of reach from the start does the whole request fail.
    """
    if part.too_long:
        return Failed(PART_TOO_LONG)
    if not _is_dicom(part):
        return Failed(NOT_DICOM_MEDIA)
    part10: Part10 | None = None
    try:
        part10 = read_part10(part.buffer())
        return door.archive.store(
            door.actor,
            Incoming(part10.data_set, part10.transfer_syntax_uid),
            expect=_expected(part10, study),
        )
    except NodeError as error:
        if is_first and isinstance(error, Unreachable):
            raise
        log.info("STOW-RS refused a part: %s", error.message, extra={"facts": error.facts})
        return _failed(_reason(error, study), part10)


def _is_dicom(part: Part) -> bool:
    """Whether a part claims to be a Part 10 file; one that claims nothing is taken at the root's."""
    claimed = media_type(part.headers.get("content-type", DICOM))
    return claimed is not None and claimed.name == DICOM


def _expected(part10: Part10, study: str) -> dict[str, str]:
    expected = {"StudyInstanceUID": study, "SOPClassUID": part10.sop_class_uid}
    return {keyword: uid for keyword, uid in expected.items() if uid}


def _reason(error: NodeError, study: str) -> int:
    if study and error.facts.get("attribute") == "StudyInstanceUID":
        return OTHER_STUDY
    return next(FAILURE_REASON[kind] for kind in type(error).__mro__ if kind in FAILURE_REASON)


def _failed(reason: int, part10: Part10 | None) -> Failed:
    given = (part10.sop_class_uid, part10.sop_instance_uid) if part10 else ("", "")
    return Failed(reason, *given) if all(map(uids.is_valid, given)) else Failed(reason)


# the answer


def _status(judged: Sequence[Judged]) -> int:
    """200 if all is well, 409 if nothing was stored, 202 for what lies between (PS3.18 10.5.3)."""
    if all(isinstance(one, Failed) for one in judged):
        return 409
    return 202 if _sentences(judged) else 200


def _sentences(judged: Sequence[Judged]) -> list[str]:
    failed = any(isinstance(one, Failed) for one in judged)
    warned = any(isinstance(one, Stored) and one.warning for one in judged)
    return [SOME_FAILED] * failed + [SOME_WARNED] * warned


def _report(judged: Sequence[Judged], url: str) -> dict[str, JsonElement]:
    """The Store Instances Response Module (PS3.18 I.2); empty sequences are absent."""
    stored = [one for one in judged if isinstance(one, Stored)]
    failed = [one for one in judged if isinstance(one, Failed)]
    studies = {one.study_instance_uid for one in stored}
    sequences = {
        "FailedSOPSequence": [_failed_item(one) for one in failed if one.sop_instance_uid],
        "ReferencedSOPSequence": [_stored_item(one, url) for one in stored],
        "OtherFailuresSequence": [_failed_item(one) for one in failed if not one.sop_instance_uid],
    }
    report = element(
        "RetrieveURL", *(f"{url}/studies/{study}" for study in studies if len(studies) == 1)
    )
    for keyword, items in sequences.items():
        report |= element(keyword, *items) if items else {}
    return report


def _stored_item(stored: Stored, url: str) -> dict[str, JsonElement]:
    address = (
        f"{url}/studies/{stored.study_instance_uid}/series/{stored.series_instance_uid}"
        f"/instances/{stored.sop_instance_uid}"
    )
    return {
        **element("ReferencedSOPClassUID", stored.sop_class_uid),
        **element("ReferencedSOPInstanceUID", stored.sop_instance_uid),
        **element("RetrieveURL", address),
        **(element("WarningReason", WARNING_REASON) if stored.warning else {}),
    }


def _failed_item(failed: Failed) -> dict[str, JsonElement]:
    reason = element("FailureReason", failed.reason)
    if not failed.sop_instance_uid:
        return reason
    return {
        **element("ReferencedSOPClassUID", failed.sop_class_uid),
        **element("ReferencedSOPInstanceUID", failed.sop_instance_uid),
        **reason,
    }
