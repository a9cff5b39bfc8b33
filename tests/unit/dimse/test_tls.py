"""DICOM TLS: who is let in, who is not, and that a slow caller holds up nobody."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from pacs.access import Actor
from pacs.dimse import reasons, scu
from pacs.dimse.tls import ClientCertificate, Credentials, TlsPort, names_of
from pacs.dimse.upper_layer import DimseLimits
from pacs.errors import Broken, Unreachable
from pacs.peers import Peer, Right
from tests import make
from tests.unit.dimse.certificates import Authority, authority, old_context
from tests.unit.dimse.scanner import OPERATOR, Gone, Node, Scanner, instance, node

REJECTED, ACCEPTED = 3, 2


class People(NamedTuple):
    """Certificates of one authority, and one of a stranger."""

    authority: Authority
    server: Credentials
    scanner: Credentials  # its common name is the AE title SCANNER
    stranger: Credentials  # of another authority


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    folder = tmp_path_factory.mktemp("certificates")
    ours, others = authority(folder / "ours"), authority(folder / "others")
    return People(
        ours,
        ours.credentials("node", "DNS:localhost", "IP:127.0.0.1"),
        ours.credentials("SCANNER"),
        others.credentials("SCANNER", "DNS:localhost"),
    )


@contextmanager
def serving(
    folder: Path,
    credentials: Credentials,
    demand: ClientCertificate,
    limits: DimseLimits | None = None,
) -> Iterator[Node]:
    """A node with a TLS port."""
    with node(folder, limits, TlsPort(0, credentials.accepting(demand))) as running:
        yield running


@pytest.fixture(scope="module")
def strict(people: People, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose TLS port requires a certificate of its callers."""
    with serving(tmp_path_factory.mktemp("strict"), people.server, "require") as running:
        yield running


