"""C-FIND over real sockets: every level, every matching, every status of PS3.4 C.4.1.1.4."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import generate_uid
from sqlalchemy import text

from pacs.dimse.upper_layer import DimseLimits
from pacs.peers import Peer, Right
from tests import make
from tests.unit.dimse.scanner import (
    OPERATOR,
    Context,
    Node,
    Scanner,
    node,
    padded,
    read_command_set,
)
from tests.wire.q_r_peers import PATIENT_FIND, STUDY_FIND, find, identifier, requestor

STUDY, OTHER = make.uid("study"), make.uid("japanese")
PENDING, UNSUPPORTED, SUCCESS, CANCELLED = 0xFF00, 0xFF01, 0x0000, 0xFE00
MANY = 3_000
COPIES = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT :many)
INSERT INTO studies
    (archive_id, patient_id, first_received_at, last_received_at, StudyInstanceUID)
SELECT archive_id, patient_id, first_received_at, last_received_at, '1.2.840.' || n.i
FROM n, studies WHERE StudyInstanceUID = :study
"""


def fill(running: Node) -> None:
    """Two studies: one of two series, one of a patient whose name is written thrice."""
    for made in make.study(3, series=2):
        running.archive.store(OPERATOR, make.incoming(made))
    japanese = make.data_set(
        study_instance_uid=OTHER,
        patient_id="P-2",
        patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう",
        modality="MR",
        StudyDate="20250101",
        StudyTime="083000",
        AccessionNumber="B-2",
        SpecificCharacterSet="ISO_IR 192",
    )
    running.archive.store(OPERATOR, make.incoming(japanese))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("node"), DimseLimits(answers_max=4)) as started:
        fill(started)
        yield started


def found(
    running: Node, asked: Dataset, model: str = STUDY_FIND, options: bytes = b""
) -> tuple[list[Dataset], list[int]]:
    with requestor(running, model, options=options) as association:
        return find(association, asked, model)


@pytest.mark.parametrize(
    ("model", "level", "keys", "matches"),
    [
        (PATIENT_FIND, "PATIENT", {}, 2),
        (PATIENT_FIND, "STUDY", {"PatientID": "P-1"}, 1),
        (PATIENT_FIND, "SERIES", {"PatientID": "P-1", "StudyInstanceUID": STUDY}, 2),
        (STUDY_FIND, "STUDY", {}, 2),
        (STUDY_FIND, "SERIES", {"StudyInstanceUID": STUDY}, 2),
        (
            STUDY_FIND,
            "IMAGE",
            {"StudyInstanceUID": STUDY, "SeriesInstanceUID": make.uid(STUDY, "series", 1)},
            3,
        ),
        (STUDY_FIND, "SERIES", {"StudyInstanceUID": "1.2.3"}, 0),
    ],
)
def test_every_level_of_both_models_is_answered(
    running: Node, model: str, level: str, keys: dict[str, str], matches: int
) -> None:
    answers, statuses = found(running, identifier(level, **keys), model)
    assert statuses == [PENDING] * matches + [SUCCESS]
    assert [answer.QueryRetrieveLevel for answer in answers] == [level] * matches


@pytest.mark.parametrize(
    ("keyword", "text", "studies"),
    [
        ("PatientID", "P-1", [STUDY]),
        ("PatientID", "P-?", [OTHER, STUDY]),
        ("PatientName", "phantom^one", [STUDY]),
        ("PatientName", "*taro*", [OTHER]),
        ("AccessionNumber", "a-1", []),
        ("StudyInstanceUID", f"{STUDY}\\1.2.3", [STUDY]),
        ("StudyDate", "20250101", [OTHER]),
        ("StudyDate", "-20241231", [STUDY]),
        ("StudyTime", "08-0900", [OTHER]),
        ("ModalitiesInStudy", "MR", [OTHER]),
        ("StudyDescription", "*", [OTHER, STUDY]),
    ],
)
def test_every_kind_of_matching_finds_what_it_should(
    running: Node, keyword: str, text: str, studies: list[str]
) -> None:
    answers, _ = found(running, identifier(**{"StudyInstanceUID": "", keyword: text}))
    assert [answer.StudyInstanceUID for answer in answers] == studies


