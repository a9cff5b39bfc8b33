"""DICOMweb beside Orthanc's: one series of 200 slices in both, asked in turn, A B A B A B.

Clients are processes of their own, each with one connection that stays open. A request counts when
its whole answer has come with status 200; medians of the rounds are compared.
"""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import chain, cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Final

from bench import peer
from bench.figures import Figure, Tell
from bench.load import CT_IMAGE_STORAGE, Address, Association, Slice, ct_slices, store_request
from bench.node import serving
from bench.peer import Server
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, preamble_and_meta, scan
from pacs.errors import Broken

ANSWER_S: Final = 120.0
REQUESTS_PER_S, MILLISECONDS = "requests/s", "ms"
BOUNDARY: Final = "bench-boundary"
DICOM: Final = 'multipart/related; type="application/dicom"'
OCTETS: Final = 'multipart/related; type="application/octet-stream"'


@dataclass(frozen=True, slots=True)
class Series:
    """What both servers hold."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A request, on the study, the series or each of its instances; and how many ask at once."""

    name: str
    path: str
    accept: str
    clients: int = 1
    requests: int = 1  # of all clients in a round

    def paths(self, series: Series) -> list[str]:
        """Where it asks, below a service's root."""
        study = f"/studies/{series.study_instance_uid}"
        below = f"{study}/series/{series.series_instance_uid}"
        return [
            self.path.format(study=study, series=below, instance=f"{below}/instances/{uid}")
            for uid in series.sop_instance_uids
        ]


QUESTIONS: Final = (
    Question("metadata of the series", "{series}/metadata", "application/dicom+json", requests=10),
    Question("frames, 4 clients", "{instance}/frames/1", OCTETS, 4, 400),
    Question("instances, 4 clients", "{instance}", DICOM, 4, 400),
    Question(
        "instance metadata, 4 clients", "{instance}/metadata", "application/dicom+json", 4, 400
    ),
    Question("rendered JPEG, 4 clients", "{instance}/rendered", "image/jpeg", 4, 200),
    Question("the whole study", "{study}", DICOM, requests=3),
)


@dataclass(frozen=True, slots=True)
class Web:
    """So many slices in the series, and so many rounds for each server."""

    slices: int
    rounds: int

    def measure(self, folder: Path, tell: Tell) -> Iterator[Figure]:
        """Requests a second, or the time of one where only one client asks."""
        with ExitStack() as stack:
            config = stack.enter_context(serving(folder / "node", "dimse,web"))
            servers = [Server.node(config)]
            if peer.speaks_dicomweb():
                servers.append(stack.enter_context(peer.orthanc(folder / "orthanc")))
            made = list(ct_slices(self.slices))
            for server in servers:
                tell(f"web: {self.slices} slices to {server.name}")
                _fill(server, made)
            series = _series(made)
            for question in QUESTIONS:
                tell(f"web: {question.name}")
                yield _figure(
                    question.name, question.clients > 1, self._asked(question, series, servers)
                )
            tell("web: STOW-RS")
            yield _figure("STOW-RS of the study", False, self._stored(servers))

    def _asked(self, question: Question, series: Series, servers: Sequence[Server]) -> list[float]:
        """The median of each server: requests a second, or ms."""
        took: list[list[float]] = [[] for _ in servers]
        for _ in range(self.rounds):
            for server, found in zip(servers, took, strict=True):
                found.append(_round(question, series, server))
        return [median(found) for found in took]

    def _stored(self, servers: Sequence[Server]) -> list[float]:
        took: list[list[float]] = [[] for _ in servers]
        for _ in range(self.rounds):
            for server, found in zip(servers, took, strict=True):
                found.append(_stow_ms(server, list(ct_slices(self.slices))))
        return [median(found) for found in took]


def _figure(name: str, is_rate: bool, medians: Sequence[float]) -> Figure:
    unit = REQUESTS_PER_S if is_rate else MILLISECONDS
    return Figure("web", name, medians[0], unit, medians[1] if len(medians) > 1 else 0.0)


def _fill(server: Server, slices: Sequence[Slice]) -> None:
    with Association(server.dicom, server.ae_title, quickack=True) as association:
        for number, one in enumerate(slices, 1):
            if association.store(store_request(one, number)):
                raise Broken("a slice was refused")