@pytest.fixture(scope="module")
def open_(people: People, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose TLS port asks its callers for nothing."""
    with serving(tmp_path_factory.mktemp("open"), people.server, "none") as running:
        yield running


def tls_port(running: Node) -> int:
    """The TLS port of a node."""
    port = running.receiver.tls_port
    assert port is not None
    return port


def trouble(running: Node, tls: Credentials | None, *, host: str = "localhost") -> str:
    """Why a C-ECHO by TLS is not answered; empty if it is."""
    try:
        scu.echo(scu.Peer(host, tls_port(running), calling_ae_title="SCANNER", tls=tls))
    except Unreachable as error:
        return error.message
    return ""


def test_both_ports_of_a_node_answer(strict: Node, people: People) -> None:
    assert strict.answers()
    assert trouble(strict, people.scanner) == ""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_study_is_stored_byte_for_byte_by_either_version(
    strict: Node, people: People, version: ssl.TLSVersion
) -> None:
    data_set = instance()
    data_set.PixelData = bytes(3_000_000)
    encoded = make.data_set_bytes(data_set)
    context = people.scanner.calling()
    context.minimum_version = context.maximum_version = version
    with Scanner(tls_port(strict), tls=context) as scanner:
        assert scanner.associate()[0] == ACCEPTED
        assert scanner.socket.version() == version.name.replace("_", ".")  # type: ignore[attr-defined]  # an SSLSocket here
        for _ in range(3):
            reply = scanner.store(encoded, data_set.SOPInstanceUID)
            assert reply.status == 0x0000
        scanner.release()
    (kept,) = strict.instances(data_set.StudyInstanceUID)
    assert strict.archive.data_set(kept) == encoded


def test_files_are_sent_by_tls(strict: Node, people: People, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.dcm").write_bytes(make.part10_bytes(instance()))
    peer = scu.Peer("127.0.0.1", tls_port(strict), "ISOCENTER", "SCANNER", people.scanner)
    heard = list(scu.send(scu.find([tmp_path]), peer))
    assert [one.status for one in heard] == [0x0000] * 20


def test_tls_1_1_is_refused(open_: Node, people: People) -> None:
    context = old_context(people.authority, ciphers="ALL", version=ssl.TLSVersion.TLSv1_1)
    with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|protocol version"):
        Scanner(tls_port(open_), tls=context)


@pytest.mark.parametrize(
    "cipher", ["AES128-SHA", "AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES256-SHA384"]
)
def test_ciphers_without_ephemeral_keys_or_authentication_are_refused(
    open_: Node, people: People, cipher: str
) -> None:
    context = old_context(people.authority, ciphers=cipher, version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(ssl.SSLError, match=r"HANDSHAKE_FAILURE|handshake failure"):
        Scanner(tls_port(open_), tls=context)


@pytest.mark.parametrize("cipher", ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305"])
def test_ciphers_of_the_profile_are_taken(open_: Node, people: People, cipher: str) -> None:
    context = old_context(people.authority, ciphers=cipher, version=ssl.TLSVersion.TLSv1_2)
    with Scanner(tls_port(open_), tls=context) as scanner:
        assert scanner.associate()[0] == ACCEPTED


def test_a_caller_without_a_certificate_is_refused_where_one_is_required(
    strict: Node, people: People
) -> None:
    assert trouble(strict, Credentials(authorities=people.authority.certificate)) in (
        "it wants a certificate of ours",
        reasons.BROKEN_IN_NEGOTIATION,  # where the alert came after our own request
    )


def test_a_caller_of_another_authority_is_refused(strict: Node, people: People) -> None:
    stranger = Credentials(
        people.stranger.certificate, people.stranger.key, people.authority.certificate
    )
    assert trouble(strict, stranger) in (
        "it does not accept our certificate",
        reasons.BROKEN_IN_NEGOTIATION,
    )


def test_a_caller_with_an_expired_certificate_is_refused(strict: Node, people: People) -> None:
    assert trouble(strict, people.authority.credentials("SCANNER", days=-1)) in (
        "it does not accept our certificate",
        reasons.BROKEN_IN_NEGOTIATION,
    )


def test_a_refused_handshake_is_an_alert_in_the_log(
    strict: Node, people: People, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "pacs.dimse"):
        trouble(strict, people.authority.credentials("SCANNER", days=-1))
        until = time.monotonic() + 5
        while "its certificate has expired" not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)
    assert "security: " in caplog.text
    assert "its certificate has expired" in caplog.text


def test_a_title_is_bound_to_its_certificate(strict: Node, people: People) -> None:
    other = people.authority.credentials("OTHER", "DNS:other.example.org")
    assert trouble(strict, other) == "refused: it does not know our AE title"
    assert "a certificate of another name" in strict.peers.get("SCANNER").last_error


def test_a_certificate_of_the_hosts_name_proves_its_title_from_any_address(
    strict: Node, people: People
) -> None:
    ct = people.authority.credentials("not a title", "DNS:ct-1.example.org")
    rights = frozenset({Right.STORE})
    strict.peers.put(OPERATOR, Peer("CT1", "ct-1.example.org", 104, rights=rights))
    with Scanner(tls_port(strict), tls=ct.calling()) as scanner:
        assert scanner.associate(calling="CT1")[0] == ACCEPTED
        data_set = instance()
        reply = scanner.store(make.data_set_bytes(data_set), data_set.SOPInstanceUID)
        assert reply.status == 0x0000


def test_a_certificate_that_is_only_requested_binds_those_who_show_it(
    people: People, tmp_path: Path
) -> None:
    other = people.authority.credentials("OTHER")
    with serving(tmp_path, people.server, "request") as running:
        nothing = Credentials(authorities=people.authority.certificate)
        assert trouble(running, nothing) == ""
        assert trouble(running, people.scanner) == ""
        assert trouble(running, other) == "refused: it does not know our AE title"


@pytest.mark.parametrize(
    ("name", "days", "words"),
    [
        ("DNS:other.example.org", 2, "its certificate is for another host name"),
        ("DNS:localhost", -1, "its certificate has expired"),
    ],
)
def test_a_host_that_shows_a_wrong_certificate_is_not_called(
    people: People, tmp_path: Path, name: str, days: int, words: str
) -> None:
    wrong = people.authority.credentials("node", name, days=days)
    with serving(tmp_path, wrong, "none") as running:
        assert trouble(running, people.scanner) == words


def test_a_host_is_checked_by_its_address_where_it_is_called_so(
    open_: Node, people: People, tmp_path: Path
) -> None:
    assert trouble(open_, people.scanner, host="127.0.0.1") == ""
    named = people.authority.credentials("node", "DNS:localhost")
    with serving(tmp_path, named, "none") as running:
        words = "its certificate is for another address"
        assert trouble(running, people.scanner, host="127.0.0.1") == words


def test_a_host_of_an_authority_we_do_not_trust_is_not_called(open_: Node, people: People) -> None:
    words = "its certificate is of an authority that we do not trust"
    assert trouble(open_, people.stranger) == words


def test_a_caller_in_the_clear_is_sent_away_from_the_tls_port(open_: Node) -> None:
    assert trouble(open_, None) == reasons.BROKEN_IN_NEGOTIATION
    with Scanner(tls_port(open_)) as scanner, pytest.raises(Gone):
        scanner.associate()


def test_a_port_in_the_clear_is_told_so(open_: Node, people: People) -> None:
    peer = scu.Peer("localhost", open_.port, tls=people.scanner)
    with pytest.raises(Unreachable, match="it does not speak TLS there"):
        scu.echo(peer)


def test_slow_handshakes_hold_up_nobody_and_end(people: People, tmp_path: Path) -> None:
    limits = DimseLimits(pdu_deadline_s=2.0)
    with serving(tmp_path, people.server, "require", limits) as running, ExitStack() as slow:
        began = time.monotonic()
        for number in range(40):
            caller = slow.enter_context(socket.create_connection(("127.0.0.1", tls_port(running))))
            caller.sendall(b"\x16\x03\x01\x02\x00"[: number % 6])
        assert trouble(running, people.scanner) == ""
        assert running.answers()
        assert time.monotonic() - began < 1.5
        while running.receiver.associations and time.monotonic() - began < 10:
            time.sleep(0.05)
        assert running.receiver.associations == 0


def test_a_server_that_never_shakes_hands_is_given_up(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scu, "DimseLimits", lambda: DimseLimits(pdu_deadline_s=0.3))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = scu.Peer("localhost", silent.getsockname()[1], tls=people.scanner)
        with pytest.raises(Unreachable, match="did not finish the TLS handshake in time"):
            scu.echo(peer)


def test_the_node_stops_at_once_in_the_middle_of_a_handshake(
    people: People, tmp_path: Path
) -> None:
    with serving(tmp_path, people.server, "none") as running:
        with socket.create_connection(("127.0.0.1", tls_port(running))):
            until = time.monotonic() + 5
            while not running.receiver.associations and time.monotonic() < until:
                time.sleep(0.01)
            began = time.monotonic()
            running.receiver.stop()
        assert time.monotonic() - began < 5


def test_records_of_tls_alone_begin_no_pdu(
    people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's session tickets come at once; the deadline of a PDU must not begin with them."""
    context = people.server.accepting("none")
    context.options &= ~ssl.OP_NO_TICKET
    context.num_tickets = 4
    with node(tmp_path, None, TlsPort(0, context)) as running:
        recognise = running.peers.actor

        def slowly(
            title: str, address: str, implementation: str, names: frozenset[str] | None
        ) -> Actor:
            time.sleep(1)
            return recognise(title, address, implementation, names)

        monkeypatch.setattr(running.peers, "actor", slowly)
        monkeypatch.setattr(scu, "DimseLimits", lambda: DimseLimits(pdu_deadline_s=0.5))
        assert trouble(running, Credentials(authorities=people.authority.certificate)) == ""


def test_many_associations_at_once_keep_their_answers_apart(strict: Node, people: People) -> None:
    failed: list[str] = []

    def send() -> None:
        data_set = instance()
        data_set.PixelData = bytes(500_000)
        with Scanner(tls_port(strict), tls=people.scanner.calling()) as scanner:
            scanner.associate()
            for _ in range(5):
                reply = scanner.store(make.data_set_bytes(data_set), data_set.SOPInstanceUID)
                failed.extend([reply.comment] if reply.status else [])
            scanner.release()

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize("missing", ["certificate", "key", "authorities"])
def test_files_that_are_of_no_use_are_for_the_operator(
    people: People, tmp_path: Path, missing: str
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nothing")
    for path in (nonsense, tmp_path / "nowhere.pem"):
        files = {
            "certificate": people.server.certificate,
            "key": people.server.key,
            "authorities": people.server.authorities,
            missing: path,
        }
        with pytest.raises(Broken):
            Credentials(**files).accepting("require")


def test_an_encrypted_key_is_refused_without_a_question(people: People, tmp_path: Path) -> None:
    key = tmp_path / "encrypted.key"
    key.write_text(
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"
        "DEK-Info: AES-256-CBC,00000000000000000000000000000000\n\nAAAA\n"
        "-----END RSA PRIVATE KEY-----\n"
    )
    with pytest.raises(Broken):
        Credentials(people.server.certificate, key).accepting("none")


def test_the_names_of_a_certificate_are_its_common_and_alternative_ones() -> None:
    certificate = {
        "subject": ((("organizationName", "A"),), (("commonName", "CT1"),)),
        "subjectAltName": (("DNS", "ct-1.example.org"), ("IP Address", "10.0.0.1"), ("URI", "x:")),
    }
    assert names_of(certificate) == frozenset({"CT1", "ct-1.example.org", "10.0.0.1"})
    assert names_of({}) is None
    assert names_of(None) is None
