"""Where bytes are kept: immutable objects, each named by the SHA-256 of its content.

The store knows nothing of patients, studies or UIDs; a peer never chooses a key. `open_store`
turns a URL of the configuration into a back end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pacs.errors import BadQuery

Piece = bytes | bytearray | memoryview

CHUNK_BYTES: Final = 256 << 10  # how much of an object is read at a time

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Blob:
    """A kept object: the SHA-256 of its bytes in lower-case hex, and how many there are."""

    digest: str
    size_bytes: int


class ObjectStore(Protocol):
    """Immutable objects, each named by its digest.

    There is no overwrite and no rename, so a retry is harmless and a reader never sees half an
    object. An object that no row names is garbage, and the sweep may remove it. Every back end
    passes `tests/contracts/test_object_store.py`.
    """

    def put(self, pieces: Sequence[Piece]) -> Blob:
        """Keep the pieces as one object. It survives a power cut once this returns.

        Raises Exhausted if there is no room, Unreachable if the back end does not answer; nothing
        is left behind then.
        """

    def read(self, digest: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """The bytes of an object or of a range of it, in chunks; beyond its end there are none.

        Raises Missing at once.
        """

    def delete(self, digest: str) -> None:
        """Forget an object; one that is not here is already forgotten."""

    def digests(self) -> Iterator[str]:
        """The digest of every object, in no order."""

    def tidy(self) -> int:
        """Remove what killed processes left half-done, if it is old enough; how many."""

    def check(self) -> None:
        """Return if objects can be put now. Raises Unreachable or Exhausted."""


def is_digest(text: str) -> bool:
    """Whether text may name an object."""
    return _DIGEST.fullmatch(text) is not None


def open_store(url: str, prefix: str) -> ObjectStore:
    """The store a URL names, all keys below prefix.

    `file:///path/to/folder`, or `s3://ACCESS:SECRET@HOST:PORT/BUCKET?secure=false` with
    `region=…` where the server wants one and `secret_file=…` instead of a secret in the URL.
    """
    from pacs.store.files import FileStore
    from pacs.store.s3 import S3Store

    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FileStore(Path(unquote(parts.path)) / prefix)
    if parts.scheme != "s3" or not parts.hostname or not parts.path.strip("/"):
        raise BadQuery("a store is file:///FOLDER or s3://ACCESS:SECRET@HOST:PORT/BUCKET")
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    try:
        return S3Store(
            endpoint=parts.netloc.rpartition("@")[2],
            bucket=parts.path.strip("/"),
            prefix=prefix,
            access=unquote(parts.username or ""),
            secret=_secret(parts, options),
            secure=options.get("secure", "true") != "false",
            region=options.get("region", "us-east-1"),
        )
    except ValueError as error:
        raise BadQuery("the store's URL has no valid host, port or bucket") from error


def _secret(parts: SplitResult, options: dict[str, str]) -> str:
    if "secret_file" not in options:
        return unquote(parts.password or "")
    try:
        return Path(options["secret_file"]).read_text().strip()
    except OSError as error:
        raise BadQuery("the store's secret file cannot be read") from error
