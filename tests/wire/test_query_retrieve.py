"""DCMTK's findscu, getscu, movescu and storescp: requestors and destinations that we did not write."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from pacs.archive import Incoming, Scope
from pacs.dicom.part10 import read_part10
from pacs.peers import Peer, Right
from tests import make
from tests.unit.dimse.scanner import OPERATOR, Node, node
from tests.wire.test_dcmtk import FOLDERS

COMPRESSED = Path(__file__).parents[2] / "sample_dicom" / "compressed"
STUDY = make.uid("study")


def tool(name: str) -> Path:
    """DCMTK's tool; without it, the test is skipped."""
    found = [folder / name for folder in FOLDERS if (folder / name).exists()]
    if not found:
        pytest.skip(f"DCMTK's {name} is not installed: apt-get install dcmtk")
    return found[0]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("node")) as started:
        for made in make.study(10, series=2):
            started.archive.store(OPERATOR, make.incoming(made))
        yield started


def run(name: str, running: Node, *options: str | Path) -> subprocess.CompletedProcess[str]:
    keys = ["-aet", "SCANNER", "-aec", "ISOCENTER", "127.0.0.1", str(running.port)]
    return subprocess.run(
        [tool(name), "-v", *options, *keys], capture_output=True, text=True, timeout=60, check=False
    )


def wanted(level: str, *keys: str) -> list[str]:
    return [part for key in (f"QueryRetrieveLevel={level}", *keys) for part in ("-k", key)]


def files_in(folder: Path) -> dict[str, Path]:
    """The files of a folder, by SOP Instance UID."""
    return {
        dcmread(file, stop_before_pixels=True).SOPInstanceUID: file for file in folder.iterdir()
    }


@contextmanager
def storescp(running: Node, folder: Path, *options: str) -> Iterator[None]:
    """DCMTK's receiver as the destination DCMTK."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running.peers.put(OPERATOR, Peer("DCMTK", "127.0.0.1", port, rights=frozenset({Right.RECEIVE})))
    process = subprocess.Popen(
        [tool("storescp"), "-od", folder, "-aet", "DCMTK", *options, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize(
    ("root", "level", "keys", "matches"),
    [
        ("-P", "PATIENT", ["PatientID"], 1),
        ("-P", "STUDY", ["PatientID=P-1", "StudyInstanceUID"], 1),
        ("-S", "STUDY", ["PatientName=phantom*", "StudyDate=20240101-"], 1),
        ("-S", "SERIES", [f"StudyInstanceUID={STUDY}", "Modality"], 2),
        (
            "-S",
            "IMAGE",
            [f"StudyInstanceUID={STUDY}", f"SeriesInstanceUID={make.uid(STUDY, 'series', 1)}"],
            10,
        ),
    ],
)
def test_findscu_finds_at_every_level(
    running: Node, root: str, level: str, keys: list[str], matches: int
) -> None:
    done = run("findscu", running, root, *wanted(level, *keys))
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("(Pending)") == matches


def test_findscu_hears_what_is_wrong(running: Node) -> None:
    done = run("findscu", running, "-S", *wanted("SERIES", "Modality"))
    assert "DataSetDoesNotMatchSOPClass" in done.stdout + done.stderr


def test_findscu_cancels(running: Node) -> None:
    keys = wanted("IMAGE", f"StudyInstanceUID={STUDY}", "SOPInstanceUID")
    series = ["-k", f"SeriesInstanceUID={make.uid(STUDY, 'series', 1)}"]
    done = run("findscu", running, "-S", "--cancel", "1", *keys, *series)
    # The ten answers may be out before the C-CANCEL is in.
    assert "Final Find Response" in done.stdout + done.stderr
    assert running.answers()


def test_getscu_gets_a_study_bit_for_bit(running: Node, tmp_path: Path) -> None:
    keys = wanted("STUDY", f"StudyInstanceUID={STUDY}")
    done = run("getscu", running, "-S", "+B", "-od", tmp_path, *keys)
    assert done.returncode == 0, done.stderr
    received = files_in(tmp_path)
    assert len(received) == 20
    for held in running.instances(STUDY):
        file = received[held.sop_instance_uid].read_bytes()
        assert bytes(read_part10(file).data_set) == running.archive.data_set(held)


@pytest.mark.parametrize("name", ["jpeg_2000", "jpeg_ls", "jpeg_lossless", "rle"])
def test_getscu_takes_a_compressed_study_uncompressed(
    running: Node, tmp_path: Path, name: str
) -> None:
    for file in sorted((COMPRESSED / name).glob("*.dcm")):
        part10 = read_part10(file.read_bytes())
        incoming = Incoming(part10.data_set, part10.transfer_syntax_uid)
        study = running.archive.store(OPERATOR, incoming).study_instance_uid
    done = run(
        "getscu", running, "-S", "-od", tmp_path, *wanted("STUDY", f"StudyInstanceUID={study}")
    )
    assert done.returncode == 0, done.stderr
    received = files_in(tmp_path)
    held = running.archive.retrieve(OPERATOR, Scope(study))
    assert {one.sop_instance_uid for one in held} == set(received)
    for file in received.values():
        image = dcmread(file)
        assert image.file_meta.TransferSyntaxUID in (make.EXPLICIT, make.IMPLICIT)
        assert image.pixel_array.size == image.Rows * image.Columns * image.get(
            "SamplesPerPixel", 1
        )


@pytest.mark.parametrize("options", [(), ("+xi",), ("+xe",)])
def test_movescu_moves_a_study_to_storescp(
    running: Node, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with storescp(running, tmp_path, *options):
        keys = wanted("STUDY", f"StudyInstanceUID={STUDY}")
        done = run("movescu", running, "-S", "-aem", "DCMTK", *keys)
    assert done.returncode == 0, done.stdout + done.stderr
    received = files_in(tmp_path)
    assert len(received) == 20
    syntaxes = {dcmread(file).file_meta.TransferSyntaxUID for file in received.values()}
    assert syntaxes == {make.IMPLICIT if options == ("+xi",) else make.EXPLICIT}


def test_movescu_hears_that_its_destination_is_unknown(running: Node) -> None:
    keys = wanted("STUDY", f"StudyInstanceUID={generate_uid()}")
    done = run("movescu", running, "-S", "-aem", "NOBODY", *keys)
    assert "MoveDestinationUnknown" in done.stdout + done.stderr
