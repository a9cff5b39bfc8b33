"""multipart/related: whatever the chunks, the same parts; whatever the body, no surprise."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.errors import NodeError
from web.bodies import paced
from web.dicomweb import multipart
from web.dicomweb.multipart import BadMultipart, PartData, PartEnds, Splitter
from web.errors import TooLong, TooSlow
from web.limits import Limits

BOUNDARY = "edge"
SMALL = Limits(
    part_header_bytes_max=64,
    padding_bytes_max=64,
    parts_max=3,
    part_bytes_max=40,
    body_bytes_max=1000,
    memory_bytes_max=8,
)

Received = list[tuple[dict[str, str], bytes | None]]


async def _chunks(body: bytes, cuts: Sequence[int]) -> AsyncIterator[bytes]:
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for start, end in pairwise(edges):
        yield body[start:end]


def received(
    body: bytes,
    spool: Path,
    *,
    cuts: Sequence[int] = (),
    boundary: str = BOUNDARY,
    limits: Limits = SMALL,
) -> Received:
    async def read() -> Received:
        parts = multipart.read_parts(_chunks(body, cuts), boundary, spool, limits)
        async with aclosing(parts) as opened:
            return [
                (dict(part.headers), None if part.too_long else bytes(part.buffer()))
                async for part in opened
            ]

    return asyncio.run(read())


def bodies(parts: Received) -> list[bytes | None]:
    return [body for _, body in parts]


def paced_out(chunks: Sequence[tuple[float, bytes]], limits: Limits) -> bytes:
    """What is read of chunks, each of which comes after so many seconds."""

    async def slowly() -> AsyncIterator[bytes]:
        for wait_s, chunk in chunks:
            await asyncio.sleep(wait_s)
            yield chunk

    async def read() -> bytes:
        return b"".join([chunk async for chunk in paced(slowly(), limits)])

    return asyncio.run(read())


def test_a_sender_that_is_too_slow_is_given_up() -> None:
    dripping = Limits(rate_free_s=0.02, rate_bytes_s_min=1_000_000)
    assert paced_out([(0.0, b"ab"), (0.0, b"cd")], dripping) == b"abcd"
    with pytest.raises(TooSlow):
        paced_out([(0.05, b"a"), (0.0, b"b")], dripping)
    with pytest.raises(TooSlow):
        paced_out([(0.0, b"a"), (10.0, b"b")], Limits(chunk_wait_s_max=0.05))


# Text that is full of what a careless reader takes for a delimiter.
nasty = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"-", b"edge", b"--edg", b"x", b"\0"]),
    max_size=12,
).map(b"".join)


@given(payloads=st.lists(nasty, max_size=3), cuts=st.lists(st.integers(0, 500), max_size=20))
def test_what_was_written_is_read_however_it_is_cut(
    payloads: list[bytes], cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    boundary = "a boundary that no payload holds"
    sent = [({"Content-Type": "application/dicom"}, [payload]) for payload in payloads]
    body = b"".join(multipart.written(boundary, sent))
    limits = Limits(memory_bytes_max=8)
    found = received(
        body, tmp_path_factory.getbasetemp(), cuts=cuts, boundary=boundary, limits=limits
    )
    assert found == [({"content-type": "application/dicom"}, payload) for payload in payloads]


@given(body=st.binary(max_size=300) | nasty, cuts=st.lists(st.integers(0, 300), max_size=8))
def test_any_body_is_read_or_refused_and_the_cuts_do_not_matter(
    body: bytes, cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def outcome(cuts: Sequence[int]) -> Received | str:
        try:
            return received(b"--edge\r\n" + body, tmp_path_factory.getbasetemp(), cuts=cuts)
        except NodeError as error:
            return type(error).__name__

    assert outcome(cuts) == outcome(())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"--edge\r\n\r\nabc\r\n--edge--", [b"abc"]),
        (b"--edge\r\n\r\nabc\r\n--edge--\r\nepilogue", [b"abc"]),
        (b"preamble\r\n--edge\r\n\r\nabc\r\n--edge--", [b"abc"]),
        (b"--edge \t\r\n\r\nabc\r\n--edge \r\n\r\n\r\n--edge--", [b"abc", b""]),
        (b"--edge\r\nA: b\r\n\r\n--edge--", [b""]),
        (b"--edge\r\nA: b\r\n\r\n\r\n--edge--", [b""]),
        (b"--edge\r\n\r\n\r\n\r\n--edge--", [b"\r\n"]),
        (b"--edge\r\n\r\n--edgy\r\n--edge--", [b"--edgy"]),
        (b"--edge--", []),
    ],
)
def test_every_form_of_rfc_2046_is_read(body: bytes, expected: list[bytes], tmp_path: Path) -> None:
    assert bodies(received(body, tmp_path)) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--edge",
        b"--edge\r\n\r\nabc",
        b"--edge\r\n\r\nabc\r\n--edge",
        b"--edge\r\n\r\nabc\r\n--edge\r\n",
        b"--edge\r\n\r\nabc\r\n--edge-",
        b"--edge\r\n\r\nabc\r\n--edge- \r\n",
        b"--edge\r\n\r\nabc\r\n--edges\r\n\r\n--edge--",
        b"--edge\n\nabc\n--edge--",
        b"--edge\r\nno colon\r\n\r\nabc\r\n--edge--",
        b"--edge\r\nName : space\r\n\r\nabc\r\n--edge--",
        b"--edge\r\nA: b\rc\r\n\r\nabc\r\n--edge--",
        b"--edge\r\nA: b\nB: c\r\n\r\nabc\r\n--edge--",
        b"--edge\r\nA: b\0\r\n\r\nabc\r\n--edge--",
        b"--edge\r\nContent-Type: a/b\r\nContent-Type: c/d\r\n\r\nabc\r\n--edge--",
    ],
)
def test_a_broken_body_is_refused(body: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadMultipart):
        received(body, tmp_path)


def test_headers_are_read_with_their_folds(tmp_path: Path) -> None:
    body = b'--edge\r\nContent-Type: application/dicom;\r\n  a="b"\r\nX-Y:\r\n\r\n\r\n--edge--'
    ((headers, _),) = received(body, tmp_path)
    assert headers == {"content-type": 'application/dicom; a="b"', "x-y": ""}


@pytest.mark.parametrize(
    "boundary", ["", "x" * 71, "trailing space ", 'quo"te', "new\nline", "é", "a;b"]
)
def test_a_malformed_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(BadMultipart):
        multipart.checked_boundary(boundary)


def test_the_longest_boundary_is_taken() -> None:
    assert multipart.checked_boundary("=_?'()+,-./: " + "x" * 57)


def test_part_headers_are_bounded_before_they_end(tmp_path: Path) -> None:
    with pytest.raises(BadMultipart, match="headers of a part are too long"):
        received(b"--edge\r\nX: " + b"y" * 200, tmp_path, cuts=range(0, 200, 7))


def test_padding_after_a_boundary_is_bounded() -> None:
    splitter = Splitter(b"edge", SMALL)
    with pytest.raises(BadMultipart):
        list(splitter.feed(b"--edge" + b" " * 200))


@pytest.mark.parametrize("body", [b"x" * 200, b"--edge--" + b"x" * 200])
def test_text_around_the_parts_is_bounded(body: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadMultipart, match="around the parts"):
        received(body, tmp_path)


def test_one_part_more_than_allowed_is_refused(tmp_path: Path) -> None:
    part = b"--edge\r\n\r\nabc\r\n"
    assert len(received(part * 3 + b"--edge--", tmp_path)) == 3
    with pytest.raises(TooLong, match="too many parts"):
        received(part * 4 + b"--edge--", tmp_path)


def test_a_long_body_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TooLong, match="the body is too long"):
        received(b"--edge\r\n\r\n" + b"x" * 1000, tmp_path)


def test_a_part_that_is_too_long_is_marked_and_the_next_is_read(tmp_path: Path) -> None:
    body = b"--edge\r\n\r\n" + b"x" * 41 + b"\r\n--edge\r\n\r\n" + b"y" * 40 + b"\r\n--edge--"
    assert bodies(received(body, tmp_path, cuts=range(0, 120, 11))) == [None, b"y" * 40]


def test_a_long_part_is_mapped_from_a_file_without_a_name(tmp_path: Path) -> None:
    async def read() -> None:
        part = multipart.Part({}, tmp_path, SMALL)
        await part.write(b"x" * 30)
        await part.write(b"y")
        buffer = part.buffer()
        assert isinstance(buffer, mmap.mmap)
        assert list(tmp_path.iterdir()) == []
        view = memoryview(buffer)[29:]
        part.close()
        assert bytes(view) == b"xy"

    asyncio.run(read())


def test_a_spool_that_is_gone_is_an_exhausted_limit_of_ours(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="spool"):
        received(b"--edge\r\n\r\n" + b"x" * 40 + b"\r\n--edge--", tmp_path / "missing")


def test_a_part_ends_only_when_its_delimiter_was_read() -> None:
    splitter = Splitter(b"edge", SMALL)
    events = list(splitter.feed(b"--edge\r\n\r\nabc\r\n--edge"))
    assert not any(isinstance(event, PartEnds) for event in events)
    assert b"".join(event.data for event in events if isinstance(event, PartData)) == b"abc"
    assert list(splitter.feed(b"--")) == [PartEnds()]
