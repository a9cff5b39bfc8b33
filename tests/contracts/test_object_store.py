"""The promises of `ObjectStore`, kept by every back end."""

from __future__ import annotations

import gc
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacs.errors import BadQuery, Missing
from pacs.store import CHUNK_BYTES, Blob, ObjectStore, open_store

ABSENT = "0" * 64


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read(store: ObjectStore, digest: str, start: int = 0, size: int | None = None) -> bytes:
    return b"".join(store.read(digest, start, size))


def test_what_was_put_is_read_again_under_its_digest(object_store: ObjectStore) -> None:
    blob = object_store.put([b"one ", bytearray(b"two "), memoryview(b"three")])
    assert blob == Blob(sha256(b"one two three"), 13)
    assert read(object_store, blob.digest) == b"one two three"


@pytest.mark.parametrize("pieces", [[], [b""], [b"", b"", b""], [b"", b"one", b""]])
def test_empty_pieces_and_empty_objects_are_kept(
    object_store: ObjectStore, pieces: list[bytes]
) -> None:
    blob = object_store.put(pieces)
    assert blob == Blob(sha256(b"".join(pieces)), len(b"".join(pieces)))
    assert read(object_store, blob.digest) == b"".join(pieces)
    assert list(object_store.digests()) == [blob.digest]


def test_an_object_of_many_chunks_comes_back_whole(object_store: ObjectStore) -> None:
    content = os.urandom(CHUNK_BYTES * 5 + 7)
    blob = object_store.put([content[:1000], memoryview(content)[1000:]])
    chunks = list(object_store.read(blob.digest))
    assert b"".join(chunks) == content
    assert max(map(len, chunks)) <= CHUNK_BYTES


@pytest.mark.parametrize(
    ("start", "size"),
    [(0, None), (0, 1), (0, 10), (3, 4), (3, None), (9, 1), (9, 100), (0, 100), (4, 0), (0, 0)],
)
def test_a_range_is_read_as_python_slices(
    object_store: ObjectStore, start: int, size: int | None
) -> None:
    blob = object_store.put([b"0123456789"])
    expected = b"0123456789"[start:][:size]
    assert read(object_store, blob.digest, start, size) == expected


@pytest.mark.parametrize(("start", "size"), [(10, None), (10, 5), (99, 1), (99, None)])
def test_a_range_beyond_the_end_is_empty(
    object_store: ObjectStore, start: int, size: int | None
) -> None:
    blob = object_store.put([b"0123456789"])
    assert read(object_store, blob.digest, start, size) == b""


def test_a_range_of_an_empty_object_is_empty(object_store: ObjectStore) -> None:
    blob = object_store.put([])
    assert read(object_store, blob.digest, 0, 5) == b""


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=3000), data=st.data())
def test_any_range_of_any_object_is_right(
    object_store: ObjectStore, content: bytes, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(content)))
    size = data.draw(st.one_of(st.none(), st.integers(0, len(content) + 3)))
    digest = object_store.put([content]).digest
    assert read(object_store, digest, start, size) == content[start:][:size]


@pytest.mark.parametrize(("start", "size"), [(0, None), (5, 3), (0, 0)])
def test_what_is_not_here_is_missing_at_once(
    object_store: ObjectStore, start: int, size: int | None
) -> None:
    with pytest.raises(Missing):
        object_store.read(ABSENT, start, size)


def test_a_key_that_is_no_digest_never_reaches_the_back_end(object_store: ObjectStore) -> None:
    for key in ("../../etc/passwd", "", ABSENT[:-1], ABSENT.replace("0", "A"), ABSENT + "\n"):
        with pytest.raises(AssertionError):
            object_store.read(key)
        with pytest.raises(AssertionError):
            object_store.delete(key)


def test_a_deleted_object_is_missing_and_may_come_back(object_store: ObjectStore) -> None:
    blob = object_store.put([b"again"])
    object_store.delete(blob.digest)
    with pytest.raises(Missing):
        object_store.read(blob.digest)
    assert list(object_store.digests()) == []
    assert object_store.put([b"again"]) == blob
    assert read(object_store, blob.digest) == b"again"


def test_deleting_what_is_not_here_changes_nothing(object_store: ObjectStore) -> None:
    blob = object_store.put([b"stays"])
    object_store.delete(ABSENT)
    object_store.delete(ABSENT)
    assert list(object_store.digests()) == [blob.digest]


def test_digests_names_every_object_once(object_store: ObjectStore) -> None:
    contents = [str(n).encode() for n in range(20)]
    for content in contents * 2:
        object_store.put([content])
    assert sorted(object_store.digests()) == sorted(map(sha256, contents))


def test_equal_objects_are_one_object(object_store: ObjectStore) -> None:
    content = os.urandom(300_000)
    blobs = {object_store.put([content]) for _ in range(3)}
    assert blobs == {Blob(sha256(content), len(content))}
    assert listed(object_store) == [sha256(content)]


def listed(object_store: ObjectStore) -> list[str]:
    """What a store lists, after at most 5 s: S3 servers may list an object later than they have it."""
    for _ in range(50):
        if found := list(object_store.digests()):
            return found
        time.sleep(0.1)
    return []


def test_objects_put_at_once_are_all_kept(object_store: ObjectStore) -> None:
    contents = [os.urandom(20_000) for _ in range(48)]
    with ThreadPoolExecutor(16) as pool:
        blobs = list(pool.map(lambda content: object_store.put([content]), contents))
    assert [blob.digest for blob in blobs] == list(map(sha256, contents))
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda b: read(object_store, b.digest), blobs)) == contents


def test_a_reader_of_a_deleted_object_gets_all_of_it_or_an_error_of_ours(
    object_store: ObjectStore,
) -> None:
    content = os.urandom(CHUNK_BYTES * 3)
    reading = object_store.read(object_store.put([content]).digest)
    first = next(reading)
    object_store.delete(sha256(content))
    assert first + b"".join(reading) == content


def test_a_reading_that_is_dropped_holds_nothing_open(object_store: ObjectStore) -> None:
    blob = object_store.put([bytes(CHUNK_BYTES * 3)])
    read(object_store, blob.digest)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        object_store.read(blob.digest)
        next(object_store.read(blob.digest))
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_two_prefixes_of_one_place_know_nothing_of_each_other(tmp_path: Path, s3_url: str) -> None:
    for url in (f"file://{tmp_path}", s3_url):
        one, other = open_store(url, "clinical"), open_store(url, "research")
        blob = one.put([b"mine"])
        assert list(other.digests()) == []
        with pytest.raises(Missing):
            other.read(blob.digest)
        other.delete(blob.digest)
        assert list(one.digests()) == [blob.digest]


def test_a_store_that_can_take_objects_says_so(object_store: ObjectStore) -> None:
    object_store.check()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/folder",
        "ftp://host/folder",
        "file://relative/folder",
        "file:",
        "s3://key:secret@/bucket",
        "s3://key:secret@host:9000/",
        "s3://key:secret@host:9000/bucket/folder",
        "s3://key:secret@host:port/bucket",
        "s3://key@host:9000/bucket?secret_file=/no/such/file",
    ],
)
def test_a_url_that_names_no_store_is_refused_without_repeating_its_secret(url: str) -> None:
    with pytest.raises(BadQuery) as caught:
        open_store(url, "objects")
    assert "secret@" not in str(caught.value)


def test_special_characters_of_a_folder_are_percent_encoded(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/a%20folder%23", "objects")
    store.put([b"x"])
    assert (tmp_path / "a folder#" / "objects").is_dir()