def test_a_match_tells_what_was_asked_and_how_to_retrieve_it(running: Node) -> None:
    asked = identifier(
        PatientID="P-1",
        PatientName="",
        ModalitiesInStudy="",
        NumberOfStudyRelatedSeries="",
        NumberOfStudyRelatedInstances="",
    )
    (answer,), _ = found(running, asked)
    assert answer.PatientName == "Phantom^One"
    assert answer.ModalitiesInStudy == "CT"
    assert answer.NumberOfStudyRelatedSeries == 2
    assert answer.NumberOfStudyRelatedInstances == 6
    assert answer.StudyInstanceUID == STUDY
    assert answer.RetrieveAETitle == "ISOCENTER"
    assert answer.InstanceAvailability == "ONLINE"
    assert answer.SpecificCharacterSet == "ISO_IR 100"


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (["", "ISO 2022 IR 87"], ["", "ISO 2022 IR 87"]),
        ("ISO_IR 100", "ISO_IR 192"),
        ("ISO_IR 192", "ISO_IR 192"),
    ],
)
def test_names_come_in_the_set_of_the_query_or_in_utf_8(
    running: Node, asked: object, answered: object
) -> None:
    wanted = identifier(SpecificCharacterSet=asked, PatientName="*山田*=", PatientID="")
    wanted.PatientName = "Yamada*"
    (answer,), _ = found(running, wanted)
    assert answer.SpecificCharacterSet == answered
    assert answer.PatientName == "Yamada^Tarou=山田^太郎=やまだ^たろう"


def test_a_sequence_key_comes_back_empty_with_a_warning(running: Node) -> None:
    item = Dataset()
    item.ScheduledProcedureStepID = "1"
    asked = identifier("SERIES", StudyInstanceUID=STUDY, RequestAttributesSequence=Items([item]))
    answers, statuses = found(running, asked)
    assert statuses == [UNSUPPORTED, UNSUPPORTED, SUCCESS]
    assert [len(answer.RequestAttributesSequence) for answer in answers] == [0, 0]


def test_a_relational_query_spans_the_levels(running: Node) -> None:
    relational = b"\1\0\0"
    answers, _ = found(running, identifier("SERIES", Modality="MR"), options=relational)
    assert [answer.StudyInstanceUID for answer in answers] == [OTHER]
    answers, statuses = found(
        running, identifier(Modality="MR", SeriesNumber=1), options=relational
    )
    assert [answer.StudyInstanceUID for answer in answers] == [OTHER]
    assert statuses == [UNSUPPORTED, SUCCESS]
    answers, _ = found(running, identifier(Modality="MR", SeriesNumber=2), options=relational)
    assert not answers


def test_names_match_by_words_where_that_was_negotiated(running: Node) -> None:
    asked = identifier(PatientName="on pha")
    assert found(running, asked, options=b"\0\0\1")[1] == [PENDING, SUCCESS]
    assert found(running, asked)[1] == [SUCCESS]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (Dataset(), 0xA900),
        (identifier(""), 0xA900),
        (identifier("PATIENT"), 0xA900),
        (identifier("SERIES"), 0xA900),
        (identifier(Modality="CT"), 0xA900),
        (identifier(RequestAttributesSequence=Items([Dataset(), Dataset()])), 0xA900),
        (identifier(StudyDate="-"), 0xC000),
        (identifier(StudyTime="1-2"), 0xC000),
        (identifier(AccessionNumber="?" * 33), 0xC000),
    ],
)
def test_what_cannot_be_answered_ends_with_its_status(
    running: Node, asked: Dataset, status: int
) -> None:
    asked.PatientID = ""  # pynetdicom sends no empty identifier
    with requestor(running, STUDY_FIND) as association:
        assert find(association, asked) == ([], [status])
        assert find(association, identifier(PatientID="nobody")) == ([], [SUCCESS])


def test_a_peer_without_the_right_to_query_is_refused(running: Node) -> None:
    running.peers.put(OPERATOR, Peer("STORER", "127.0.0.1", 104, rights=frozenset({Right.STORE})))
    for ae_title in ("STORER", "STRANGER"):
        with requestor(running, STUDY_FIND, ae_title=ae_title) as association:
            assert find(association, identifier()) == ([], [0x0124])


