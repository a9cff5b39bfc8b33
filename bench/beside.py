"""QIDO-RS, C-FIND and C-GET beside Orthanc's, both holding the same studies.

The same questions are asked of both in turn and their medians compared. A C-FIND or C-GET counts
with the association it needs, as a workstation pays for it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import parse_qsl

import httpx

from bench import peer
from bench.figures import Figure, Tell
from bench.load import Association, Slice, ct_slices, store_request
from bench.node import serving
from bench.peer import Server
from bench.query import ANSWER_S, LIMIT, QUESTIONS, TELL_EVERY, Made
from pacs.dicom.attributes import Level
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, scan
from pacs.dimse import query_scu
from pacs.dimse.scu import Peer
from pacs.errors import Broken
from pacs.index.catalog import Scope

CALLER: Final = "BENCH"

Ask = Callable[[Server, Made], None]


@dataclass(frozen=True, slots=True)
class Beside:
    """So many studies of one instance each, a series of so many slices, and so many requests."""

    studies: int
    slices: int
    requests: int

    def measure(self, folder: Path, tell: Tell) -> Iterator[Figure]:
        """Times in ms; nothing where Orthanc is not installed."""
        if not peer.speaks_dicomweb():
            tell("beside: Orthanc and its DICOMweb plug-in are not installed here")
            return
        with ExitStack() as stack:
            config = stack.enter_context(serving(folder / "node", "dimse,web"))
            servers = [Server.node(config), stack.enter_context(peer.orthanc(folder / "orthanc"))]
            _list_us(servers[0])
            made = list(ct_slices(self.slices))
            for server in servers:
                _fill(server, made, self.studies, tell)
            yield from self._asked(servers, tell)
            yield self._got(servers, made, tell)

    def _asked(self, servers: Sequence[Server], tell: Tell) -> Iterator[Figure]:
        middle = self.studies // 2
        paths = {**QUESTIONS, f"offset {middle:,}": lambda _: f"&offset={middle}"}
        for name, question in paths.items():
            tell(f"beside: QIDO-RS, {name}")
            yield self._compared(f"QIDO-RS, {name}", servers, _qido(question))
        for name, question in QUESTIONS.items():
            tell(f"beside: C-FIND, {name}")
            yield self._compared(f"C-FIND, {name}", servers, _c_find(question))

    def _compared(self, name: str, servers: Sequence[Server], ask: Ask) -> Figure:
        dice = random.Random(0)
        took_ms: list[list[float]] = [[] for _ in servers]
        for _ in range(self.requests):
            about = Made.of(dice.randrange(self.studies))
            for server, found in zip(servers, took_ms, strict=True):
                began = time.perf_counter()
                ask(server, about)
                found.append((time.perf_counter() - began) * 1000)
        ours, theirs = (median(found) for found in took_ms)
        return Figure("beside Orthanc", name, ours, "ms", theirs)

    def _got(self, servers: Sequence[Server], made: Sequence[Slice], tell: Tell) -> Figure:
        tell(f"beside: C-GET of {self.slices} slices")
        study = scan(made[0].data_set, EXPLICIT_VR_LITTLE_ENDIAN).text("StudyInstanceUID")

        def get(server: Server, _: Made) -> None:
            got = query_scu.get(_called(server), Scope(study), lambda *_: "")
            if got.kept < len(made):
                raise Broken("a C-GET did not bring the study", kept=got.kept)

        few = Beside(self.studies, self.slices, min(5, self.requests))
        return few._compared(f"C-GET of {self.slices} slices", servers, get)


def _qido(question: Callable[[Made], str]) -> Ask:
    doors: dict[Server, HTTPConnection] = {}

    def ask(server: Server, about: Made) -> None:
        if server not in doors:
            doors[server] = HTTPConnection(*server.http, timeout=ANSWER_S)
        path = f"{server.root}/studies?limit={LIMIT}{question(about)}"
        doors[server].request("GET", path, headers={"Accept": "application/dicom+json"})
        answer = doors[server].getresponse()
        if not answer.read(3).startswith(b"[{") or answer.status != 200:
            raise Broken("a query found nothing", status=answer.status)
        answer.read()

    return ask


def _c_find(question: Callable[[Made], str]) -> Ask:
    def ask(server: Server, about: Made) -> None:
        wanted = {"PatientName": "", "StudyDate": "", **dict(parse_qsl(question(about)))}
        found = query_scu.find(_called(server), Level.STUDY, wanted, matches_max=LIMIT)
        if not found.rows:
            raise Broken("a query found nothing")

    return ask


def _called(server: Server) -> Peer:
    return Peer(*server.dicom, server.ae_title, CALLER)


def _list_us(node: Server) -> None:
    """Let us query and retrieve from our own node, which lets no stranger do that."""
    url = f"http://{node.http[0]}:{node.http[1]}/api/peers/{CALLER}"
    body = {"host": node.dicom[0], "port": 104, "rights": ["query", "retrieve", "store"]}
    httpx.put(url, json=body).raise_for_status()


def _fill(server: Server, slices: Sequence[Slice], studies: int, tell: Tell) -> None:
    """The slices, then studies of one instance each, down one association."""
    small = (_slice(Made.of(number).data_set()) for number in range(studies))
    with Association(server.dicom, server.ae_title, quickack=True) as association:
        for number, one in enumerate((*slices, *small)):
            if number % TELL_EVERY == 0:
                tell(f"beside: {number} of {len(slices) + studies} instances to {server.name}")
            if association.store(store_request(one, number % 65_535 + 1)):
                raise Broken("an instance was refused")


def _slice(data_set: bytes) -> Slice:
    return Slice(scan(data_set, EXPLICIT_VR_LITTLE_ENDIAN).text("SOPInstanceUID"), data_set)
