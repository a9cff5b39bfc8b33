"""What the S3 store promises beyond the contract: a server that is wrong, slow or gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pacs.errors import Exhausted, Forbidden, NodeError, Unreachable
from pacs.store import ObjectStore, open_store
from pacs.store import s3 as s3_module
from tests import parts


@pytest.fixture
def store(s3_url: str) -> ObjectStore:
    return open_store(s3_url, "objects")


def test_keys_lie_below_their_prefix_and_tell_nothing(
    store: ObjectStore, s3_server: parts.S3Server, s3_url: str
) -> None:
    digest = store.put([b"x"]).digest
    bucket = s3_server.folder / s3_url.rpartition("/")[2].partition("?")[0]
    files = [path.relative_to(bucket) for path in bucket.rglob("*") if path.is_file()]
    assert files == [Path("objects", digest[:2], digest)]


def test_an_object_above_the_part_size_goes_up_in_parts(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 << 20)  # the smallest that S3 allows
    content = bytes(range(256)) * (11 << 12)
    blob = store.put([memoryview(content)[: 3 << 20], memoryview(content)[3 << 20 :]])
    assert blob.size_bytes == 11 << 20
    assert b"".join(store.read(blob.digest)) == content
    assert b"".join(store.read(blob.digest, 5 << 20, 100)) == content[5 << 20 :][:100]


def test_a_wrong_secret_is_forbidden(s3_server: parts.S3Server) -> None:
    with pytest.raises(Forbidden):
        open_store(s3_server.new_bucket(secret="wrong"), "objects")


def test_a_secret_may_lie_in_a_file(s3_server: parts.S3Server, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(parts.SECRET + "\n")
    url = s3_server.new_bucket(secret="") + f"&secret_file={tmp_path}/secret"
    open_store(url, "objects").check()


def test_processes_that_start_at_once_make_one_bucket(s3_server: parts.S3Server) -> None:
    url = s3_server.new_bucket()
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: open_store(url, "objects"), range(8)))
    blob = stores[0].put([b"x"])
    assert list(stores[7].digests()) == [blob.digest]


def test_a_server_that_is_killed_is_unreachable_soon_and_nothing_is_half_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with parts.s3_server() as server:
        patient = open_store(server.new_bucket(), "objects")
        monkeypatch.setattr(s3_module, "RETRIES_MAX", 0)
        store = open_store(server.new_bucket(), "objects")
        kept = store.put([b"kept"])
        server.kill()
        for verb in (
            lambda: patient.put([b"lost"]),
            lambda: store.put([b"lost"]),
            lambda: store.read(kept.digest),
            lambda: store.delete(kept.digest),
            lambda: list(store.digests()),
            store.check,
        ):
            assert seconds_until_unreachable(verb) < 10
        names = {path.name for path in server.folder.rglob("*") if path.is_file()}
        assert names == {kept.digest}


def test_a_server_that_is_killed_while_objects_arrive_keeps_what_was_promised() -> None:
    with parts.s3_server() as server:
        store = open_store(server.new_bucket(), "objects")
        threading.Timer(0.3, server.kill).start()
        promised: set[str] = set()
        with pytest.raises(Unreachable):
            promised.update(store.put([b"%d" % n * 5000]).digest for n in range(100_000))
        kept = {path.name for path in server.folder.rglob("*") if path.is_file()}
        assert promised
        assert promised <= kept


def seconds_until_unreachable(verb: Callable[[], object]) -> float:
    begun = time.monotonic()
    with pytest.raises(Unreachable):
        verb()
    return time.monotonic() - begun


class _Answers(BaseHTTPRequestHandler):
    """A gateway that answers each method as the test wants: status and an S3 error code."""

    server: _Gateway

    def _answer(self) -> None:
        status, code = self.server.answers.get(self.command, (200, ""))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Thu, 29 Feb 2024 10:15:30 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = _answer  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Gateway(ThreadingHTTPServer):
    answers: dict[str, tuple[int, str]]


@contextmanager
def gateway(**answers: tuple[int, str]) -> Iterator[tuple[_Gateway, ObjectStore]]:
    with _Gateway(("127.0.0.1", 0), _Answers) as server:
        server.answers = {}
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            store = open_store(
                f"s3://key:secret@127.0.0.1:{server.server_port}/bucket?secure=false", "objects"
            )
            server.answers = answers
            yield server, store
        finally:
            server.shutdown()
            thread.join()


def test_a_gateway_that_says_yes_and_keeps_nothing_is_not_believed() -> None:
    """The answer to the question whether it is there says it is not; the object counts as unkept."""
    with gateway(HEAD=(404, "")) as (_, store), pytest.raises(Unreachable):
        store.put([b"x"])


def test_a_gateway_that_keeps_less_than_it_was_given_is_not_believed() -> None:
    with gateway() as (_, store), pytest.raises(Unreachable, match="did not"):
        store.put([b"x"])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((507, "XMinioStorageFull"), Exhausted),
        ((403, "AccessDenied"), Forbidden),
        ((403, "SignatureDoesNotMatch"), Forbidden),
        ((403, "RequestTimeTooSkewed"), Unreachable),
        ((409, "OperationAborted"), Unreachable),
        ((404, "NoSuchBucket"), Unreachable),
    ],
)
def test_an_error_of_the_server_says_who_must_act(
    answer: tuple[int, str], expected: type[NodeError]
) -> None:
    with gateway(PUT=answer) as (_, store), pytest.raises(expected):
        store.put([b"x"])


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_in_trouble_is_asked_again_and_then_unreachable(status: int) -> None:
    with gateway(PUT=(status, "SlowDown")) as (_, store):
        assert seconds_until_unreachable(lambda: store.put([b"x"])) < 10


def test_a_bucket_that_is_gone_is_noticed() -> None:
    with gateway(HEAD=(404, "")) as (_, store), pytest.raises(Unreachable):
        store.check()


def test_a_server_that_stays_silent_is_unreachable_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "READ_S", 0.2)
    with gateway() as (server, store):
        server.answers = {}
        silence = threading.Event()
        monkeypatch.setattr(_Answers, "do_PUT", lambda _: silence.wait(30))
        try:
            assert seconds_until_unreachable(lambda: store.put([b"x"])) < 10
        finally:
            silence.set()