def test_matches_beyond_the_limit_end_with_out_of_resources(running: Node) -> None:
    asked = identifier("IMAGE", StudyInstanceUID=STUDY, SeriesInstanceUID="", SOPInstanceUID="")
    _, statuses = found(running, asked, options=b"\1")
    assert statuses == [PENDING] * 4 + [0xA700]


def test_an_index_that_is_down_is_out_of_resources(tmp_path: Path) -> None:
    with node(tmp_path) as broken:
        with broken.archive.index.write() as connection:
            connection.execute(text("ALTER TABLE studies RENAME TO gone"))
        _, statuses = found(broken, identifier())
    assert statuses == [0xA700]


def test_a_search_that_takes_too_long_is_out_of_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacs.archive.SEARCH_S_MAX", 0.2)
    monkeypatch.setattr("pacs.index.queries.answers", slowly)
    with node(tmp_path) as slow:
        before = time.monotonic()
        assert found(slow, identifier())[1] == [0xA700]
        assert time.monotonic() - before < 5


def slowly(connection: object, *_: object) -> None:
    """A statement that SQLite does not finish in our lifetime."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    connection.execute(text(endless))  # type: ignore[attr-defined]  # it is a connection


# C-CANCEL


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose index says that it holds thousands of studies."""
    with node(tmp_path_factory.mktemp("large")) as started:
        fill(started)
        with started.archive.index.write() as connection:
            connection.execute(text(COPIES), {"many": MANY, "study": STUDY})
        yield started


def test_every_match_is_answered_once_and_in_order(large: Node) -> None:
    answers, statuses = found(large, identifier(StudyInstanceUID=""))
    uids = [answer.StudyInstanceUID for answer in answers]
    assert statuses == [PENDING] * (MANY + 2) + [SUCCESS]
    assert uids[:2] == [OTHER, STUDY]
    assert sorted(uids[2:], reverse=True) == uids[2:]
    assert len(set(uids)) == MANY + 2


def test_a_cancelled_query_ends_within_a_second(large: Node) -> None:
    with requestor(large, STUDY_FIND) as association:
        statuses, cancelled_at = [], 0.0
        for reply, _ in association.send_c_find(identifier(), STUDY_FIND):
            statuses.append(reply.Status)
            if len(statuses) == 10:
                association.send_c_cancel(1, query_model=STUDY_FIND)
                cancelled_at = time.monotonic()
        assert time.monotonic() - cancelled_at < 1
        assert statuses[-1] == CANCELLED
        assert len(statuses) < MANY
        # A C-CANCEL that comes too late is no reason to end the next request of the same number.
        association.send_c_cancel(1, query_model=STUDY_FIND)
        assert find(association, identifier(PatientID="P-2"))[1] == [PENDING, SUCCESS]


def test_a_cancelled_search_is_interrupted_inside_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacs.archive.SEARCH_S_MAX", 60.0)
    monkeypatch.setattr("pacs.index.queries.answers", slowly)
    with node(tmp_path) as slow, Scanner(slow.port) as scanner:
        scanner.associate(Context(STUDY_FIND))
        send_find(scanner, make.data_set_bytes(identifier()))
        time.sleep(0.3)
        before = time.monotonic()
        scanner.command(1, (0x0100, b"\xff\x0f"), (0x0120, b"\7\0"), (0x0800, b"\1\1"))
        assert scanner.reply().status == CANCELLED
        assert time.monotonic() - before < 1


def test_a_peer_that_leaves_ends_its_query(large: Node) -> None:
    scanner = Scanner(large.port)
    scanner.associate(Context(STUDY_FIND))
    send_find(scanner, make.data_set_bytes(identifier()))
    scanner.reset()
    until = time.monotonic() + 5
    while large.receiver.associations and time.monotonic() < until:
        time.sleep(0.02)
    assert large.receiver.associations == 0


# odd identifiers


