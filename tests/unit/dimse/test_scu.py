"""What is sent, what is not, and what the sender hears of it."""

from __future__ import annotations

import socket
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, generate_uid

from pacs.dimse import scu
from pacs.dimse.scu import Peer, SendOutcome, Source, find, send
from tests import make
from tests.unit.dimse.scanner import Node, instance, node


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("node")) as started:
        yield started


def outcomes(port: int, *paths: Path) -> list[SendOutcome]:
    return list(send(find(paths), Peer("127.0.0.1", port)))


def test_folders_are_searched_in_order_without_hidden_files_and_dicomdirs(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/DICOMDIR", "a/.hidden", "c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [source.path.relative_to(tmp_path).as_posix() for source in find([tmp_path])]
    assert found == ["b/1", "b/2", "c"]


def test_each_source_has_one_outcome_whatever_it_is(tmp_path: Path, running: Node) -> None:
    good, other = instance(), instance()
    (tmp_path / "good.dcm").write_bytes(make.part10_bytes(good))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("not DICOM")
    cut = make.part10_bytes(instance())[:200]
    (tmp_path / "cut.dcm").write_bytes(cut)
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../outside.dcm", make.part10_bytes(other))
        archive.writestr("notes.txt", "not DICOM")
    missing = tmp_path / "nowhere"

    heard = {o.label: o for o in outcomes(running.port, tmp_path, missing)}
    assert len(heard) == 7
    stored = {label for label, outcome in heard.items() if outcome.is_stored}
    zipped = f"{tmp_path / 'study.zip'}:../../outside.dcm"
    assert stored == {str(tmp_path / "good.dcm"), zipped}
    assert all(outcome.comment for outcome in heard.values() if not outcome.is_stored)
    (kept,) = running.instances(other.StudyInstanceUID)
    assert running.archive.data_set(kept) == make.data_set_bytes(other)
    assert not (tmp_path.parent / "outside.dcm").exists()


@pytest.mark.parametrize(
    "syntax", [make.IMPLICIT, make.BIG_ENDIAN, make.DEFLATED, "1.2.826.0.99.1"]
)
def test_a_file_is_sent_in_its_own_transfer_syntax(
    tmp_path: Path, running: Node, syntax: str
) -> None:
    data_set = instance()
    encoded = make.part10_bytes(data_set, syntax)
    (tmp_path / "one.dcm").write_bytes(encoded)
    (outcome,) = outcomes(running.port, tmp_path)
    assert outcome.status == 0x0000
    (kept,) = running.instances(data_set.StudyInstanceUID)
    assert kept.transfer_syntax_uid == syntax
    assert encoded.endswith(running.archive.data_set(kept))


def test_more_kinds_than_an_association_can_name_make_two(tmp_path: Path, running: Node) -> None:
    study = generate_uid()
    for number in range(130):
        data_set = instance(StudyInstanceUID=study, SOPClassUID=f"{CTImageStorage}.7.{number}")
        data_set.SOPInstanceUID = generate_uid()
        (tmp_path / f"{number}.dcm").write_bytes(make.part10_bytes(data_set))
    heard = outcomes(running.port, tmp_path)
    assert len(heard) == 130
    assert all(outcome.status == 0x0000 for outcome in heard)


def test_a_warning_counts_as_stored_and_is_told(tmp_path: Path, running: Node) -> None:
    data_set = instance()
    (tmp_path / "1.dcm").write_bytes(make.part10_bytes(data_set))
    data_set.StudyDescription = "other"
    (tmp_path / "2.dcm").write_bytes(make.part10_bytes(data_set))
    first, second = outcomes(running.port, tmp_path)
    assert (first.status, second.status) == (0x0000, 0xB007)
    assert second.is_stored
    assert second.comment


def test_without_a_peer_every_source_hears_so_at_once(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.dcm").write_bytes(make.part10_bytes(instance()))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    heard = outcomes(port, tmp_path)
    assert [outcome.comment for outcome in heard] == ["nobody listens at that port"] * 3


def test_a_host_that_is_not_known_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_bytes(make.part10_bytes(instance()))
    (outcome,) = send(find([tmp_path]), Peer("not a host", 104))
    assert outcome.comment == "its host name is not known"


def test_a_file_that_ends_after_its_meta_group_is_refused(tmp_path: Path, running: Node) -> None:
    data_set = instance()
    empty = make.part10_bytes(data_set)[: -len(make.data_set_bytes(data_set))]
    (tmp_path / "1.dcm").write_bytes(empty)
    (outcome,) = outcomes(running.port, tmp_path)
    assert outcome.status is not None
    assert not outcome.is_stored


def test_a_rejected_association_is_told_in_words(tmp_path: Path, running: Node) -> None:
    (tmp_path / "1.dcm").write_bytes(make.part10_bytes(instance()))
    peer = Peer("127.0.0.1", running.port, called_ae_title="OTHER")
    (outcome,) = send(find([tmp_path]), peer)
    assert outcome.comment == "refused: it is not called by this AE title"


def test_a_class_that_is_not_accepted_does_not_stop_the_others(
    tmp_path: Path, running: Node
) -> None:
    private = instance(SOPClassUID="1.2.826.0.1.3680043.9.9")
    (tmp_path / "1.dcm").write_bytes(make.part10_bytes(private))
    (tmp_path / "2.dcm").write_bytes(make.part10_bytes(instance()))
    first, second = outcomes(running.port, tmp_path)
    assert (first.is_stored, second.is_stored) == (False, True)
    assert "accepts no such SOP class" in first.comment


def test_a_line_that_breaks_is_opened_again_once(tmp_path: Path, running: Node) -> None:
    for number in range(4):
        (tmp_path / f"{number}.dcm").write_bytes(make.part10_bytes(instance()))
    with _Breaking(running.port, connections=1) as port:
        heard = outcomes(port, tmp_path)
    assert [outcome.status for outcome in heard] == [0x0000] * 4


def test_a_line_that_breaks_again_is_given_up_for_that_instance(
    tmp_path: Path, running: Node
) -> None:
    (tmp_path / "1.dcm").write_bytes(make.part10_bytes(instance()))
    with _Breaking(running.port, connections=2) as port:
        (outcome,) = outcomes(port, tmp_path)
    assert outcome.status is None
    assert outcome.comment == "the association ended before the answer came"


def test_a_member_that_is_too_large_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scu, "ZIP_MEMBER_BYTES_MAX", 1_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    (outcome,) = outcomes(1, tmp_path)
    assert outcome.comment == "the member of the zip archive is too large"


def test_a_zip_that_is_broken_is_one_source_with_a_reason(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one", bytes(1_000))
    whole = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[:200])
    assert list(find([tmp_path])) == [Source(tmp_path / "a.zip")]
    (outcome,) = outcomes(1, tmp_path)
    assert not outcome.is_stored
    assert outcome.comment


class _Breaking:
    """A cable that breaks in the first so many connections, once the sender's data flow."""

    def __init__(self, port: int, connections: int) -> None:
        self._port = port
        self._breaks = connections
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> int:
        self._thread.start()
        return int(self._server.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _accept(self) -> None:
        pumps = []
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                break
            far = socket.create_connection(("127.0.0.1", self._port))
            # The request for the association has some 250 bytes; what follows is data.
            allowed = 300 if self._breaks > 0 else None
            self._breaks -= 1
            pumps += [
                threading.Thread(target=_pump, args=(near, far, allowed)),
                threading.Thread(target=_pump, args=(far, near, None)),
            ]
            pumps[-2].start()
            pumps[-1].start()
        for pump in pumps:
            pump.join()


def _pump(source: socket.socket, target: socket.socket, allowed: int | None) -> None:
    passed = 0
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            passed += len(piece)
            if allowed is not None and passed > allowed:
                break
            target.sendall(piece)
    for end in (source, target):
        _shut(end)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
