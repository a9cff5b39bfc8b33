"""How many instances a second the DIMSE door takes in, beside the bare receiver and Orthanc.

All are measured in turn, A B C A B C, and their medians compared: a virtual disk may allow a
burst and then slow every sync down, and whoever came second would pay for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from bench import ceiling, peer
from bench.figures import Figure, Tell
from bench.load import CT_IMAGE_STORAGE, Address, ct_slices, send
from bench.node import serving
from bench.peer import Server
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, preamble_and_meta
from pacs.errors import Broken

WARM_UP_INSTANCES: Final = 8
RATE: Final = "instances/s"
STORED: Final = b"Received Store Response (Success)"  # storescu says so of each instance

# What one sending gives: instances/s, and the time within which 99 % of them were answered, in ms.
Measured = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Senders:
    """Who sends: so many associations at once, acknowledging segments at once or with delay."""

    name: str
    associations: int
    quickack: bool = True

    def __call__(self, address: Address, called: str, instances: int) -> Measured:
        sent = send(
            address, called, instances, associations=self.associations, quickack=self.quickack
        )
        return sent.instances_per_s, sent.answer_ms(0.99)


@dataclass(frozen=True, slots=True)
class Storescu:
    """DCMTK's sender as it is, its start and its reading of the files included."""

    name: str
    programme: str

    def __call__(self, address: Address, called: str, instances: int) -> Measured:
        with TemporaryDirectory(prefix="isocenter-bench-") as name:
            _write_files(Path(name), instances)
            command = [self.programme, "-v", "-aec", called, *map(str, address), "+sd", name]
            began = time.monotonic()
            ended = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
            )
            took_s = time.monotonic() - began
        stored = ended.stdout.count(STORED)
        if stored < instances:
            raise Broken("storescu did not send every slice", stored=stored, exit=ended.returncode)
        return instances / took_s, 0.0


def _write_files(folder: Path, instances: int) -> None:
    for number, one in enumerate(ct_slices(instances)):
        meta = preamble_and_meta(
            sop_class_uid=CT_IMAGE_STORAGE,
            sop_instance_uid=one.sop_instance_uid,
            transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        )
        (folder / f"{number:05}.dcm").write_bytes(meta + one.data_set)


SENDERS: Final = (
    Senders("1 association", 1),
    Senders("4 associations", 4),
    Senders("8 associations", 8),
    Senders("1 association, acknowledging late", 1, quickack=False),
)


def senders() -> Iterator[Senders | Storescu]:
    """Our senders, and DCMTK's where it is installed."""
    yield from SENDERS
    # Only where systems install it: pynetdicom puts a programme of this name beside Python.
    programme = shutil.which("storescu", path=os.defpath)
    if programme:
        yield Storescu("DCMTK storescu", programme)


@dataclass(frozen=True, slots=True)
class Ingest:
    """So many instances a round, for each of two receivers and each kind of sender."""

    instances: int
    rounds: int

    def measure(self, folder: Path, tell: Tell) -> Iterator[Figure]:
        """The rate of each kind of sender, and the time that 99 % of its answers kept to."""
        for sender in senders():
            with TemporaryDirectory(dir=folder) as name, ExitStack() as stack:
                config = stack.enter_context(serving(Path(name) / "node", "dimse"))
                servers = [Server.node(config)]
                if peer.programme():
                    servers.append(stack.enter_context(peer.orthanc(Path(name) / "orthanc")))
                for server in servers:
                    sender(server.dicom, server.ae_title, WARM_UP_INSTANCES)
                yield from self._compared(sender, servers, Path(name), tell)

    def _compared(
        self, sender: Senders | Storescu, servers: Sequence[Server], folder: Path, tell: Tell
    ) -> Iterator[Figure]:
        bare: list[Measured] = []
        taken: list[list[Measured]] = [[] for _ in servers]
        for turn in range(1, self.rounds + 1):
            tell(f"ingest: {sender.name}, round {turn} of {self.rounds}")
            with (
                TemporaryDirectory(dir=folder) as name,
                ceiling.receiving(Path(name)) as address,
            ):
                bare.append(sender(address, "CEILING", self.instances))
            for server, found in zip(servers, taken, strict=True):
                found.append(sender(server.dicom, server.ae_title, self.instances))
        (rate, slowest_ms), (bare_rate, bare_slowest_ms) = _medians(taken[0]), _medians(bare)
        yield Figure("ingest", sender.name, rate, RATE, bare_rate)
        if slowest_ms:
            yield Figure("ingest", f"{sender.name}, p99", slowest_ms, "ms", bare_slowest_ms)
        for server, found in zip(servers[1:], taken[1:], strict=True):
            beside = f"{sender.name}, beside {server.name}"
            yield Figure("ingest", beside, rate, RATE, _medians(found)[0])


def _medians(measured: list[Measured]) -> Measured:
    rates, slowest_ms = zip(*measured, strict=True)
    return median(rates), median(slowest_ms)
