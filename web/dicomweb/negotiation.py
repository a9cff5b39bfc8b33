"""Which form of a resource a request gets (PS3.18 8.7; RFC 9110 12).

A resource makes offers; the Accept header puts them in an order; what an offer costs (nothing, or
a transcoding, or more than we can do) decides between those that are liked equally well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pacs.dicom import uids
from web.dicomweb.media_types import (
    DICOM_JSON,
    JSON,
    MULTIPART,
    MediaRange,
    MediaType,
    media_ranges,
)

AS_STORED: Final = "*"
NONE_NAMED: Final = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """One form of a resource: the media type of its body, or of each part of a multipart body."""

    media_type: str
    multipart: bool = False

    def __str__(self) -> str:
        """As an Accept header would ask for it."""
        return f'{MULTIPART}; type="{self.media_type}"' if self.multipart else self.media_type


@dataclass(frozen=True, slots=True)
class Choice:
    """An offer that a request accepts, and the transfer syntax it names for it.

    `transfer_syntax` is a UID, AS_STORED or NONE_NAMED.
    """

    offer: Offer
    transfer_syntax: str = AS_STORED


JSON_OFFERS: Final = (Offer(DICOM_JSON), Offer(JSON))

Cost = Callable[[Choice], int | None]


def accept_of(request: Request) -> str:
    """What a request accepts; the query parameter goes before the header (PS3.18 8.3.3.1).

    A plus sign of a query parameter arrives as a space.
    """
    parameter = request.query_params.get("accept")
    return request.headers.get("accept", "") if parameter is None else _with_plus(parameter)


def _with_plus(parameter: str) -> str:
    return parameter.replace("dicom json", "dicom+json").replace("dicom xml", "dicom+xml")


def for_nothing(_choice: Choice) -> int:
    """The cost of what lies ready."""
    return 0


def chosen(accept: str, offers: Sequence[Offer], cost: Cost = for_nothing) -> Choice:
    """What to answer with: the highest quality, then the lowest cost, then the first listed.

    Of several media ranges that mean one offer, the most specific says how much it is liked, or
    that it is not (RFC 9110 12.5.1). `cost` is None for what cannot be made. Raises HTTPException
    406, which names the offers.
    """
    wanted = list(_wanted(accept, offers, cost))
    refused = {(one.choice, one.precision) for one in wanted if one.price is None}
    precision: dict[Offer, int] = {}
    for one in wanted:
        if one.price is not None or one.choice.transfer_syntax in (AS_STORED, NONE_NAMED):
            offer = one.choice.offer
            precision[offer] = max(one.precision, precision.get(offer, 0))
    liked = [
        one
        for one in wanted
        if one.price is not None and one.precision == precision[one.choice.offer]
        if (one.choice, one.precision) not in refused
    ]
    if not liked:
        raise HTTPException(406, f"available are {', '.join(map(str, offers))}")
    return min(liked, key=lambda one: (-one.quality, one.price)).choice


class _Wanted(NamedTuple):
    """A choice that a media range means; its price is None where the range refuses it."""

    choice: Choice
    precision: int
    quality: float
    price: int | None


def _wanted(accept: str, offers: Sequence[Offer], cost: Cost) -> Iterator[_Wanted]:
    """What an Accept header means, in its order, without what cannot be made."""
    for one in media_ranges(accept):
        for choice in _choices(one, offers):
            price = cost(choice) if one.quality else None
            if price is not None or not one.quality:
                yield _Wanted(choice, _precision(one, choice.offer), one.quality, price)


def _precision(wanted: MediaRange, offer: Offer) -> int:
    """How precisely a media range means an offer: not at all, a kind of type, the type itself."""
    pattern = _pattern(wanted.wanted, offer)
    return 0 if pattern == "*/*" else 1 if pattern.endswith("/*") else 2


def json_type(request: Request) -> str:
    """The media type of a DICOM JSON answer. Raises HTTPException 406."""
    return chosen(accept_of(request), JSON_OFFERS).offer.media_type


def _choices(wanted: MediaRange, offers: Sequence[Offer]) -> Iterator[Choice]:
    """The offers that one media range names, in the order of the offers."""
    for offer in offers:
        pattern = _pattern(wanted.wanted, offer)
        if pattern and _covers(pattern, offer.media_type):
            is_open = "*" in pattern
            syntax = wanted.wanted.parameters.get(
                "transfer-syntax", AS_STORED if is_open else NONE_NAMED
            )
            if syntax in (AS_STORED, NONE_NAMED) or uids.is_valid(syntax):
                yield Choice(offer, syntax)


def _pattern(wanted: MediaType, offer: Offer) -> str:
    """What a media range says about the media type of an offer; empty if it is not meant."""
    if wanted.name == "*/*":
        return "*/*"
    if wanted.name in (MULTIPART, "multipart/*"):
        return wanted.parameters.get("type", "*/*").lower() if offer.multipart else ""
    return "" if offer.multipart else wanted.name


def _covers(pattern: str, media_type: str) -> bool:
    return pattern in ("*/*", media_type) or (
        pattern.endswith("/*") and media_type.startswith(pattern[:-1])
    )