def _series(slices: Sequence[Slice]) -> Series:
    first = scan(slices[0].data_set, EXPLICIT_VR_LITTLE_ENDIAN)
    return Series(
        first.text("StudyInstanceUID"),
        first.text("SeriesInstanceUID"),
        tuple(one.sop_instance_uid for one in slices),
    )


def _round(question: Question, series: Series, server: Server) -> float:
    """One round: requests a second of all clients together, or ms for one request."""
    every = list(islice(cycle(question.paths(series)), question.requests))
    share = [every[n :: question.clients] for n in range(question.clients)]
    spans = _fetched(server, question.accept, share)
    took_s = max(ended for _, ended in spans) - min(began for began, _ in spans)
    if question.clients > 1:
        return question.requests / took_s
    return took_s * 1000 / question.requests


def _fetched(
    server: Server, accept: str, shares: Sequence[Sequence[str]]
) -> list[tuple[float, float]]:
    """When each client, a process of its own, began and ended. Raises Broken on a bad answer."""
    if len(shares) == 1:
        return [_fetch_all(server.http, server.root, accept, shares[0])]
    fresh = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes: list[Connection] = []
        for paths in shares:
            ours, theirs = fresh.Pipe()
            process = fresh.Process(
                target=_client, args=(theirs, server.http, server.root, accept, paths), daemon=True
            )
            process.start()
            theirs.close()
            stack.callback(process.join)
            pipes.append(stack.enter_context(ours))
        return _started_together(pipes)


def _started_together(pipes: Sequence[Connection]) -> list[tuple[float, float]]:
    try:
        for pipe in pipes:
            pipe.recv()
        for pipe in pipes:
            pipe.send("go")
        return [pipe.recv() for pipe in pipes]
    except EOFError:
        raise Broken("a client failed; see above") from None


def _client(
    pipe: Connection, address: Address, root: str, accept: str, paths: Sequence[str]
) -> None:
    """The main function of a client's process."""
    door = _opened(address)
    _fetch(door, root + paths[0], accept)
    pipe.send("ready")
    pipe.recv()
    pipe.send(_timed(door, root, accept, paths))


def _fetch_all(
    address: Address, root: str, accept: str, paths: Sequence[str]
) -> tuple[float, float]:
    door = _opened(address)
    _fetch(door, root + paths[0], accept)
    return _timed(door, root, accept, paths)


def _timed(
    door: HTTPConnection, root: str, accept: str, paths: Sequence[str]
) -> tuple[float, float]:
    began = time.monotonic()
    for path in paths:
        _fetch(door, root + path, accept)
    return began, time.monotonic()


def _opened(address: Address) -> HTTPConnection:
    return HTTPConnection(*address, timeout=ANSWER_S)


def _fetch(door: HTTPConnection, path: str, accept: str) -> None:
    door.request("GET", path, headers={"Accept": accept})
    answer = door.getresponse()
    size = 0
    while piece := answer.read(1 << 20):
        size += len(piece)
    if answer.status != 200 or not size:
        raise Broken("a request failed, and a fast failure is no figure", status=answer.status)


def _stow_ms(server: Server, slices: Sequence[Slice]) -> float:
    """How long one STOW-RS request with all slices takes, in ms."""
    head = f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    parts = chain.from_iterable((head, _part10(one)) for one in slices)
    body = b"".join((*parts, f"\r\n--{BOUNDARY}--\r\n".encode()))
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}',
        "Accept": "application/dicom+json",
    }
    door = _opened(server.http)
    began = time.monotonic()
    door.request("POST", f"{server.root}/studies", body, headers)
    answer = door.getresponse()
    said = answer.read()
    took_ms = (time.monotonic() - began) * 1000
    # A Referenced SOP Sequence item for each instance that was stored (PS3.18 I.2.2).
    if answer.status != 200 or len(re.findall(rb"00081155", said)) < len(slices):
        raise Broken("a study was not stored", status=answer.status)
    return took_ms


def _part10(one: Slice) -> bytes:
    meta = preamble_and_meta(
        sop_class_uid=CT_IMAGE_STORAGE,
        sop_instance_uid=one.sop_instance_uid,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
    )
    return meta + one.data_set
