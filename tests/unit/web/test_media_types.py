"""Media types and Accept headers, as viewers really write them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from web.dicomweb.media_types import MEDIA_RANGES_MAX, media_ranges, media_type
from web.dicomweb.negotiation import AS_STORED, JSON_OFFERS, NONE_NAMED, Choice, Offer, chosen

PART_10 = Offer("application/dicom", multipart=True)
SINGLE = Offer("application/dicom")
FRAMES = Offer("application/octet-stream", multipart=True)
FRAME = Offer("application/octet-stream")
JPEG = Offer("image/jpeg", multipart=True)

DEFLATED = "1.2.840.10008.1.2.1.99"


@pytest.mark.parametrize(
    ("text", "name", "parameters"),
    [
        ("application/dicom", "application/dicom", {}),
        ("Application/DICOM ; Q=0.5", "application/dicom", {"q": "0.5"}),
        ('multipart/related; type="a/b"; boundary=x', "multipart/related", {"type": "a/b", "boundary": "x"}),
        ("multipart/related;type=a/b;", "multipart/related", {"type": "a/b"}),
        (r'a/b; c="d;\",e"; f=g', "a/b", {"c": 'd;",e', "f": "g"}),
        ("a/b; lonely; =nothing; c==d", "a/b", {"": "nothing", "c": "=d"}),
    ],
)  # fmt: skip
def test_a_media_type_is_read_with_its_parameters(
    text: str, name: str, parameters: dict[str, str]
) -> None:
    found = media_type(text)
    assert found is not None
    assert (found.name, found.parameters) == (name, parameters)


@pytest.mark.parametrize(
    "text", ["", " ", ";", "nothing", "a/", "/b", "a b/c", "a/b/c", "é/ü", '"']
)
def test_what_is_no_media_type_is_none(text: str) -> None:
    assert media_type(text) is None


def test_a_media_range_that_cannot_be_read_is_skipped() -> None:
    found = media_ranges("nonsense, a/b;q=2, c/d;q=nan, ,, e/f;q=0.5, */*;q=0")
    assert [(r.wanted.name, r.quality) for r in found] == [("e/f", 0.5), ("*/*", 0.0)]


RANGES = st.sampled_from(
    ["*/*", "application/*", "multipart/*", "multipart/related", "application/dicom", "image/jpeg"]
)
PARAMETERS = st.lists(
    st.sampled_from(
        "q=0 q=1 q=0.5 q=7 type=application/dicom type='image/*' type= x boundary=b"
        " transfer-syntax=* transfer-syntax= transfer-syntax=1.2".replace("'", '"').split()
    ),
    max_size=3,
)
ACCEPTS = st.lists(st.tuples(RANGES, PARAMETERS).map(lambda r: ";".join((r[0], *r[1]))), max_size=4)


@given(ACCEPTS)
def test_what_is_chosen_was_asked_for_and_is_not_refused(accepts: list[str]) -> None:
    offers = [PART_10, SINGLE, JPEG]
    with suppress(HTTPException):
        choice = chosen(",".join(accepts), offers)
        assert choice.offer in offers
        alone = [one for one in accepts if _is_chosen(one, choice)]
        assert alone or not ",".join(accepts)


def _is_chosen(accept: str, choice: Choice) -> bool:
    """Whether this media range alone would allow the choice."""
    with suppress(HTTPException):
        return chosen(accept, [choice.offer]) == choice
    return False


def test_of_an_endless_accept_header_only_the_beginning_is_read() -> None:
    assert len(media_ranges("a/b," * 100_000)) == MEDIA_RANGES_MAX


@given(st.text(alphabet='ab/*;,="\\ q.10-', max_size=60))
def test_any_accept_header_gets_an_answer(accept: str) -> None:
    with suppress(HTTPException):
        assert chosen(accept, JSON_OFFERS).offer in JSON_OFFERS


@pytest.mark.parametrize(
    ("accept", "offers", "expected"),
    [
        ("", [PART_10, SINGLE], Choice(PART_10, AS_STORED)),
        ("*/*", [PART_10, SINGLE], Choice(PART_10, AS_STORED)),
        ("multipart/*", [SINGLE, PART_10], Choice(PART_10, AS_STORED)),
        ("multipart/related", [PART_10, SINGLE], Choice(PART_10, AS_STORED)),
        ("application/*", [PART_10, SINGLE], Choice(SINGLE, AS_STORED)),
        # OHIF and cornerstone, frames
        (
            "multipart/related; type=application/octet-stream; transfer-syntax=*",
            [FRAMES, FRAME],
            Choice(FRAMES, AS_STORED),
        ),
        # OHIF, series list
        (
            "application/dicom+json, multipart/related; type=application/octet-stream",
            JSON_OFFERS,
            Choice(JSON_OFFERS[0], NONE_NAMED),
        ),
        # OHIF, segmentations
        (
            'multipart/related; type="application/dicom"',
            [PART_10, SINGLE],
            Choice(PART_10, NONE_NAMED),
        ),
        # Weasis
        (
            "application/dicom;transfer-syntax=*, image/jpeg;q=0.5",
            [PART_10, SINGLE],
            Choice(SINGLE, AS_STORED),
        ),
        # dicomweb-client
        ("application/dicom+json, application/json", JSON_OFFERS, Choice(JSON_OFFERS[0], NONE_NAMED)),
        ("application/json", JSON_OFFERS, Choice(JSON_OFFERS[1], NONE_NAMED)),
        (
            f'multipart/related; type="application/dicom"; transfer-syntax={DEFLATED}',
            [PART_10],
            Choice(PART_10, DEFLATED),
        ),
        ("application/dicom;q=0.1, multipart/related;q=0.2", [PART_10, SINGLE], Choice(PART_10)),
        ("*/*, multipart/related;type=application/dicom;q=0", [PART_10, SINGLE], Choice(SINGLE)),
        # The most specific range that means an offer decides (RFC 9110 12.5.1).
        ("application/dicom+json;q=0.5, */*", JSON_OFFERS, Choice(JSON_OFFERS[1])),
        ("*/*;q=0, application/json;q=0.1", JSON_OFFERS, Choice(JSON_OFFERS[1], NONE_NAMED)),
        ("application/*;q=0, application/json", JSON_OFFERS, Choice(JSON_OFFERS[1], NONE_NAMED)),
        ("application/dicom;q=0, application/*", [SINGLE, FRAME], Choice(FRAME)),
        # ... of its transfer syntax; who takes anything takes it as stored.
        ("application/dicom;transfer-syntax=1.9;q=0, */*", [SINGLE], Choice(SINGLE)),
        ("multipart/related;type=image/jpeg", [FRAMES, JPEG], Choice(JPEG, NONE_NAMED)),
        ('multipart/related; type="image/*"', [FRAMES, JPEG], Choice(JPEG, AS_STORED)),
    ],
)  # fmt: skip
def test_a_client_gets_what_it_asks_for(accept: str, offers: list[Offer], expected: Choice) -> None:
    assert chosen(accept, offers) == expected


@pytest.mark.parametrize(
    "accept",
    [
        "image/png",
        "nonsense",
        "*/*;q=0",
        "application/dicom; transfer-syntax=../../etc",
        "multipart/related; type=application/dicom+xml",
        "multipart/form-data",
        "*/*, */*;q=0",
        "multipart/*;q=0, application/*;q=0, */*",
    ],
)
def test_what_is_not_on_offer_is_not_acceptable(accept: str) -> None:
    with pytest.raises(HTTPException, match="application/dicom") as raised:
        chosen(accept, [PART_10, SINGLE])
    assert raised.value.status_code == 406


def test_among_equals_the_cheaper_form_is_chosen_and_the_impossible_never() -> None:
    accept = "application/dicom; transfer-syntax=1.2.3, application/dicom; transfer-syntax=*"
    assert chosen(accept, [SINGLE], lambda c: 0 if c.transfer_syntax == "*" else 1) == Choice(
        SINGLE
    )
    with pytest.raises(HTTPException):
        chosen(accept, [SINGLE], lambda _: None)
