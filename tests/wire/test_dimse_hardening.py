"""The hazards that a hostile or broken scanner brings: each ends as it should, and leaves nothing.

`ISOCENTER_SOAK_SCALE=100` makes the soak one of 20,000 associations, and the fuzzing one of 40,000
associations with several mutated PDUs each.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from pacs.archive import Archive, Duplicates
from pacs.dimse.scp import Room
from pacs.dimse.tls import TlsPort
from pacs.dimse.upper_layer import DimseLimits
from pacs.errors import Exhausted, Missing
from tests import make
from tests.unit.dimse.certificates import authority
from tests.unit.dimse.scanner import (
    CT,
    VERIFICATION,
    Context,
    Gone,
    Node,
    Scanner,
    associate_rq,
    command_set,
    instance,
    node,
    padded,
)

ABORT, REJECT = 7, 3
LONG_BYTES = 20 << 20  # more than a spool keeps in memory
SCALE = int(os.environ.get("ISOCENTER_SOAK_SCALE", "1"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    spool = folder / "spool"
    spool.mkdir()
    with node(folder, DimseLimits(spool=spool)) as started:
        yield started


def eventually(holds: Callable[[], bool], within_s: float = 15.0) -> bool:
    """Whether something comes true in time."""
    until = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def descriptors_open() -> int:
    """Sockets and files, but for those of the index, whose pool of connections grows with use."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            names.append(str(descriptor.readlink()))
    return sum(".db" not in Path(name).name for name in names)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def leaving_nothing(running: Node, *, growth_bytes_max: int = 32 << 20) -> Iterator[None]:
    """Threads, open files and memory are as before in the end, and the node still answers."""
    assert running.answers()
    assert eventually(lambda: running.receiver.associations == 0)
    gc.collect()
    threads, descriptors, resident = threading.active_count(), descriptors_open(), resident_bytes()
    yield
    assert eventually(lambda: running.receiver.associations == 0)
    assert eventually(lambda: threading.active_count() <= threads)
    assert eventually(lambda: descriptors_open() <= descriptors)
    gc.collect()
    assert resident_bytes() - resident < growth_bytes_max
    assert running.answers()


def holds_nothing_of(running: Node, data_set: Dataset) -> bool:
    try:
        running.instances(data_set.StudyInstanceUID)
    except Missing:
        return True
    return False


def objects_of(running: Node) -> int:
    return sum(1 for _ in running.archive.objects.digests())


def long_instance() -> tuple[Dataset, bytes]:
    """An instance that a spool does not keep in memory."""
    made = instance()
    made.PixelData = random.Random(4711).randbytes(LONG_BYTES)
    return made, make.data_set_bytes(made)


# an association that ends at every point


def store_stream(data_set: Dataset) -> list[bytes]:
    """The PDUs of an association that stores one instance."""
    raw = make.data_set_bytes(data_set)
    command = command_set(
        [
            (0x0002, padded(CT)),
            (0x0100, b"\1\0"),
            (0x0110, b"\7\0"),
            (0x0700, b"\0\0"),
            (0x0800, b"\1\0"),
            (0x1000, padded(data_set.SOPInstanceUID)),
        ]
    )
    contexts = (Context(CT), Context(VERIFICATION))
    request = associate_rq(contexts, "ISOCENTER", "SCANNER", "1.2.840.10008.3.1.1.1")
    thirds = [raw[:200], raw[200:400], raw[400:]]
    values = [(3, command), (0, thirds[0]), (0, thirds[1]), (2, thirds[2])]
    bodies = [struct.pack(">IBB", len(v) + 2, 1, control) + v for control, v in values]
    return [pdu(1, request), *(pdu(4, body) for body in bodies)]


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(body)) + body


