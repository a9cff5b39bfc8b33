"""STOW-RS: storing instances (PS3.18 10.5).

Each part is spooled, judged and kept as soon as its closing boundary has been read, so what is
listed as stored stays stored even if the sender then breaks off. An instance that comes as metadata
and bulk data is kept as soon as the last piece of it has come.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter
from pydicom.datadict import tag_for_keyword
from pydicom.uid import UID
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pacs.archive import Incoming, Stored
from pacs.dicom import uids
from pacs.dicom.part10 import read_part10
from pacs.dicom.xml_model import xml_model
from pacs.errors import (
    BadObject,
    Conflict,
    Exhausted,
    Forbidden,
    Mismatch,
    NodeError,
    Refused,
    Unavailable,
    Unreachable,
)
from web.bodies import paced
from web.dicomweb import multipart
from web.dicomweb.answers import json_answer
from web.dicomweb.assembly import MissingBulk, UnusableMedia
from web.dicomweb.composition import Composed, Composition
from web.dicomweb.door import At, Door, InPath, warning
from web.dicomweb.elements import JsonElement, element
from web.dicomweb.media_types import DICOM, DICOM_JSON, DICOM_XML, JSON, MULTIPART, media_type
from web.dicomweb.multipart import Part
from web.dicomweb.negotiation import JSON_OFFERS, Offer, accept_of, chosen
from web.errors import TooLong
from web.limits import Limits
from web.parts import Parts


class OtherClass(Refused):
    """Instances of this SOP class are nothing that is stored."""


# Failure Reason (0008,1197), by error; PS3.18 I.2.2 and the project's own C111.
FAILURE_REASON: Final[Mapping[type[NodeError], int]] = {
    NodeError: 0x0110,
    BadObject: 0xC000,
    Mismatch: 0xA900,
    Conflict: 0xC111,
    Forbidden: 0x0124,
    Unavailable: 0xA700,
    MissingBulk: 0xA922,
    UnusableMedia: 0xC122,
    OtherClass: 0x0122,
}
OTHER_STUDY: Final = 0xA901  # the Study Instance UID is not that of the path
PART_TOO_LONG: Final = 0xA700
NOT_DICOM_MEDIA: Final = 0xC122  # the part is of another media type
WARNING_REASON: Final = 0xB007  # Warning Reason (0008,1196) of whatever the archive warns of

UNFIT_VALUE: Final = "The value does not fit its VR; it is not indexed"
COMMENT_CHARACTERS_MAX: Final = 64  # of an Error Comment (VR LO); a longer sentence is cut
LENGTH_DIGITS_MAX: Final = 18  # of a Content-Length; a longer number is too long a body
PART10_BYTES_MIN: Final = 132  # preamble and prefix (PS3.10 7.1); a shorter part is no file

ANSWERS: Final = (*JSON_OFFERS, Offer(DICOM_XML))

_STORAGE = re.compile(r"Storage(?! Commitment)(?! SOP Class - Directory)")

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
    answer_type = chosen(accept_of(request), ANSWERS).offer.media_type
    form = _form(request, door.parts.limits)
    await run_in_threadpool(_check_ready, door)
    judge = _Judge(door, scope.study_instance_uid)
    taken = _composed if form.is_composed else _whole_files
    async with aclosing(_received(request, form, door.parts)) as parts:
        await taken(judge, parts, form, door)
    if not judge.judged:
        raise Refused("the body holds no instances")
    return _answer(request, door, judge.judged, answer_type)


@dataclass(frozen=True, slots=True)
class Form:
    """How a body is put together: `root_type` is that of its instances or of their metadata."""

    root_type: str
    boundary: str | None
    url: str

    @property
    def is_composed(self) -> bool:
        """Whether instances come as metadata and bulk data."""
        return self.root_type != DICOM


def _form(request: Request, limits: Limits) -> Form:
    """The form of a body, before a byte of it is read. Raises HTTPException 415, TooLong."""
    content_type = media_type(request.headers.get("content-type", ""))
    encoding = request.headers.get("content-encoding", "identity")
    if content_type is None or encoding.lower() != "identity":
        raise HTTPException(415, "the Content-Type is missing, or the body has a Content-Encoding")
    length = request.headers.get("content-length", "0")
    if len(length) > LENGTH_DIGITS_MAX or int(length) > limits.body_bytes_max:
        raise TooLong("the body is too long", body_bytes_max=limits.body_bytes_max)
    if content_type.name == DICOM:
        return Form(DICOM, None, str(request.url))
    root_type = content_type.parameters.get("type", DICOM).lower()
    root_type = DICOM_JSON if root_type == JSON else root_type
    if content_type.name != MULTIPART or root_type not in (DICOM, DICOM_JSON, DICOM_XML):
        raise HTTPException(
            415, f"{DICOM}, or {MULTIPART} of {DICOM}, {DICOM_JSON} or {DICOM_XML} can be stored"
        )
    return Form(root_type, content_type.parameters.get("boundary", ""), str(request.url))


def _check_ready(door: Door) -> None:
    """Return if something could be stored now. Raises Unreachable, and HTTPException 507."""
    door.archive.index.check()
    try:
        door.archive.objects.check()
    except Exhausted as error:
        raise HTTPException(507, error.message) from error


def _received(request: Request, form: Form, parts: Parts) -> AsyncGenerator[Part, None]:
    if form.boundary is None:
        return _bare(request, parts)
    return multipart.read_parts(request.stream(), form.boundary, parts.spool, parts.limits)


async def _bare(request: Request, parts: Parts) -> AsyncGenerator[Part, None]:
    """A body that is one Part 10 file."""
    part = Part({}, parts.spool, parts.limits)
    try:
        async for chunk in paced(request.stream(), parts.limits):
            await part.write(chunk)
            if part.too_long:
                raise TooLong("the body is too long", part_bytes_max=parts.limits.part_bytes_max)
        if part.size_bytes:
            yield part
    finally:
        part.close()


async def _whole_files(
    judge: _Judge, parts: AsyncGenerator[Part, None], _form: Form, _door: Door
) -> None:
    """The verdict on each part that is a Part 10 file."""
    async for part in parts:
        if part.size_bytes < PART10_BYTES_MIN and _is_dicom(part):
            # Cheaply: a body may hold very many of these.
            judge.note(Failed(FAILURE_REASON[BadObject]))
        else:
            judge.note(await run_in_threadpool(judge.file, part))


async def _composed(
    judge: _Judge, parts: AsyncGenerator[Part, None], form: Form, door: Door
) -> None:
    """The verdict on each instance that is made of metadata and bulk data."""
    made = Composition(form.root_type, form.url, door.parts.spool, door.parts.limits)
    try:
        async for part in parts:
            await run_in_threadpool(judge.every, made.take(part))
        await run_in_threadpool(judge.every, made.finish())
    finally:
        made.close()


class _Judge:
    """Keeps instances one by one. What goes wrong with one leaves the others alone."""

    def __init__(self, door: Door, study: str) -> None:
        self._door = door
        self._study = study
        self.judged: list[Judged] = []

    def note(self, verdict: Judged) -> None:
        """Note a verdict. Raises Refused where so much is nothing at all that nobody can mean it."""
        self.judged.append(verdict)
        if len(self.judged) == self._door.parts.limits.unreadable_parts_max + 1 and all(
            isinstance(one, Failed) and not one.sop_instance_uid for one in self.judged
        ):
            raise Refused("too much of the body is nothing that could be stored")

    def file(self, part: Part) -> Judged:
        """Keep a part that is a Part 10 file."""
        if part.too_long:
            return Failed(PART_TOO_LONG)
        if not _is_dicom(part):
            return Failed(NOT_DICOM_MEDIA)
        given = ("", "")
        try:
            part10 = read_part10(part.buffer())
            given = (part10.sop_class_uid, part10.sop_instance_uid)
            incoming = Incoming(part10.data_set, part10.transfer_syntax_uid)
            return self._keep(incoming, part10.sop_class_uid)
        except NodeError as error:
            return self._refusal(error, given)

    def every(self, composed: Iterable[Composed]) -> None:
        """Keep the instances that are whole, and note what became of them."""
        for one in composed:
            self.note(self._of_pieces(one))

    def _of_pieces(self, composed: Composed) -> Judged:
        given = (composed.sop_class_uid, composed.sop_instance_uid)
        try:
            if composed.incoming is None:
                assert composed.error is not None
                raise composed.error
            return self._keep(composed.incoming, composed.sop_class_uid)
        except NodeError as error:
            return self._refusal(error, given)

    def _keep(self, incoming: Incoming, sop_class_uid: str) -> Stored:
        if sop_class_uid and not is_storage(sop_class_uid):
            raise OtherClass
        expected = {"StudyInstanceUID": self._study, "SOPClassUID": sop_class_uid}
        expected = {keyword: uid for keyword, uid in expected.items() if uid}
        return self._door.archive.store(self._door.actor, incoming, expect=expected)

    def _refusal(self, error: NodeError, given: tuple[str, str]) -> Failed:
        """Only if store or index is out of reach from the start does the whole request fail."""
        if not self.judged and isinstance(error, Unreachable):
            raise error
        log.info("STOW-RS refused a part: %s", error.message, extra={"facts": error.facts})
        reason = _reason(error, self._study)
        return Failed(reason, *given) if all(map(uids.is_valid, given)) else Failed(reason)


def is_storage(sop_class_uid: str) -> bool:
    """Whether instances of a class are stored: all but those that PS3.6 knows as something else."""
    name = UID(sop_class_uid).name
    return name == sop_class_uid or bool(_STORAGE.search(name))


def _is_dicom(part: Part) -> bool:
    """Whether a part claims to be a Part 10 file; one that claims nothing is taken at the root's."""
    claimed = media_type(part.headers.get("content-type", DICOM))
    return claimed is not None and claimed.name == DICOM