def send_find(scanner: Scanner, encoded: bytes) -> None:
    """Send a C-FIND-RQ with any bytes as its identifier."""
    scanner.command(
        1,
        (0x0002, padded(STUDY_FIND)),
        (0x0100, b"\x20\0"),
        (0x0110, b"\7\0"),
        (0x0700, b"\0\0"),
        (0x0800, b"\1\0"),
    )
    for start in range(0, max(1, len(encoded)), 60_000):
        is_last = start + 60_000 >= len(encoded)
        scanner.value(1, 2 * is_last, encoded[start : start + 60_000])


def final_status(scanner: Scanner) -> int:
    """The status of the response that ends a C-FIND."""
    while True:
        kind, body = scanner.answer()
        assert kind == 4, f"PDU {kind} instead of a response"
        if body[5] & 1:
            status = int.from_bytes(read_command_set(body[6:])[0x0900], "little")
            if status not in (PENDING, UNSUPPORTED):
                return status


EMPTY_SEQUENCE = make.element(0x00400275, "SQ", b"")
TWO_ITEMS = make.element(0x00400275, "SQ", b"\xfe\xff\x00\xe0\0\0\0\0" * 2)
LEVEL = make.element(0x00080052, "CS", b"STUDY ")


@pytest.mark.parametrize(
    ("encoded", "status"),
    [
        (b"", 0xA900),
        (EMPTY_SEQUENCE, 0xA900),
        (LEVEL + EMPTY_SEQUENCE, SUCCESS),
        (LEVEL + TWO_ITEMS, 0xA900),
        (make.nested(300), 0xC000),
        (LEVEL + make.element(0x00100020, "SQ", b""), SUCCESS),
        (LEVEL + make.element(0x00100020, "US", b"\1\0"), SUCCESS),
        (LEVEL + make.element(0x00100010, "FD", b"\xff" * 8), SUCCESS),
        (LEVEL + make.element(0x00100020, "UT", b"x" * 1_000_000), 0xC000),
        (LEVEL + make.element(0x00100021, "UT", b"*a" * 40), 0xC000),
        (LEVEL + make.element(0x00280106, "UT", b""), SUCCESS),
        (LEVEL + b"\x10\0", 0xC000),
        (bytes(17 << 20), 0xA700),
    ],
)
def test_an_odd_identifier_gets_a_status(running: Node, encoded: bytes, status: int) -> None:
    with Scanner(running.port) as scanner:
        scanner.associate(Context(STUDY_FIND))
        send_find(scanner, encoded)
        assert final_status(scanner) == status
        send_find(scanner, LEVEL)
        assert final_status(scanner) == SUCCESS


@pytest.fixture(scope="module")
def find_status(running: Node) -> Iterator[Callable[[bytes], int]]:
    with Scanner(running.port) as scanner:
        scanner.associate(Context(STUDY_FIND))

        def ask(encoded: bytes) -> int:
            send_find(scanner, encoded)
            return final_status(scanner)

        yield ask


VRS = st.sampled_from(
    ["AE", "CS", "DA", "IS", "LO", "OB", "PN", "SQ", "TM", "UI", "UN", "US", "UT"]
)
TAGS = st.sampled_from(
    [
        *(0x00080005, 0x00080020, 0x00080030, 0x00080061, 0x00091001, 0x00100010, 0x00100020),
        *(0x0020000D, 0x00201208, 0x00280010, 0x00400275, 0x7FE00010),
    ]
)
ELEMENTS = st.dictionaries(TAGS, st.tuples(VRS, st.binary(max_size=40)), max_size=6)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(elements=ELEMENTS, tail=st.binary(max_size=12))
def test_any_identifier_gets_one_of_the_statuses(
    find_status: Callable[[bytes], int],
    elements: dict[int, tuple[str, bytes]],
    tail: bytes,
) -> None:
    keys = {0x00080052: ("CS", b"STUDY "), **elements}
    encoded = b"".join(
        make.element(tag, vr, raw + b" " * (len(raw) % 2))
        for tag, (vr, raw) in sorted(keys.items())
    )
    assert find_status(encoded + tail) in {SUCCESS, 0xA700, 0xA900, 0xC000}


def test_the_node_still_answers_after_all_that(running: Node) -> None:
    assert running.answers()
    assert found(running, identifier(StudyInstanceUID=generate_uid()))[1] == [SUCCESS]
