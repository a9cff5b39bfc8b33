"""Orthanc beside the node: same machine, same run, same load, same promise to sync before it answers.

It is run where it is installed (on Debian: packages orthanc and orthanc-dicomweb) and measured as it
comes but for its ports and PDU length; nothing of it is taken. Where it is missing its figures are left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

from bench.load import Address
from pacs.cli.serve import free_port
from pacs.config import Config
from pacs.errors import Broken

LOOPBACK: Final = "127.0.0.1"
PLUGINS: Final = Path("/usr/share/orthanc/plugins")  # where Debian puts them
DICOMWEB_PLUGIN: Final = "libOrthancDicomWeb.so"
START_S: Final = 30.0  # a peer that does not answer by then is broken
STOP_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """What is measured: where its doors are."""

    name: str
    dicom: Address
    ae_title: str
    http: Address
    root: str = "/dicom-web"

    @classmethod
    def node(cls, config: Config) -> Server:
        """A node of ours that runs."""
        return cls(
            "Isocenter",
            (config.bind, config.dimse.port),
            config.dimse.aet,
            (config.bind, config.http.port),
        )


def programme() -> str | None:
    """Where Orthanc is installed, None where it is not."""
    return shutil.which("Orthanc", path=os.pathsep.join([os.defpath, "/usr/sbin", "/sbin"]))


def speaks_dicomweb() -> bool:
    """Whether its DICOMweb plugin is installed beside it."""
    return programme() is not None and (PLUGINS / DICOMWEB_PLUGIN).exists()


@contextmanager
def orthanc(folder: Path) -> Iterator[Server]:
    """Orthanc on ports of its own, its data in this folder. Raises Broken where it does not start."""
    folder.mkdir(exist_ok=True)
    found = programme()
    assert found is not None
    server = Server(
        "Orthanc",
        (LOOPBACK, free_port(0, LOOPBACK)),
        "ORTHANC",
        (LOOPBACK, free_port(0, LOOPBACK)),
    )
    settings = folder / "orthanc.json"
    settings.write_text(json.dumps(_settings(server, folder)))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([found, str(settings)], stdout=log, stderr=log)
    try:
        _wait(server, process)
        yield server
    finally:
        _stop(process)


def _settings(server: Server, folder: Path) -> dict[str, object]:
    return {
        "Name": "peer",
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "Plugins": [str(PLUGINS / DICOMWEB_PLUGIN)] if speaks_dicomweb() else [],
        "HttpPort": server.http[1],
        "AuthenticationEnabled": False,
        "DicomWeb": {"Enable": True, "Root": f"{server.root}/"},
        "DicomAet": server.ae_title,
        "DicomPort": server.dicom[1],
        "MaximumPduLength": 131_072,  # what every sender here sends, and its greatest
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "SyncStorageArea": True,  # it syncs before it answers, as we do
    }


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            door = HTTPConnection(*server.http, timeout=2)
            door.request("GET", "/system")
            if door.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise Broken("Orthanc did not start", exit=str(process.poll()))


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
