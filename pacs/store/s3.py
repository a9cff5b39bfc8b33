"""Any S3 server, MinIO among them, through the minio SDK.

A put is believed only when a second request confirms the object's size: some gateways answered
200 and kept nothing. Keys are PREFIX/aa/DIGEST, so they tell nothing of what they hold.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, cast

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import HTTPError

from pacs.dicom.mapped import forget, windows
from pacs.errors import Exhausted, Forbidden, Missing, NodeError, Unreachable
from pacs.store import CHUNK_BYTES, Blob, Piece, is_digest

CONNECT_S: Final = 5.0  # a server that does not take the connection in this time is unreachable
READ_S: Final = 20.0  # and so is one that stays silent this long within an answer
RETRIES_MAX: Final = 3  # tries of one request, with growing pauses between them
CONNECTIONS_MAX: Final = 32  # kept open between requests; a further one is closed after its use
PART_BYTES: Final = 8 << 20  # larger objects go up in parts of this size, some of them at a time

# Some servers say the second also of a bucket of ours; if it is a stranger's, the next call fails.
_MADE_ALREADY: Final = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})
_BEYOND_THE_END: Final = "InvalidRange"
_ABSENT: Final = frozenset({"NoSuchKey", "NoSuchObject", "NotFound"})
_NO_ROOM: Final = frozenset(
    {"XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"}
)
_TROUBLE: Final = (S3Error, ServerError, InvalidResponseError, HTTPError, OSError)


class S3Store:
    """Objects in one bucket, below one prefix. The bucket is made if it is absent."""

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        prefix: str,
        access: str,
        secret: str,
        secure: bool,
        region: str,
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._client = Minio(
            endpoint,
            access_key=access,
            secret_key=secret,
            secure=secure,
            region=region,
            http_client=urllib3.PoolManager(
                timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
                maxsize=CONNECTIONS_MAX,
                retries=urllib3.Retry(
                    total=RETRIES_MAX,
                    read=0,
                    backoff_factor=0.2,
                    status_forcelist=[500, 502, 503, 504],
                ),
            ),
        )
        try:
            if not self._client.bucket_exists(bucket):
                self._client.make_bucket(bucket)
        except _TROUBLE as error:
            if _code(error) not in _MADE_ALREADY:  # another process of this node was first
                raise _translated(error) from error

    def put(self, pieces: Sequence[Piece]) -> Blob:
        """Keep the pieces, and ask whether they are there. Raises Exhausted, Unreachable."""
        digest = hashlib.sha256()
        size = 0
        for piece in pieces:
            for window in windows(piece):
                digest.update(window)
            size += len(piece)
        blob = Blob(digest.hexdigest(), size)
        key = self._key(blob.digest)
        try:
            self._client.put_object(
                self._bucket, key, cast(BinaryIO, _Joined(pieces)), size, part_size=PART_BYTES
            )
            kept = self._client.stat_object(self._bucket, key)
        except _TROUBLE as error:
            failure = _translated(error)
            raise (_not_kept(size) if isinstance(failure, Missing) else failure) from error
        if kept.size != size:
            raise _not_kept(size)
        return blob

    def read(self, digest: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """The bytes of an object or a range of it. Raises Missing."""
        key = self._key(digest)
        try:
            if size == 0:
                self._client.stat_object(self._bucket, key)
                return iter(())
            response = self._client.get_object(self._bucket, key, offset=start, length=size or 0)
        except _TROUBLE as error:
            if _code(error) == _BEYOND_THE_END:
                return iter(())
            raise _translated(error) from error
        chunks = _streamed(response)
        next(chunks)
        return chunks

    def delete(self, digest: str) -> None:
        """Forget an object."""
        try:
            self._client.remove_object(self._bucket, self._key(digest))
        except _TROUBLE as error:
            raise _translated(error) from error

    def digests(self) -> Iterator[str]:
        """Every object's digest."""
        try:
            for entry in self._client.list_objects(
                self._bucket, prefix=f"{self._prefix}/", recursive=True
            ):
                name = (entry.object_name or "").rpartition("/")[2]
                if is_digest(name):
                    yield name
        except _TROUBLE as error:
            raise _translated(error) from error

    def tidy(self) -> int:
        """Nothing: an upload that was cut off never becomes an object."""
        return 0

    def check(self) -> None:
        """Return if the bucket answers. Raises Unreachable."""
        try:
            found = self._client.bucket_exists(self._bucket)
        except _TROUBLE as error:
            raise _translated(error) from error
        if not found:
            raise Unreachable("the store's bucket is gone")

    def _key(self, digest: str) -> str:
        assert is_digest(digest), "keys are digests"
        return f"{self._prefix}/{digest[:2]}/{digest}"


class _Joined(io.RawIOBase):
    """Pieces read one after the other, without joining them in memory."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__()
        self._left = [memoryview(piece) for piece in pieces if len(piece)]

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found = bytearray()
        while self._left and (size < 0 or len(found) < size):
            want = len(self._left[0]) if size < 0 else size - len(found)
            found += self._left[0][:want]
            if len(self._left[0]) > PART_BYTES:
                forget(self._left[0])
            self._left[0] = self._left[0][want:]
            if not self._left[0]:
                self._left.pop(0)
        return bytes(found)


def _streamed(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """An empty chunk, then those of the answer; who drops it after the first ends the request."""
    try:
        yield b""
        yield from response.stream(CHUNK_BYTES)
    except _TROUBLE as error:
        raise Unreachable("the store broke off while reading") from error
    finally:
        response.close()
        response.release_conn()


def _not_kept(size: int) -> NodeError:
    return Unreachable("the store said it kept the object, and did not", bytes=size)


def _code(error: Exception) -> str:
    """The S3 error code; read from the answer's text where the SDK does not take it for XML."""
    if isinstance(error, S3Error):
        return error.code or ""
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return found[1] if found else ""


def _translated(error: Exception) -> NodeError:
    code = _code(error)
    if code in _ABSENT:
        return Missing("the store has no such object")
    if code in _NO_ROOM:
        return Exhausted("the store is full")
    if code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return Forbidden("the store refuses our key")
    return Unreachable("the store does not answer", code=code or type(error).__name__)
