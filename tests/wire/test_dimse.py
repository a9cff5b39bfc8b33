"""The DIMSE door over real sockets, mostly as a hostile scanner meets it."""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from pacs.archive import Scope
from pacs.dicom.part10 import read_part10, scan
from pacs.dimse.scu import Peer, SendOutcome, find, send
from pacs.dimse.upper_layer import DimseLimits
from pacs.errors import Broken, Missing
from tests import make
from tests.unit.dimse.scanner import (
    CT,
    EXPLICIT,
    IMPLICIT,
    OPERATOR,
    VERIFICATION,
    Context,
    Gone,
    Node,
    Scanner,
    instance,
    node,
)

ABORT, REJECT = 7, 3
QUICK = DimseLimits(artim_s=1.0, pdu_deadline_s=1.0, idle_s=1.0)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("node")) as started:
        yield started


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path, QUICK) as started:
        yield started


def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Whether something comes true in time."""
    until = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def holds_nothing_of(running: Node, data_set: Dataset) -> bool:
    try:
        running.instances(data_set.StudyInstanceUID)
    except Missing:
        return True
    return False


# associations


def test_an_echo_is_answered(running: Node) -> None:
    assert running.answers()


@pytest.mark.parametrize(
    ("called", "application", "reason"),
    [
        ("OTHER", "1.2.840.10008.3.1.1.1", (1, 1, 7)),
        ("ISOCENTER", "1.2.3.4", (1, 1, 2)),
    ],
)
def test_a_wrong_title_or_application_context_is_rejected(
    running: Node, called: str, application: str, reason: tuple[int, int, int]
) -> None:
    with Scanner(running.port) as scanner:
        kind, body = scanner.associate(called=called, application=application)
    assert (kind, tuple(body[1:])) == (REJECT, reason)


def test_an_association_beyond_the_cap_is_rejected_and_slots_come_back(tmp_path: Path) -> None:
    with node(tmp_path, DimseLimits(associations_max=3)) as running:
        standing = [Scanner(running.port) for _ in range(3)]
        assert [scanner.associate()[0] for scanner in standing] == [2, 2, 2]
        with Scanner(running.port) as late:
            before = time.monotonic()
            kind, body = late.associate()
            assert (kind, tuple(body[1:])) == (REJECT, (2, 3, 2))
            assert time.monotonic() - before < 1
        standing[0].release()
        standing[1].reset()
        standing[2].socket.close()
        assert eventually(lambda: running.receiver.associations == 0)
        assert running.answers()


def test_the_sixty_fifth_association_is_rejected(running: Node) -> None:
    assert eventually(lambda: running.receiver.associations == 0)
    standing = [Scanner(running.port) for _ in range(64)]
    assert {scanner.associate()[0] for scanner in standing} == {2}
    with Scanner(running.port) as late:
        kind, body = late.associate()
        assert (kind, tuple(body[1:])) == (REJECT, (2, 3, 2))
    for scanner in standing:
        scanner.release()


def test_one_address_has_a_cap_of_its_own(tmp_path: Path) -> None:
    one = DimseLimits(associations_per_address_max=1)
    with node(tmp_path, one) as running, Scanner(running.port) as first:
        assert first.associate()[0] == 2
        with Scanner(running.port) as second:
            kind, body = second.associate()
            assert (kind, tuple(body[1:])) == (REJECT, (2, 3, 2))


def test_a_flood_of_silent_connections_is_closed_unread(tmp_path: Path) -> None:
    with node(tmp_path, DimseLimits(associations_max=1)) as running:
        flood = [Scanner(running.port) for _ in range(40)]
        assert running.receiver.associations <= 17
        for scanner in flood:
            scanner.socket.close()
        assert eventually(running.answers)


def test_storage_is_accepted_with_the_first_syntax_and_nothing_else_is(running: Node) -> None:
    unknown_class, unknown_syntax = f"{CT}.987.654", "1.2.826.0.1.99.4.7"
    with Scanner(running.port) as scanner:
        scanner.associate(
            Context(CT, (unknown_syntax, EXPLICIT)),
            Context(CT, (IMPLICIT, EXPLICIT)),
            Context(unknown_class, (unknown_syntax,)),
            Context("1.2.840.10008.5.1.4.31"),  # Modality Worklist FIND
            Context("1.2.826.0.1.3680043.9.9"),  # a private class
            Context("1.2.840.10008.5.1.4.1.1.201.2"),  # Inventory FIND, below the storage root
            Context("1.3.12.2.1107.5.9.1"),  # Siemens CSA Non-Image
            Context(VERIFICATION, (unknown_syntax, EXPLICIT)),
        )
        assert scanner.accepted == {
            1: unknown_syntax,
            3: IMPLICIT,
            5: unknown_syntax,
            13: EXPLICIT,
            15: EXPLICIT,
        }


def test_a_port_that_is_taken_is_for_the_operator(running: Node) -> None:
    with pytest.raises(Broken, match="cannot be bound"):
        type(running.receiver)(running.archive, running.peers, port=running.port)


# C-STORE


def test_an_instance_is_kept_bit_for_bit(running: Node) -> None:
    data_set = instance()
    sent = make.data_set_bytes(data_set)
    with Scanner(running.port) as scanner:
        scanner.associate()
        assert scanner.store(sent, data_set.SOPInstanceUID).status == 0x0000
    (kept,) = running.instances(data_set.StudyInstanceUID)
    assert running.archive.data_set(kept) == sent
    assert kept.transfer_syntax_uid == EXPLICIT


def test_an_unknown_class_and_syntax_are_kept_bit_for_bit(running: Node) -> None:
    sop_class_uid, syntax = f"{CT}.987.655", "1.2.826.0.1.99.4.8"
    data_set = instance(SOPClassUID=sop_class_uid)
    sent = make.data_set_bytes(data_set)
    with Scanner(running.port) as scanner:
        scanner.associate(Context(sop_class_uid, (syntax,)))
        reply = scanner.store(sent, data_set.SOPInstanceUID, sop_class_uid=sop_class_uid)
    assert reply.status == 0x0000
    (kept,) = running.instances(data_set.StudyInstanceUID)
    assert running.archive.data_set(kept) == sent
    assert kept.transfer_syntax_uid == syntax


def test_the_same_again_is_a_success_and_other_bytes_are_a_warning(running: Node) -> None:
    data_set = instance()
    first = make.data_set_bytes(data_set)
    data_set.StudyDescription = "other"
    other = make.data_set_bytes(data_set)
    with Scanner(running.port) as scanner:
        scanner.associate()
        assert scanner.store(first, data_set.SOPInstanceUID).status == 0x0000
        assert scanner.store(first, data_set.SOPInstanceUID).status == 0x0000
        reply = scanner.store(other, data_set.SOPInstanceUID)
    assert reply.status == 0xB007
    assert reply.comment
    (kept,) = running.instances(data_set.StudyInstanceUID)
    assert running.archive.data_set(kept) == first


def with_uid(uid: str) -> Dataset:
    return instance(SOPInstanceUID=uid)


@pytest.mark.parametrize(
    ("data_set", "announced", "status"),
    [
        (instance(), "1.2.3.4.5", 0xA900),
        (instance(), "", 0xA900),
        (instance(), "1.2.ÿ3", 0xA900),
        (with_uid("../../x"), "../../x", 0xA900),
        (with_uid("1.2\\3"), "1.2\\3", 0xA900),
        (with_uid("1" * 65), "1" * 65, 0xA900),
        (instance(StudyInstanceUID=""), None, 0xA900),
    ],
)
def test_what_cannot_be_kept_is_refused_with_a_reason(
    running: Node, data_set: Dataset, announced: str | None, status: int
) -> None:
    with Scanner(running.port) as scanner:
        scanner.associate()
        uid = data_set.SOPInstanceUID if announced is None else announced
        reply = scanner.store(make.data_set_bytes(data_set), uid)
        assert reply.status == status
        assert 0 < len(reply.comment) <= 64
        assert scanner.echo().status == 0x0000
    assert holds_nothing_of(running, data_set)


def test_bytes_that_are_no_data_set_are_refused(running: Node) -> None:
    with Scanner(running.port) as scanner:
        scanner.associate()
        assert scanner.store(os.urandom(5_000), "1.2.3").status == 0xC000
        assert scanner.store(make.nested(300), "1.2.3").status == 0xC000
        assert scanner.store(make.data_set_bytes(instance())[:-100], "1.2.3").status == 0xC000
        assert scanner.echo().status == 0x0000


def test_a_class_other_than_its_context_says_is_refused(running: Node) -> None:
    data_set = instance()
    with Scanner(running.port) as scanner:
        scanner.associate()
        reply = scanner.store(make.data_set_bytes(data_set), data_set.SOPInstanceUID, context_id=3)
        assert reply.status == 0x0122
    assert holds_nothing_of(running, data_set)


def test_a_request_without_a_data_set_is_refused(running: Node) -> None:
    with Scanner(running.port) as scanner:
        scanner.associate()
        scanner.command(
            1,
            (0x0002, CT.encode() + b"\0"),
            (0x0100, b"\1\0"),
            (0x0110, b"\7\0"),
            (0x0800, b"\1\1"),
            (0x1000, b"1.2.3\0"),
        )
        assert scanner.reply().status == 0xC000


def test_a_data_set_beyond_the_limit_is_refused_and_not_held(tmp_path: Path) -> None:
    small = DimseLimits(data_set_bytes_max=100_000)
    with node(tmp_path, small) as running, Scanner(running.port) as scanner:
        scanner.associate()
        assert scanner.store(bytes(2_000_000), "1.2.3").status == 0xA700
        data_set = instance()
        reply = scanner.store(make.data_set_bytes(data_set), data_set.SOPInstanceUID)
        assert reply.status == 0x0000


def test_an_uid_padded_with_a_nul_or_a_space_is_the_same_uid(running: Node) -> None:
    for padding in ("\0", " "):
        data_set = instance(SOPInstanceUID="1.2.826.0.77" + str(ord(padding)))
        with Scanner(running.port) as scanner:
            scanner.associate()
            uid = data_set.SOPInstanceUID + padding
            assert scanner.store(make.data_set_bytes(data_set), uid).status == 0x0000


def test_first_instances_of_one_study_at_once_make_one_study(running: Node) -> None:
    study, series = generate_uid(), generate_uid()
    data_sets = [
        make.data_set(number, study_instance_uid=study, series_instance_uid=series)
        for number in range(16)
    ]
    barrier = threading.Barrier(16)

    def one(data_set: Dataset) -> int:
        with Scanner(running.port) as scanner:
            scanner.associate()
            barrier.wait()
            status = scanner.store(make.data_set_bytes(data_set), data_set.SOPInstanceUID).status
            scanner.release()
            return status

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(one, data_sets)) == [0x0000] * 16
    kept = running.instances(study)
    assert len(kept) == 16
    assert {one.series_instance_uid for one in kept} == {series}


# broken transfers


@pytest.mark.parametrize("values_sent", [0, 1, 3])
@pytest.mark.parametrize("how", ["reset", "close", "abort"])
def test_a_transfer_that_breaks_off_stores_nothing(
    running: Node, values_sent: int, how: str
) -> None:
    data_set = instance()
    scanner = Scanner(running.port)
    scanner.associate()
    scanner.store_request(data_set.SOPInstanceUID)
    raw = make.data_set_bytes(data_set)
    for number in range(values_sent):
        scanner.value(1, 0, raw[number * 1_000 : (number + 1) * 1_000])
    if how == "reset":
        scanner.reset()
    elif how == "abort":
        scanner.pdu(ABORT, b"\0\0\0\0")
        scanner.socket.close()
    else:
        scanner.socket.close()
    assert running.answers()
    assert eventually(lambda: running.receiver.associations == 0)
    assert holds_nothing_of(running, data_set)


def test_a_peer_that_leaves_before_its_answer_leaves_the_instance_stored(running: Node) -> None:
    data_set = instance()
    scanner = Scanner(running.port)
    scanner.associate()
    scanner.store_request(data_set.SOPInstanceUID)
    scanner.value(1, 2, make.data_set_bytes(data_set))
    scanner.socket.close()
    assert eventually(lambda: not holds_nothing_of(running, data_set))
    assert running.answers()


# hostile PDUs


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6, 7, 0, 8, 255])
def test_an_absurd_length_is_aborted_before_any_memory_is_taken(running: Node, kind: int) -> None:
    before = resident_bytes()
    with Scanner(running.port) as scanner:
        scanner.socket.sendall(struct.pack(">BxI", kind, 0xFFFFFFFF) + bytes(1_000))
        assert scanner.answer()[0] == ABORT
        with pytest.raises(Gone):
            scanner.answer()
    assert resident_bytes() - before < 1 << 20
    assert running.answers()


def test_a_data_pdu_longer_than_offered_is_aborted(running: Node) -> None:
    with Scanner(running.port) as scanner:
        scanner.associate()
        scanner.value(1, 0, bytes(131_072 - 6))  # the longest that is allowed, but out of order
        assert scanner.answer()[0] == ABORT
    with Scanner(running.port) as scanner:
        scanner.associate()
        scanner.socket.sendall(struct.pack(">BxI", 4, 131_073))
        assert scanner.answer()[0] == ABORT


@pytest.mark.parametrize(
    "values",
    [
        [(9, 3, b"")],  # a context nobody accepted
        [(1, 2, b"data")],  # a data set without a command
        [(1, 3, b"garbage")],
        [(1, 3, b"")],  # a command without its Command Field
        [(1, 1, b"\0" * 8), (3, 3, b"\0" * 8)],  # two contexts mixed
        [(1, 1, bytes(40_000)), (1, 1, bytes(40_000))],  # a command set that never ends
    ],
)
def test_values_that_break_the_rules_are_aborted(
    running: Node, values: list[tuple[int, int, bytes]]
) -> None:
    with Scanner(running.port) as scanner:
        scanner.associate()
        for value in values:
            scanner.value(*value)
        assert scanner.answer()[0] == ABORT
    assert running.answers()


def test_values_of_two_messages_mixed_are_aborted_and_store_nothing(running: Node) -> None:
    data_set = instance()
    with Scanner(running.port) as scanner:
        scanner.associate()
        scanner.store_request(data_set.SOPInstanceUID)
        scanner.value(1, 0, make.data_set_bytes(data_set)[:500])
        scanner.value(3, 2, make.data_set_bytes(data_set)[500:])
        assert scanner.answer()[0] == ABORT
    assert holds_nothing_of(running, data_set)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(67),
        bytes(500),
        bytes(68) + b"\x20\0\0\0" * 200_000,
        struct.pack(">HH16s16s32x", 1, 0, b"ISOCENTER".ljust(16), b"A\\B".ljust(16)),
    ],
)
def test_an_association_request_that_is_none_is_aborted(running: Node, body: bytes) -> None:
    with Scanner(running.port) as scanner:
        scanner.pdu(1, body)
        assert scanner.answer()[0] == ABORT
    assert running.answers()


def answers_until_gone(scanner: Scanner) -> Iterator[int]:
    """The kinds of all further PDUs."""
    with suppress(Gone):
        while True:
            yield scanner.answer()[0]


def test_requests_without_waiting_for_answers_are_bounded(running: Node) -> None:
    raw, uid = make.data_set_bytes(instance()), "1.2.3"
    with Scanner(running.port) as scanner:
        scanner.associate()
        for _ in range(100):
            scanner.store_request(uid)
            scanner.value(1, 2, raw)
        kinds = list(answers_until_gone(scanner))
    assert kinds[-1] == ABORT
    assert len(kinds) < 50
    assert running.answers()


# slow peers


def test_a_pdu_that_trickles_is_aborted_at_its_deadline(quick: Node) -> None:
    with Scanner(quick.port) as scanner:
        scanner.associate()
        scanner.socket.sendall(struct.pack(">BxI", 4, 1_000))
        before = time.monotonic()
        ended = threading.Event()

        def trickle() -> None:
            while not ended.wait(0.1):
                try:
                    scanner.socket.sendall(b"\0")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        kind, _ = scanner.answer()
        elapsed = time.monotonic() - before
        ended.set()
        thread.join()
    assert kind == ABORT
    assert 0.8 < elapsed < 3


def test_a_silent_connection_is_aborted_when_artim_ends(quick: Node) -> None:
    with Scanner(quick.port) as scanner:
        assert scanner.answer()[0] == ABORT
    assert eventually(lambda: quick.receiver.associations == 0)


def test_an_idle_association_is_aborted_and_its_slot_comes_back(quick: Node) -> None:
    with Scanner(quick.port) as scanner:
        scanner.associate()
        assert scanner.answer()[0] == ABORT
        assert eventually(lambda: quick.receiver.associations == 0, within_s=5)


def test_a_connection_closed_at_once_frees_its_slot_at_once(running: Node) -> None:
    for _ in range(20):
        Scanner(running.port).socket.close()
    assert eventually(lambda: running.receiver.associations == 0, within_s=3)


# leaks, logs, ends


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_aborted_associations_leave_no_thread_and_no_descriptor(running: Node) -> None:
    assert running.answers()
    assert eventually(lambda: running.receiver.associations == 0)
    threads, descriptors = threading.active_count(), descriptors_open()
    data_set = instance()
    for number in range(200):
        scanner = Scanner(running.port)
        scanner.associate()
        if number % 2:
            scanner.store_request(data_set.SOPInstanceUID)
        if number % 4 < 2:
            scanner.reset()
        else:
            scanner.pdu(ABORT, b"\0\0\0\0")
            scanner.socket.close()
    assert eventually(lambda: running.receiver.associations == 0)
    assert eventually(lambda: threading.active_count() <= threads)
    assert eventually(lambda: descriptors_open() <= descriptors)
    assert running.answers()


def test_no_log_at_any_level_shows_a_patient(
    running: Node, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        data_set = instance(PatientName="Nightingale^Canary", PatientID="CANARY-4711")
        with Scanner(running.port) as scanner:
            scanner.associate()
            scanner.store(make.data_set_bytes(data_set), data_set.SOPInstanceUID)
            scanner.store(make.data_set_bytes(data_set), "1.2.3")
            scanner.release()
    assert "refused" in caplog.text
    assert "Nightingale" not in caplog.text
    assert "4711" not in caplog.text


def test_while_draining_newcomers_are_told_to_come_back(tmp_path: Path) -> None:
    with node(tmp_path) as running, Scanner(running.port) as standing:
        standing.associate()
        data_set = instance()
        standing.store_request(data_set.SOPInstanceUID)
        standing.value(1, 0, make.data_set_bytes(data_set)[:100])
        drained: list[bool] = []
        drain = threading.Thread(target=lambda: drained.append(running.receiver.drain(10)))
        drain.start()
        time.sleep(0.2)
        with Scanner(running.port) as late:
            kind, body = late.associate()
            assert (kind, tuple(body[1:])) == (REJECT, (2, 3, 1))
        standing.value(1, 2, make.data_set_bytes(data_set)[100:])
        assert standing.reply().status == 0x0000
        assert standing.answer()[0] == ABORT  # silent for a second
        drain.join()
        assert drained == [True]


def test_a_stop_waits_neither_for_silent_nor_for_half_open_peers(tmp_path: Path) -> None:
    with node(tmp_path) as running:
        silent, halfway = Scanner(running.port), Scanner(running.port)
        halfway.associate()
        halfway.store_request("1.2.3")
        before = time.monotonic()
    assert time.monotonic() - before < 5
    assert halfway.answer()[0] == ABORT
    silent.socket.close()
    halfway.socket.close()


# our own sender, and every odd file there is

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
SAMPLES = Path(__file__).parents[2] / "sample_dicom"


def sent(running: Node, *paths: Path) -> list[SendOutcome]:
    return list(send(find(paths), Peer("127.0.0.1", running.port)))


@pytest.mark.parametrize(("folder", "stored_min"), [(TEST_FILES, 100), (SAMPLES, 60)])
def test_every_file_is_kept_bit_for_bit_or_refused_with_a_reason(
    tmp_path: Path, folder: Path, stored_min: int
) -> None:
    with node(tmp_path) as running:
        outcomes = sent(running, folder)
        assert len(outcomes) == len(list(find([folder])))
        assert sum(outcome.is_stored for outcome in outcomes) >= stored_min
        for outcome in outcomes:
            assert outcome.is_stored or outcome.comment, outcome.label
        for outcome in outcomes:
            if outcome.status == 0x0000:
                sent_file = read_part10(Path(outcome.label).read_bytes())
                assert kept_bytes(running, sent_file.data_set, sent_file.transfer_syntax_uid)
        assert running.answers()


def kept_bytes(running: Node, data_set: memoryview, transfer_syntax_uid: str) -> bool:
    """Whether the archive holds exactly these bytes under this transfer syntax."""
    study = scan(data_set, transfer_syntax_uid).text("StudyInstanceUID")
    held = running.archive.retrieve(OPERATOR, Scope(study))
    return any(
        one.transfer_syntax_uid == transfer_syntax_uid and running.archive.data_set(one) == data_set
        for one in held
    )