def _reason(error: NodeError, study: str) -> int:
    if study and error.facts.get("attribute") == "StudyInstanceUID":
        return OTHER_STUDY
    return next(FAILURE_REASON[kind] for kind in type(error).__mro__ if kind in FAILURE_REASON)


# the answer


def _answer(request: Request, door: Door, judged: Sequence[Judged], answer_type: str) -> Response:
    body, headers = _report(judged, door.url), warning(door, *_sentences(judged))
    if answer_type == DICOM_XML:
        return Response(xml_model(dict(sorted(body.items()))), _status(judged), headers, DICOM_XML)
    return json_answer(request, body, answer_type, status=_status(judged), headers=headers)


def _status(judged: Sequence[Judged]) -> int:
    """200 if all is well, 409 if nothing was stored, 202 for what lies between (PS3.18 10.5.3)."""
    if all(isinstance(one, Failed) for one in judged):
        return 409
    return 202 if _sentences(judged) else 200


def _sentences(judged: Sequence[Judged]) -> list[str]:
    failed = any(isinstance(one, Failed) for one in judged)
    warned = any(isinstance(one, Stored) and (one.warning or one.unfit) for one in judged)
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
        **_warning_of(stored),
    }


def _warning_of(stored: Stored) -> dict[str, JsonElement]:
    """What is doubtful about an instance that is kept, and which values of it are not indexed."""
    if not stored.warning and not stored.unfit:
        return {}
    items = [
        element("SelectorAttribute", f"{tag_for_keyword(keyword):08X}")
        | element("ErrorComment", UNFIT_VALUE)
        for keyword in stored.unfit
    ]
    return {
        **element("WarningReason", WARNING_REASON),
        **element("ErrorComment", (stored.warning or UNFIT_VALUE)[:COMMENT_CHARACTERS_MAX]),
        **(element("FailedAttributesSequence", *items) if items else {}),
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
