"""From S3 what a viewer asks first is one object read each, counted on the wire to the server."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from pacs.archive.series_metadata import make_due
from pacs.index import catalog
from tests import make, parts
from tests.unit.web.node import TESTER, Served, serving

_REQUEST = re.compile(rb"^(GET|HEAD|PUT|POST|DELETE) \S+ HTTP/1\.1\r$", re.MULTILINE)

STUDY = make.uid("study")
SERIES = make.uid(STUDY, "series", 1)
FRAMES = [b"one1" * 50, b"two two2" * 50]
J2K = "1.2.840.10008.1.2.4.90"


@dataclass
class Wire:
    """A relay to an S3 server that notes the method of every request."""

    endpoint: str
    requests: list[str] = field(default_factory=list)


@contextmanager
def wire_to(endpoint: str) -> Iterator[Wire]:
    host, _, port = endpoint.partition(":")
    with socket.create_server(("127.0.0.1", 0)) as door:
        wire = Wire(f"127.0.0.1:{door.getsockname()[1]}")
        threading.Thread(target=_accept, args=(door, (host, int(port)), wire), daemon=True).start()
        yield wire


def _accept(door: socket.socket, target: tuple[str, int], wire: Wire) -> None:
    with suppress(OSError):  # the door is closed
        while True:
            client, _ = door.accept()
            server = socket.create_connection(target)
            for source, sink, seen in ((client, server, wire.requests), (server, client, None)):
                threading.Thread(target=_relay, args=(source, sink, seen), daemon=True).start()


def _relay(source: socket.socket, sink: socket.socket, seen: list[str] | None) -> None:
    with suppress(OSError), source, sink:
        while data := source.recv(1 << 16):
            if seen is not None:
                seen += [method.decode() for method in _REQUEST.findall(data)]
            sink.sendall(data)


@pytest.fixture(scope="module")
def wire(s3_server: parts.S3Server) -> Iterator[Wire]:
    with wire_to(s3_server.endpoint) as wire:
        yield wire


@pytest.fixture(scope="module")
def node(
    wire: Wire, s3_server: parts.S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    url = s3_server.new_bucket().replace(s3_server.endpoint, wire.endpoint)
    with serving(tmp_path_factory.mktemp("node"), store_url=url) as served:
        for made in make.study(40):
            served.archive.store(TESTER, make.incoming(made))
        compressed = make.data_set(1, study_instance_uid=make.uid("compressed"))
        made = make.encapsulated(compressed, FRAMES)
        served.archive.store(TESTER, make.incoming(made, J2K))
        with served.archive.index.write() as connection:
            for study in catalog.quiet_studies(connection, 0, 9):
                catalog.complete_study(connection, study.id, 1)
        assert make_due(served.archive, seconds_max=60) == 2
        yield served


def path_of(study: str, series: str, number: int = 0) -> str:
    path = f"/dicom-web/studies/{study}/series/{series}"
    return f"{path}/instances/{make.uid(series, number)}" if number else path


OF_COMPRESSED = path_of(make.uid("compressed"), make.uid(make.uid("compressed"), "series"), 1)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (path_of(STUDY, SERIES) + "/metadata", {"Accept-Encoding": "gzip"}),
        (path_of(STUDY, SERIES) + "/metadata", {"Accept-Encoding": "identity"}),
        (path_of(STUDY, SERIES, 40) + "/metadata", {}),
        (f"/dicom-web/studies/{STUDY}/metadata", {}),
        (path_of(STUDY, SERIES, 1) + "/frames/1", {}),
        (OF_COMPRESSED + "/frames/2", {}),
        (path_of(STUDY, SERIES, 1), {"Accept": "application/dicom; transfer-syntax=*"}),
        (path_of(STUDY, SERIES, 1) + "/bulkdata/7FE00010", {"Range": "bytes=100-200"}),
        (OF_COMPRESSED + "/bulkdata/7FE00010", {}),
    ],
)
def test_what_a_viewer_asks_is_one_read(
    node: Served, wire: Wire, path: str, headers: dict[str, str]
) -> None:
    wire.requests.clear()
    answer = node.client.get(path, headers=headers)
    assert answer.status_code in (200, 206)
    assert wire.requests == ["GET"]


def test_what_a_viewer_has_already_is_no_read_at_all(node: Served, wire: Wire) -> None:
    for path in (path_of(STUDY, SERIES) + "/metadata", path_of(STUDY, SERIES, 1) + "/frames/1"):
        etag = node.client.get(path).headers["etag"]
        wire.requests.clear()
        assert node.client.get(path, headers={"If-None-Match": etag}).status_code == 304
        assert not wire.requests


def test_frames_are_cut_out_of_what_is_read(node: Served) -> None:
    assert node.client.get(OF_COMPRESSED + "/frames/2").content.count(FRAMES[1]) == 1
    assert node.client.get(OF_COMPRESSED + "/bulkdata/7FE00010").content == b"".join(FRAMES)
