"""DCMTK's tools and a running node by DICOM TLS, each calling the other."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pacs.dimse import scu
from pacs.dimse.tls import Credentials, TlsPort
from pacs.peers import Peer, Right
from tests import make
from tests.unit.dimse.certificates import Authority, authority
from tests.unit.dimse.scanner import OPERATOR, Node, instance, node
from tests.wire.q_r_peers import STUDY_MOVE, identifier, requestor
from tests.wire.test_dcmtk import FOLDERS, written

START_S = 20.0  # a tool that does not listen by then is said to be stuck


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def server(ours: Authority) -> Credentials:
    return ours.credentials("node", "DNS:localhost", "IP:127.0.0.1")


@pytest.fixture(scope="module")
def strict(server: Credentials, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    tls = TlsPort(0, server.accepting("require"))
    with node(tmp_path_factory.mktemp("strict"), None, tls) as running:
        yield running


@pytest.fixture(scope="module")
def open_(server: Credentials, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    tls = TlsPort(0, server.accepting("none"))
    with node(tmp_path_factory.mktemp("open"), None, tls) as running:
        yield running


def tool(name: str) -> Path:
    """One of DCMTK's tools; without it the test is skipped."""
    found = [folder / name for folder in FOLDERS if (folder / name).exists()]
    if not found:
        pytest.skip(f"DCMTK's {name} is not installed: apt-get install dcmtk")
    return found[0]


def shown(credentials: Credentials) -> list[str]:
    """The options with which DCMTK shows a certificate, and trusts the authority of tests."""
    return ["+tls", str(credentials.key), str(credentials.certificate), *trusting(credentials)]


def trusting(credentials: Credentials) -> list[str]:
    return ["+cf", str(credentials.authorities)]


def run(
    name: str, running: Node, *options: str, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Call the TLS port of a node with one of DCMTK's tools, as SCANNER."""
    titles = ["-aec", "ISOCENTER", "-aet", "SCANNER"]
    where = ["localhost", str(running.receiver.tls_port), *([] if path is None else [str(path)])]
    return subprocess.run(
        [tool(name), *options, *titles, *where],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_echoscu_is_answered_in_each_profile_of_bcp_195(
    strict: Node, ours: Authority, profile: str
) -> None:
    done = run("echoscu", strict, *shown(ours.credentials("SCANNER")), profile)
    assert done.returncode == 0, done.stderr


def test_echoscu_without_a_certificate_is_answered_where_none_is_asked(
    open_: Node, strict: Node, ours: Authority
) -> None:
    nobody = ["+tla", *trusting(ours.credentials("anybody"))]
    done = run("echoscu", open_, *nobody)
    assert done.returncode == 0, done.stderr
    assert run("echoscu", strict, *nobody).returncode != 0


def test_echoscu_in_the_clear_is_refused(open_: Node) -> None:
    assert run("echoscu", open_).returncode != 0


def test_echoscu_of_the_retired_profiles_is_refused(open_: Node, ours: Authority) -> None:
    done = run("echoscu", open_, *shown(ours.credentials("SCANNER")), "+pn")
    assert done.returncode != 0


@pytest.mark.parametrize("days", [-1, 2])
def test_echoscu_of_an_expired_or_strange_certificate_is_refused(
    strict: Node, ours: Authority, tmp_path: Path, days: int
) -> None:
    signer = ours if days < 0 else authority(tmp_path / "others")
    refused = signer.credentials("SCANNER", days=days)
    options = ["+tls", str(refused.key), str(refused.certificate), "+cf", str(ours.certificate)]
    assert run("echoscu", strict, *options).returncode != 0


def test_echoscu_under_a_title_of_another_certificate_is_refused(
    strict: Node, ours: Authority
) -> None:
    done = run("echoscu", strict, *shown(ours.credentials("OTHER")))
    assert "Calling AE Title Not Recognized" in done.stderr


def test_storescu_sends_a_study(strict: Node, ours: Authority, tmp_path: Path) -> None:
    study = written(tmp_path, make.EXPLICIT, 20)
    scanner = ours.credentials("SCANNER")
    done = run("storescu", strict, *shown(scanner), "+sd", "+r", path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(strict.instances(study)) == 20


@contextmanager
def storescp(folder: Path, credentials: Credentials, *options: str) -> Iterator[int]:
    """DCMTK's receiver by TLS; its port."""
    found = tool("storescp")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    process = subprocess.Popen(
        [found, *shown(credentials), *options, "-od", folder, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + START_S
        while not _listens(port):
            assert process.poll() is None, "storescp ended at once"
            assert time.monotonic() < until, "storescp does not listen"
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_what_we_send_arrives_at_storescp(ours: Authority, tmp_path: Path) -> None:
    (tmp_path / "received").mkdir()
    (tmp_path / "sent").mkdir()
    for number in range(5):
        (tmp_path / "sent" / f"{number}.dcm").write_bytes(make.part10_bytes(instance()))
    theirs, mine = ours.credentials("them", "DNS:localhost"), ours.credentials("us")
    with storescp(tmp_path / "received", theirs) as port:
        peer = scu.Peer("localhost", port, "STORESCP", tls=mine)
        scu.echo(peer)
        heard = list(scu.send(scu.find([tmp_path / "sent"]), peer))
    assert [one.status for one in heard] == [0x0000] * 5
    assert len(list((tmp_path / "received").iterdir())) == 5


def test_a_study_is_moved_to_storescp(ours: Authority, tmp_path: Path) -> None:
    (tmp_path / "received").mkdir()
    data_set = instance()
    theirs, mine = ours.credentials("them", "DNS:localhost"), ours.credentials("us")
    with (
        storescp(tmp_path / "received", theirs) as port,
        node(tmp_path / "node", credentials=mine) as running,
        requestor(running, STUDY_MOVE) as association,
    ):
        running.archive.store(OPERATOR, make.incoming(data_set))
        peer = Peer("DEST", "localhost", port, tls=True, rights=frozenset({Right.RECEIVE}))
        running.peers.put(OPERATOR, peer)
        asked = identifier(StudyInstanceUID=data_set.StudyInstanceUID)
        *_, (last, _) = association.send_c_move(asked, "DEST", STUDY_MOVE)
        assert last.Status == 0x0000
    assert len(list((tmp_path / "received").iterdir())) == 1
