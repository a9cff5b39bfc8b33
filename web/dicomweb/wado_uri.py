"""WADO-URI (PS3.18 9): one instance by query parameters, as a file, a picture or a document.

The parameters are those of 9.1.2. Without a content type a single-frame image leaves as JPEG and
everything else as a Part 10 file. `anonymize=yes` is refused: de-identification is a project's work,
with its own policy and its own archive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pacs.archive import Instance, Scope
from pacs.decode.rendering import GIF, JPEG, PNG
from pacs.dicom import uids
from pacs.errors import Missing
from web.dicomweb import rendered
from web.dicomweb.door import At, Door
from web.dicomweb.media_types import DICOM
from web.dicomweb.negotiation import NONE_NAMED, Choice, Offer, chosen
from web.dicomweb.pictures import View, is_image, state_in_parameters
from web.dicomweb.retrieve import one_file
from web.dicomweb.transfer_syntaxes import cost
from web.dicomweb.view_parameters import BadParameter, region_of, uri_rendering_of

PATH: Final = "/wado"
RESEARCH_PATH: Final = "/research/{project}/wado"

Given = Mapping[str, str]

router = APIRouter(tags=["WADO-URI"])

_PICTURES: Final = (Offer(JPEG), Offer(PNG), Offer(GIF))
_UID_PARAMETERS: Final = ("studyUID", "seriesUID", "objectUID")
_CHARACTER_SETS: Final = frozenset(("utf-8", "us-ascii", "*"))
# Parameters that shape a picture and say nothing about a file (9.1.2.2).
_OF_PICTURES: Final = frozenset(
    (
        *("annotation", "rows", "columns", "region", "windowCenter", "windowWidth"),
        *("imageQuality", "frameNumber", "presentationUID", "presentationSeriesUID"),
    )
)


@router.get(PATH)
@router.get(RESEARCH_PATH)
def wado(request: Request, door: At) -> Response:
    """Retrieve one instance."""
    given = request.query_params
    scope = _scope(given)
    _check_refusals(given)
    (instance,) = door.archive.retrieve(door.actor, scope)
    content_type = given.get("contentType") or _default(instance)
    offers = [Offer(DICOM), *(_PICTURES if is_image(instance) else ())]
    if not is_image(instance) and not _is_file(content_type):
        return rendered.original(request, door, instance, content_type)
    offer = chosen(content_type, offers).offer
    if offer.media_type == DICOM:
        return _file(request, door, instance, given)
    return _picture(request, door, instance, given, offer)


def _scope(given: Given) -> Scope:
    if given.get("requestType") != "WADO":
        raise BadParameter("requestType", "must be WADO")
    for name in _UID_PARAMETERS:
        if not uids.is_valid(given.get(name, "")):
            raise BadParameter(name, "is missing or is no UID")
    return Scope(*(given[name] for name in _UID_PARAMETERS))


def _check_refusals(given: Given) -> None:
    if given.get("anonymize", "no").lower() != "no":
        raise BadParameter("anonymize", "is not done here; a project holds de-identified copies")
    wanted = given.get("charset", "*").lower().split(",")
    if not any(one.partition(";")[0].strip() in _CHARACTER_SETS for one in wanted):
        raise HTTPException(406, "texts leave as UTF-8 alone")


def _default(instance: Instance) -> str:
    """What an instance leaves as when no content type is named (9.1.2.2.1)."""
    return JPEG if is_image(instance) and instance.frames == 1 else DICOM


def _is_file(content_type: str) -> bool:
    return any(one.strip().lower().startswith(DICOM) for one in content_type.split(","))


def _file(request: Request, door: Door, instance: Instance, given: Given) -> Response:
    misplaced = sorted(_OF_PICTURES & given.keys())
    if misplaced:
        raise BadParameter(misplaced[0], "says nothing about a file")
    named = given.get("transferSyntax", NONE_NAMED)
    if named and not uids.is_valid(named):
        raise BadParameter("transferSyntax", "is no UID")
    if cost(named, instance.transfer_syntax_uid) is None:
        raise HTTPException(406, "the instance cannot leave in this transfer syntax")
    return one_file(request, door, Choice(Offer(DICOM), named), instance)


def _picture(
    request: Request, door: Door, instance: Instance, given: Given, offer: Offer
) -> Response:
    if "transferSyntax" in given:
        raise BadParameter("transferSyntax", "says nothing about a picture")
    asked = uri_rendering_of(given)
    asked = replace(asked, box=region_of(given, instance.columns, instance.rows))
    state = state_in_parameters(door, given, instance.study_instance_uid)
    if state is not None and asked.window is not None:
        raise BadParameter("windowCenter", "and presentationUID exclude each other")
    numbers = _frames(given, instance, is_film=offer.media_type == GIF)
    view = View(door, instance, asked, state)
    return rendered.single(request, door, view, offer, numbers)


def _frames(given: Given, instance: Instance, *, is_film: bool) -> list[int]:
    text = given.get("frameNumber")
    if text is None:
        return list(range(1, instance.frames + 1)) if is_film else [1]
    if not (text.isascii() and text.isdigit() and len(text) < 10) or not int(text):
        raise BadParameter("frameNumber", "is a whole number from 1")
    if int(text) > instance.frames:
        raise Missing("there is no such frame", frames=instance.frames)
    return [int(text)]
