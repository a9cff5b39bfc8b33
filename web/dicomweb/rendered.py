"""WADO-RS rendered resources and thumbnails (PS3.18 10.4.1.1.3, 10.4.1.1.4).

A single picture stands for whatever was asked for: frame 1 of an instance, the middle image of a
series or study. Multipart bodies hold a picture of every frame. What is no image leaves as what it
is: a document as PDF, a film as video, a report as HTML; where there is no such form, it is 406.
No video is encoded here: the encoders that come as wheels bring code under the GPL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pacs.archive import Instance, Scope
from pacs.decode.rendering import GIF, JPEG, PNG
from pacs.errors import Missing
from web.dicomweb import multipart, originals
from web.dicomweb.answers import caching, fingerprint, is_current, not_modified, streamed, withheld
from web.dicomweb.direct import DirectRoute
from web.dicomweb.door import At, Door, InPath, warning
from web.dicomweb.frames import frame_numbers
from web.dicomweb.negotiation import Offer, accept_of, chosen
from web.dicomweb.pictures import (
    PRESENTATION_STATES,
    View,
    is_image,
    representative,
    shown_by,
    state_in_parameters,
)
from web.dicomweb.ranges import Body, ranged
from web.dicomweb.view_parameters import rendering_of, unknown_annotations

SINGLE: Final = (Offer(JPEG), Offer(PNG), Offer(GIF))
SEVERAL: Final = (Offer(JPEG, multipart=True), Offer(PNG, multipart=True))

router = APIRouter(route_class=DirectRoute)

_STUDY: Final = "/studies/{study}"
_SERIES: Final = _STUDY + "/series/{series}"
_INSTANCE: Final = _SERIES + "/instances/{instance}"
_FRAMES: Final = _INSTANCE + "/frames/{frames}"


@router.get(_STUDY + "/rendered")
@router.get(_SERIES + "/rendered")
def rendered(request: Request, door: At, scope: InPath) -> Response:
    """Retrieve a study or series as pictures: one that stands for it, or all of them."""
    asked = rendering_of(request.query_params)
    instances = door.archive.retrieve(door.actor, scope)
    offer = chosen(accept_of(request), [*SINGLE, *SEVERAL]).offer
    if not offer.multipart:
        instance = representative(instances)
        return single(request, door, View(door, instance, asked), offer, [_middle(instance)])
    views = [View(door, one, asked) for one in instances if is_image(one)]
    if not views:
        raise Missing("there is no image here that could be shown")
    return _several(request, door, [(v, range(1, v.instance.frames + 1)) for v in views], offer)


@router.get(_INSTANCE + "/rendered")
def rendered_instance(request: Request, door: At, scope: InPath) -> Response:
    """Retrieve an instance as a picture, as all its frames, or as the document that it holds."""
    asked = rendering_of(request.query_params)
    (instance,) = door.archive.retrieve(door.actor, scope)
    state = state_in_parameters(door, request.query_params, scope.study_instance_uid)
    if instance.sop_class_uid in PRESENTATION_STATES:
        instance, state = shown_by(door, instance), instance
    if not is_image(instance):
        return original(request, door, instance, accept_of(request))
    offer = chosen(accept_of(request), [*SINGLE, *SEVERAL]).offer
    view, every = View(door, instance, asked, state), range(1, instance.frames + 1)
    if offer.multipart:
        return _several(request, door, [(view, every)], offer)
    return single(request, door, view, offer, every if offer.media_type == GIF else [1])


@router.get(_FRAMES + "/rendered")
def rendered_frames(request: Request, door: At, scope: InPath, frames: str) -> Response:
    """Retrieve frames by number, from 1, as pictures."""
    numbers = frame_numbers(frames)
    asked = rendering_of(request.query_params)
    instance = _instance_with(door, scope, numbers)
    state = state_in_parameters(door, request.query_params, scope.study_instance_uid)
    view = View(door, instance, asked, state)
    offers = [*SINGLE, *SEVERAL] if len(numbers) == 1 else [*SEVERAL, Offer(GIF)]
    offer = chosen(accept_of(request), offers).offer
    if offer.multipart:
        return _several(request, door, [(view, numbers)], offer)
    return single(request, door, view, offer, numbers)


@router.get(_STUDY + "/thumbnail")
@router.get(_SERIES + "/thumbnail")
@router.get(_INSTANCE + "/thumbnail")
@router.get(_FRAMES + "/thumbnail")
def thumbnail(request: Request, door: At, scope: InPath, frames: str = "") -> Response:
    """Retrieve a small picture that stands for a study, series, instance or frame."""
    asked = rendering_of(request.query_params, thumbnail=True)
    if frames:
        numbers = frame_numbers(frames)[:1]
        instance = _instance_with(door, scope, numbers)
    else:
        instance = representative(door.archive.retrieve(door.actor, scope))
        numbers = [_middle(instance)]
    offer = chosen(accept_of(request), SINGLE).offer
    return single(request, door, View(door, instance, asked), offer, numbers)


def _instance_with(door: Door, scope: Scope, numbers: Sequence[int]) -> Instance:
    (instance,) = door.archive.retrieve(door.actor, scope)
    if max(numbers) > instance.frames:
        raise Missing("there is no such frame", frames=instance.frames)
    return instance


def _middle(instance: Instance) -> int:
    return (instance.frames + 1) // 2


def single(
    request: Request, door: Door, view: View, offer: Offer, numbers: Sequence[int]
) -> Response:
    """One picture, or one film of several frames."""
    etag = fingerprint(door.parts.version, str(offer), *view.facts, *map(str, numbers))
    if is_current(request, etag):
        return not_modified(etag)
    if offer.media_type == GIF:
        body = view.film(numbers)
    else:
        body = view.picture(numbers[0], offer.media_type)
    headers = _headers(request, door, etag)
    return ranged(request, Body.of(body), offer.media_type, etag, headers)


def _several(
    request: Request, door: Door, views: Sequence[tuple[View, Sequence[int]]], offer: Offer
) -> Response:
    """A multipart body. What cannot be drawn fails before its first byte, or cuts it off."""
    facts = (fact for view, numbers in views for fact in (*view.facts, str(numbers)))
    etag = fingerprint(door.parts.version, str(offer), *facts)
    if is_current(request, etag):
        return not_modified(etag)
    headers = {"Content-Type": offer.media_type}
    parts: Iterator[tuple[Mapping[str, str], Sequence[bytes]]] = (
        (headers, (view.picture(number, offer.media_type),))
        for view, numbers in views
        for number in numbers
    )
    content_type = multipart.content_type(offer.media_type, boundary=etag)
    body = withheld(multipart.written(etag, parts))
    return streamed(request, body, content_type, _headers(request, door, etag))


def original(request: Request, door: Door, instance: Instance, accept: str) -> Response:
    """What is no image, as the document that it holds. Raises HTTPException 406."""
    found = originals.of(door, instance, with_patient=_wants_patient(request))
    if found is None:
        raise HTTPException(406, "this instance has no rendered form here")
    offer = chosen(accept, [Offer(found.media_type)]).offer
    etag = fingerprint(door.parts.version, instance.digest, str(offer), str(request.query_params))
    if is_current(request, etag):
        return not_modified(etag)
    headers = {**_headers(request, door, etag), **originals.HEADERS}
    return ranged(request, found.body, found.content_type, etag, headers)


def _wants_patient(request: Request) -> bool:
    return "patient" in rendering_of(request.query_params).annotation


def _headers(request: Request, door: Door, etag: str) -> dict[str, str]:
    if not unknown_annotations(request.query_params):
        return caching(etag)
    return {**caching(etag), **warning(door, "Some annotation values are not supported")}