def cuts_of(pdus: list[bytes]) -> Iterator[int]:
    """Places in a stream where something may end: in and around each header, and in the middle."""
    at = 0
    for one in pdus:
        yield from (at + offset for offset in (0, 1, 5, 6, 7, 11, 12, 13, len(one) // 2))
        at += len(one)
    yield at - 1


@pytest.mark.parametrize("how", ["reset", "close", "abort"])
def test_a_store_that_ends_at_any_point_leaves_nothing(running: Node, how: str) -> None:
    data_set = instance()
    pdus = store_stream(data_set)
    stream, request_bytes = b"".join(pdus), len(pdus[0])
    objects = objects_of(running)
    with leaving_nothing(running):
        # The first byte of an A-ABORT would be the last one of a stream that is one byte short.
        cuts = {cut for cut in cuts_of(pdus) if how != "abort" or cut < len(stream) - 1}
        for cut in sorted(cuts):
            scanner = Scanner(running.port)
            scanner.socket.sendall(stream[: min(cut, request_bytes)])
            if cut >= request_bytes:
                assert scanner.answer()[0] == 2
                scanner.socket.sendall(stream[request_bytes:cut])
            if how == "abort":
                scanner.pdu(ABORT, bytes(4))
            if how == "reset":
                scanner.reset()
            scanner.socket.close()
    assert holds_nothing_of(running, data_set)
    assert objects_of(running) == objects


# long data sets


def test_a_long_data_set_is_kept_bit_for_bit_and_leaves_no_file(
    running: Node,
) -> None:
    def one(_: int) -> bool:
        data_set, raw = long_instance()
        with Scanner(running.port) as scanner:
            scanner.associate()
            status = scanner.store(raw, data_set.SOPInstanceUID, fragment_bytes=131_000).status
            scanner.release()
        (kept,) = running.instances(data_set.StudyInstanceUID)
        return status == 0 and running.archive.data_set(kept) == raw

    with leaving_nothing(running, growth_bytes_max=200 << 20), ThreadPoolExecutor(3) as pool:
        assert list(pool.map(one, range(3))) == [True] * 3


@pytest.mark.parametrize("how", ["reset", "close", "abort"])
def test_a_long_transfer_that_breaks_off_leaves_no_file(running: Node, how: str) -> None:
    data_set, raw = long_instance()
    objects = objects_of(running)
    with leaving_nothing(running):
        scanner = Scanner(running.port)
        scanner.associate()
        scanner.store_request(data_set.SOPInstanceUID)
        before = descriptors_open()
        for start in range(0, LONG_BYTES, 100_000):
            scanner.value(1, 0, raw[start : start + 100_000])
        assert eventually(lambda: descriptors_open() == before + 1), "it is spooled to a file"
        if how == "abort":
            scanner.pdu(ABORT, bytes(4))
        if how == "reset":
            scanner.reset()
        scanner.socket.close()
        del raw
    assert holds_nothing_of(running, data_set)
    assert objects_of(running) == objects


def test_a_disk_that_is_full_while_spooling_ends_with_a700(running: Node) -> None:
    data_set, raw = long_instance()
    objects = objects_of(running)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with leaving_nothing(running), Scanner(running.port) as scanner:
        scanner.associate()
        resource.setrlimit(resource.RLIMIT_FSIZE, (LONG_BYTES // 2, hard))
        try:
            reply = scanner.store(raw, data_set.SOPInstanceUID)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert reply.status == 0xA700
        assert "spool" in reply.comment
        assert holds_nothing_of(running, data_set)
        assert objects_of(running) == objects
        assert scanner.store(raw, data_set.SOPInstanceUID).status == 0x0000
        scanner.release()
        del raw


def test_a_very_long_data_set_takes_little_memory(running: Node) -> None:
    size = 256 << 20
    made = instance()
    del made.PixelData
    head = make.data_set_bytes(made) + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, size)
    piece, most = bytes(1 << 20)[:130_000], 0
    with leaving_nothing(running), Scanner(running.port) as scanner:
        scanner.associate()
        scanner.store_request(made.SOPInstanceUID)
        before = resident_bytes()
        scanner.value(1, 0, head)
        for start in range(0, size, len(piece)):
            scanner.value(1, 0, piece[: size - start])
            most = max(most, resident_bytes())
        watching = threading.Event()
        peaks: list[int] = []

        def watch() -> None:
            while not watching.wait(0.01):
                peaks.append(resident_bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        scanner.value(1, 2, b"")
        reply = scanner.reply()
        watching.set()
        watcher.join()
        scanner.release()
        assert reply.status == 0x0000
        assert max(most, *peaks) - before < 96 << 20


# PDUs that PS3.8 forbids


@pytest.mark.parametrize(
    ("kind", "length"),
    [(1, (1 << 20) + 1), (2, (1 << 20) + 1), (3, 65), (4, 131_073), (5, 65), (6, 65), (7, 65)],
)
def test_one_byte_more_than_a_pdu_may_have_is_aborted_unread(
    running: Node, kind: int, length: int
) -> None:
    with leaving_nothing(running, growth_bytes_max=4 << 20), Scanner(running.port) as scanner:
        if kind == 4:
            scanner.associate()
        scanner.socket.sendall(struct.pack(">BxI", kind, length))
        assert scanner.answer()[0] == ABORT


@pytest.mark.parametrize("kind", [2, 3, 4, 5, 6, 0, 8, 9, 64, 255])
def test_a_pdu_before_there_is_an_association_is_aborted(running: Node, kind: int) -> None:
    with leaving_nothing(running), Scanner(running.port) as scanner:
        scanner.pdu(kind, bytes(4))
        assert scanner.answer()[0] == ABORT


@pytest.mark.parametrize("kind", [1, 2, 3, 6, 0, 8, 255])
def test_a_pdu_that_does_not_belong_into_an_association_aborts_it(running: Node, kind: int) -> None:
    with leaving_nothing(running), Scanner(running.port) as scanner:
        scanner.associate()
        scanner.pdu(kind, bytes(4) if kind > 2 else store_stream(instance())[0][6:])
        assert scanner.answer()[0] == ABORT


def test_a_command_inside_a_data_set_is_aborted_also_within_one_pdu(running: Node) -> None:
    data_set = instance()
    raw, command = make.data_set_bytes(data_set), store_stream(data_set)[1][12:]
    for values in (
        [(1, 3, command), (1, 0, raw[:50]), (1, 3, command)],
        [(1, 3, command), (3, 2, raw)],
        [(1, 3, command), (1, 0, raw[:50]), (3, 3, command), (1, 2, raw[50:])],
        [(1, 1, command[:20]), (1, 0, raw), (1, 3, command[20:])],
    ):
        joined = b"".join(struct.pack(">IBB", len(v) + 2, c, m) + v for c, m, v in values)
        with leaving_nothing(running), Scanner(running.port) as scanner:
            scanner.associate()
            scanner.pdu(4, joined)
            assert scanner.answer()[0] == ABORT
    assert holds_nothing_of(running, data_set)


@pytest.mark.parametrize("lengths", [(0,), (1,), (0xFFFFFFFF,), (200,)])
def test_a_value_with_a_wrong_length_is_aborted(running: Node, lengths: tuple[int]) -> None:
    with leaving_nothing(running), Scanner(running.port) as scanner:
        scanner.associate()
        scanner.pdu(4, struct.pack(">IBB", *lengths, 1, 3) + bytes(20))
        assert scanner.answer()[0] == ABORT


def test_a_long_data_set_of_a_message_that_stores_nothing_is_aborted(running: Node) -> None:
    find = "1.2.840.10008.5.1.4.1.2.2.1"
    with (
        leaving_nothing(running, growth_bytes_max=96 << 20),
        Scanner(running.port) as scanner,
    ):
        scanner.associate(Context(find))
        scanner.command(
            1,
            (0x0002, padded(find)),
            (0x0100, b"\x20\0"),
            (0x0110, b"\7\0"),
            (0x0700, b"\0\0"),
            (0x0800, b"\1\0"),
        )
        with suppress(OSError):
            for _ in range(400):
                scanner.value(1, 0, bytes(100_000))
        assert scanner.answer()[0] == ABORT


# data sets that mean harm


def deflate_bomb(size_bytes: int) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    zeros = bytes(1 << 20)
    pieces = [deflater.compress(zeros) for _ in range(size_bytes >> 20)]
    return b"".join(pieces) + deflater.flush()


def test_a_deflate_bomb_is_refused_and_its_memory_comes_back(running: Node) -> None:
    bomb = deflate_bomb(128 << 20)
    assert len(bomb) < 1 << 20
    with leaving_nothing(running), Scanner(running.port) as scanner:
        scanner.associate(Context(CT, (make.DEFLATED,)))
        for _ in range(3):
            assert scanner.store(bomb, "1.2.3").status == 0xC000
        scanner.release()


@pytest.mark.parametrize("levels", [65, 250, 10_000])
def test_deep_nesting_is_refused(running: Node, levels: int) -> None:
    with leaving_nothing(running), Scanner(running.port) as scanner:
        scanner.associate()
        assert scanner.store(make.nested(levels), "1.2.3").status == 0xC000
        scanner.release()


@pytest.mark.parametrize(
    "uid",
    [
        "../../x",
        "/etc/x",
        "a\0b",
        "1.2\0/../x",
        "1" * 65,
        "..",
        "1.2/3",
        "1.2\\1.3",
        "１.2",
    ],
)
def test_an_uid_that_might_be_a_path_is_refused_wherever_it_stands(running: Node, uid: str) -> None:
    objects = objects_of(running)
    with leaving_nothing(running), Scanner(running.port) as scanner:
        scanner.associate()
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            made = instance(SpecificCharacterSet="ISO_IR 192", **{keyword: "1.2.3"})
            raw = make.data_set_bytes(made)
            told = uid if keyword == "SOPInstanceUID" else made.SOPInstanceUID
            spoilt = with_value(raw, keyword, uid.encode())
            assert scanner.store(spoilt, told.encode().decode("latin-1")).status == 0xA900
        scanner.release()
    assert objects_of(running) == objects


def with_value(raw: bytes, keyword: str, value: bytes) -> bytes:
    """A data set in which a UID of `1.2.3` has become some other bytes."""
    tag = {"SOPInstanceUID": 0x00180008, "StudyInstanceUID": 0x000D0020}
    number = tag.get(keyword, 0x000E0020)
    header = struct.pack("<HH2sH", number & 0xFFFF, number >> 16, b"UI", 6)
    value += b"\0" * (len(value) % 2)
    before, found, after = raw.partition(header + b"1.2.3\0")
    assert found, keyword
    return before + header[:6] + struct.pack("<H", len(value)) + value + after


# caps and slow peers


def test_one_calling_title_has_a_cap_of_its_own(tmp_path: Path) -> None:
    with node(tmp_path, DimseLimits(associations_per_ae_max=2)) as running, ExitStack() as open_:
        for _ in range(2):
            assert open_.enter_context(Scanner(running.port)).associate()[0] == 2
        third = open_.enter_context(Scanner(running.port))
        kind, body = third.associate()
        assert (kind, tuple(body[1:])) == (REJECT, (2, 3, 2))
        other = open_.enter_context(Scanner(running.port))
        assert other.associate(calling="OTHER")[0] == 2


def test_another_version_of_the_protocol_is_rejected(running: Node) -> None:
    with Scanner(running.port) as scanner:
        request = store_stream(instance())[0][6:]
        scanner.pdu(1, struct.pack(">H", 2) + request[2:])
        kind, body = scanner.answer()
    assert (kind, tuple(body[1:])) == (REJECT, (1, 2, 2))


def test_a_crowd_of_slow_peers_holds_up_nobody(tmp_path: Path) -> None:
    limits = DimseLimits(associations_max=200, associations_per_address_max=200, pdu_deadline_s=4)
    with node(tmp_path, limits) as running, leaving_nothing(running), ExitStack() as crowd:
        kinds = []
        slow = [crowd.enter_context(Scanner(running.port)) for _ in range(100)]
        for number, scanner in enumerate(slow):
            if number % 2:
                scanner.associate(calling=f"SLOW{number % 7}")
                scanner.socket.sendall(struct.pack(">BxI", 4, 1_000)[: 1 + number % 6])
            else:
                scanner.socket.sendall(struct.pack(">BxI", 1, 1_000)[: 1 + number % 6])
        data_set = instance()
        with Scanner(running.port) as scanner:
            scanner.associate()
            reply = scanner.store(make.data_set_bytes(data_set), data_set.SOPInstanceUID)
            assert reply.status == 0x0000
            scanner.release()
        for scanner in slow:
            kinds.append(scanner.answer()[0])
        assert kinds == [ABORT] * 100


def test_a_pdu_that_trickles_inside_tls_is_aborted_at_its_deadline(tmp_path: Path) -> None:
    trusted = authority(tmp_path / "ours")
    server = trusted.credentials("node", "DNS:localhost", "IP:127.0.0.1")
    tls = TlsPort(0, server.accepting("none"))
    (tmp_path / "node").mkdir()
    with node(tmp_path / "node", DimseLimits(pdu_deadline_s=1.0), tls) as running:
        port = running.receiver.tls_port
        assert port is not None
        with leaving_nothing(running), Scanner(port, tls=server.calling()) as scanner:
            scanner.associate()
            before = time.monotonic()
            scanner.socket.sendall(struct.pack(">BxI", 4, 1_000))
            with suppress(OSError):
                while time.monotonic() - before < 5:
                    scanner.socket.sendall(b"\0")
                    scanner.socket.settimeout(0.05)
                    with suppress(TimeoutError):
                        assert scanner.answer()[0] == ABORT
                        break
            assert 0.8 < time.monotonic() - before < 4


# statuses of C-STORE that nothing else produces


def stored(running: Node, data_set: Dataset) -> int:
    with Scanner(running.port) as scanner:
        scanner.associate()
        status = scanner.store(make.data_set_bytes(data_set), data_set.SOPInstanceUID).status
        scanner.release()
        return status


def test_an_instance_of_another_patient_is_stored_with_a_warning(running: Node) -> None:
    first = instance(patient_id="P-1")
    second = instance(patient_id="P-2")
    second.StudyInstanceUID = first.StudyInstanceUID
    assert [stored(running, first), stored(running, second)] == [0x0000, 0xB007]


def test_other_bytes_are_refused_where_the_policy_says_so(
    running: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.archive, "_duplicates", Duplicates.REFUSE)
    data_set = instance()
    assert stored(running, data_set) == 0x0000
    data_set.StudyDescription = "other"
    assert stored(running, data_set) == 0xC111
    assert len(running.instances(data_set.StudyInstanceUID)) == 1


def test_a_fault_of_our_own_is_a_failure_and_the_association_goes_on(
    running: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    with Scanner(running.port) as scanner:
        scanner.associate()
        with monkeypatch.context() as patched:
            patched.setattr(Archive, "store", fail)
            assert scanner.store(make.data_set_bytes(instance()), "1.2.3").status == 0xC211
        assert scanner.echo().status == 0x0000


def test_while_the_disk_is_nearly_full_only_storage_has_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node(tmp_path) as running, Scanner(running.port) as standing:
        standing.associate()
        monkeypatch.setattr(running.archive.objects, "_free_bytes_min", 1 << 62)
        data_set = instance()
        reply = standing.store(make.data_set_bytes(data_set), data_set.SOPInstanceUID)
        assert reply.status == 0xA700
        assert holds_nothing_of(running, data_set)
        assert eventually(lambda: rejected(running, Context(CT)) == (2, 3, 1))
        find = Context("1.2.840.10008.5.1.4.1.2.2.1")
        assert rejected(running, Context(CT), find) is None
        assert rejected(running, Context(VERIFICATION)) is None
        monkeypatch.undo()
        assert eventually(lambda: rejected(running, Context(CT)) is None)


def rejected(running: Node, *contexts: Context) -> tuple[int, ...] | None:
    """Why an association with these contexts is rejected, None if it is not."""
    with Scanner(running.port) as scanner:
        kind, body = scanner.associate(*contexts)
    return tuple(body[1:]) if kind == REJECT else None


def test_a_store_with_room_is_asked_now_and_then_and_a_full_one_each_time() -> None:
    asked = []

    def full() -> None:
        asked.append(1)
        raise Exhausted("full")

    room = Room(lambda: asked.append(2))
    assert [room.is_left() for _ in range(5)] == [True] * 5
    room = Room(full)
    assert [room.is_left() for _ in range(5)] == [False] * 5
    assert (asked.count(2), asked.count(1)) == (1, 5)


# soak and fuzz


def test_thousands_of_broken_associations_leave_nothing(running: Node) -> None:
    """Clean, aborted, reset in the middle of a PDU, and cut in the middle of a long data set."""
    stream = store_stream(instance())
    chance = random.Random(20_000)
    for _ in range(50):
        play(running, stream, chance)
    with leaving_nothing(running, growth_bytes_max=20 << 20):
        for _ in range(200 * SCALE):
            play(running, stream, chance)


def play(running: Node, stream: list[bytes], chance: random.Random) -> None:
    """One association that goes one of several ways."""
    scanner = Scanner(running.port)
    way = chance.choice(("clean", "abort", "reset", "close", "mid-pdu", "stored", "silent"))
    if way != "silent":
        scanner.socket.sendall(stream[0])
        assert scanner.answer()[0] == 2, "every association finds its slot"
    if way == "stored":
        scanner.socket.sendall(b"".join(stream[1:]))
        assert scanner.reply().status == 0
    if way == "mid-pdu":
        rest = b"".join(stream[1:])
        scanner.socket.sendall(rest[: chance.randrange(1, len(rest))])
    if way in ("clean", "stored"):
        scanner.release()
    elif way == "abort":
        scanner.pdu(ABORT, bytes(4))
    elif way == "reset" or (way == "mid-pdu" and chance.random() < 0.5):
        scanner.reset()
    scanner.socket.close()
    if running.receiver.associations > 40:
        assert eventually(lambda: running.receiver.associations < 10)


def test_mutated_pdus_neither_hang_nor_crash_the_node(running: Node) -> None:
    chance = random.Random(200_000)
    data_set = instance()
    pdus = [*store_stream(data_set), pdu(5, bytes(4)), pdu(7, bytes(4))]
    with leaving_nothing(running):
        for _ in range(400 * SCALE):
            mutated = [mutation(one, chance) for one in pdus]
            if chance.random() < 0.6:
                mutated[0] = pdus[0]  # further in, where there is an association
            fuzz(running, b"".join(mutated))


def mutation(original: bytes, chance: random.Random) -> bytes:
    """A PDU with some bytes changed, added, removed or doubled, or as it was."""
    made = bytearray(original)
    for _ in range(chance.choice((0, 0, 1, 1, 2, 5))):
        at = chance.randrange(len(made))
        match chance.randrange(5):
            case 0:
                made[at] = chance.randrange(256)
            case 1:
                del made[at : at + chance.randrange(1, 9)]
                made = made or bytearray(1)
            case 2:
                made[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 3:
                made[at] ^= 1 << chance.randrange(8)
            case 4:
                made[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
    return bytes(made)


def fuzz(running: Node, stream: bytes) -> None:
    """Send it all, end our half, and see the node end its own within 5 s."""
    with Scanner(running.port, timeout_s=5) as scanner, suppress(ConnectionError, BrokenPipeError):
        scanner.socket.sendall(stream)
        scanner.socket.shutdown(1)
        with suppress(Gone):
            while True:
                scanner.answer()
