"""The modality worklist over real sockets: DCMTK's findscu -W and pynetdicom's own SCU."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence as Items

from pacs.dimse.upper_layer import DimseLimits
from pacs.dimse.worklist import WORKLIST_FIND
from tests import make
from tests.scheduled import RIS, entry
from tests.unit.dimse.scanner import Context, Scanner, padded, read_command_set
from tests.wire.modality import Hospital, asked, hospital, question
from tests.wire.test_query_retrieve import tool

PENDING, UNSUPPORTED, SUCCESS = 0xFF00, 0xFF01, 0x0000
JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
KOREAN = "Hong^Gildong=洪^吉洞=홍^길동"


def fill(running: Hospital) -> None:
    """Three steps: of a CT, of a Japanese and of a Korean patient."""
    running.worklist.schedule(RIS, entry(1, Allergies="Latex", PregnancyStatus=4))
    mr = {"ScheduledStationAETitle": "MR1", "Modality": "MR"}
    code = {
        "CodeValue": "MRCHEST",
        "CodingSchemeDesignator": "99HOSP",
        "CodeMeaning": "胸部",
    }
    running.worklist.schedule(
        RIS,
        entry(
            2,
            step={**mr, "ScheduledProtocolCodeSequence": [code]},
            PatientName=JAPANESE,
            PatientID="P-2",
        ),
    )
    running.worklist.schedule(RIS, entry(3, step=mr, PatientName=KOREAN, PatientID="P-3"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    with hospital(tmp_path_factory.mktemp("node")) as started:
        fill(started)
        yield started


def found(running: Hospital, made: Dataset) -> tuple[list[Dataset], list[int]]:
    with running.calling() as association:
        return asked(association, made)


def findscu(running: Hospital, *options: str | Path, ae_title: str = "CT1") -> str:
    """What DCMTK's findscu says to a question of the worklist."""
    address = ("127.0.0.1", str(running.port))
    done = subprocess.run(
        [tool("findscu"), "-v", "-W", "-aet", ae_title, "-aec", "ISOCENTER", *options, *address],
        capture_output=True,
        timeout=60,
        check=False,
    )
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def keys(*given: str) -> list[str]:
    return [part for key in given for part in ("-k", key)]


def test_findscu_gets_its_patients(running: Hospital) -> None:
    wanted = keys(
        "PatientName",
        "PatientID",
        "ScheduledProcedureStepSequence[0].Modality=CT",
        "ScheduledProcedureStepSequence[0].ScheduledStationAETitle=CT1",
        "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate=20260304",
        "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartTime",
    )
    said = findscu(running, *wanted)
    assert said.count("(Pending)") == 1
    assert "Phantom^One" in said
    assert "Received Final Find Response (Success)" in said


def test_findscu_writes_what_scanners_read(running: Hospital, tmp_path: Path) -> None:
    wanted = keys("PatientName=*山田*", "SpecificCharacterSet=ISO_IR 192")
    said = findscu(running, "-X", "-od", tmp_path, *wanted)
    (file,) = tmp_path.iterdir()
    answer = dcmread(file, force=True)
    assert str(answer.PatientName) == JAPANESE, said
    assert answer.ScheduledProcedureStepSequence[0].ScheduledStationAETitle == "MR1"


def test_findscu_hears_that_it_may_not_ask(running: Hospital) -> None:
    assert "0x0124" in findscu(running, "-d", *keys("PatientName"), ae_title="NOBODY")
    assert "(Pending)" not in findscu(running, *keys("PatientName"), ae_title="STRANGER")


@pytest.mark.parametrize(
    ("characters", "name", "ids"),
    [
        ("ISO_IR 192", "山田*", ["P-2"]),
        (["", "ISO 2022 IR 87"], "=山田*", ["P-2"]),
        (["ISO 2022 IR 6", "ISO 2022 IR 87"], "yamada*=山田*", ["P-2"]),
        ("ISO_IR 192", "*길동*", ["P-3"]),
        (["", "ISO 2022 IR 149"], "*=홍^길동", []),
        (["", "ISO 2022 IR 149"], "Hong*=*=홍^길동", ["P-3"]),
        ("ISO_IR 100", "PHANTOM^ONE", ["P-1"]),
        ("ISO_IR 100", "Phäntom^One", ["P-1"]),
    ],
)
def test_names_match_in_any_character_set(
    running: Hospital, characters: str | list[str], name: str, ids: list[str]
) -> None:
    asks = question(SpecificCharacterSet=characters, PatientName=name, PatientID="")
    answers, _ = found(running, asks)
    assert [answer.PatientID for answer in answers] == ids


def test_an_answer_is_in_the_set_it_was_asked_in_if_it_fits(running: Hospital) -> None:
    (one,), _ = found(running, question(SpecificCharacterSet="ISO_IR 100", PatientID="P-1"))
    assert one.SpecificCharacterSet == "ISO_IR 100"
    (two,), _ = found(running, question(SpecificCharacterSet="ISO_IR 100", PatientID="P-2"))
    assert two.SpecificCharacterSet == "ISO_IR 192"
    assert str(two.PatientName) == JAPANESE
    whole = question(
        SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientID="P-2", step={"Modality": "MR"}
    )
    whole.ScheduledProcedureStepSequence[0].ScheduledProtocolCodeSequence = Items([])
    (two,), _ = found(running, whole)
    assert list(two.SpecificCharacterSet) == ["", "ISO 2022 IR 87"]
    (code,) = two.ScheduledProcedureStepSequence[0].ScheduledProtocolCodeSequence
    assert code.CodeMeaning == "胸部"


def test_mandatory_return_keys_come_though_nobody_asked(running: Hospital) -> None:
    (answer,), statuses = found(running, question(PatientID="P-1"))
    assert statuses == [PENDING, SUCCESS]
    (step,) = answer.ScheduledProcedureStepSequence
    assert {keyword: str(step[keyword].value) for keyword in step.dir()} == {
        "ScheduledStationAETitle": "CT1",
        "ScheduledProcedureStepStartDate": "20260304",
        "ScheduledProcedureStepStartTime": "1000",
        "Modality": "CT",
        "ScheduledPerformingPhysicianName": "Performer^Pat",
        "ScheduledProcedureStepID": "S-1",
    }
    assert (answer.AccessionNumber, answer.RequestedProcedureID) == ("A-1", "R-1")
    assert answer.PatientName == "Phantom^One"
    assert answer.StudyInstanceUID.startswith("2.25.")
    assert "Allergies" not in answer


def test_any_other_attribute_comes_when_asked_and_empty_if_unknown(running: Hospital) -> None:
    step = {"ScheduledProcedureStepDescription": "", "PreMedication": ""}
    asks = question(
        PatientID="P-1", Allergies="", PregnancyStatus=None, PatientWeight="", step=step
    )
    asks.RequestedProcedureCodeSequence = Items([])
    (answer,), statuses = found(running, asks)
    assert statuses == [PENDING, SUCCESS]
    assert (answer.Allergies, answer.PregnancyStatus, answer.PatientWeight) == ("Latex", 4, None)
    assert list(answer.RequestedProcedureCodeSequence) == []
    (told,) = answer.ScheduledProcedureStepSequence
    assert told.ScheduledProcedureStepDescription == "Chest, low dose"
    assert told.PreMedication == ""


def test_a_step_that_is_asked_for_without_keys_comes_whole(running: Hospital) -> None:
    for items in ([], [Dataset()]):
        asks = question(PatientID="P-1")
        asks.ScheduledProcedureStepSequence = Items(items)
        (answer,), _ = found(running, asks)
        (told,) = answer.ScheduledProcedureStepSequence
        assert told.ScheduledProcedureStepDescription == "Chest, low dose"
        assert told.ScheduledProcedureStepStatus == "SCHEDULED"


@pytest.mark.parametrize(
    "asks",
    [
        question(PatientSex="O"),
        question(step={"ScheduledProcedureStepDescription": "Chest"}),
        question(step={"ScheduledProtocolCodeSequence": [question(CodeValue="X")]}),
    ],
)
def test_an_optional_key_that_is_not_matched_is_told(running: Hospital, asks: Dataset) -> None:
    _, statuses = found(running, asks)
    assert statuses == [UNSUPPORTED] * 3 + [SUCCESS]


@pytest.mark.parametrize(
    ("asks", "status"),
    [
        (question(step={"ScheduledProcedureStepStartDate": "today"}), 0xC000),
        (question(step={"ScheduledProcedureStepStartTime": "-"}), 0xC000),
        (question(StudyInstanceUID="one"), 0xC000),
    ],
)
def test_a_bad_value_is_refused(running: Hospital, asks: Dataset, status: int) -> None:
    assert found(running, asks) == ([], [status])


def test_two_items_in_the_sequence_are_refused(running: Hospital) -> None:
    asks = question(step={"Modality": "CT"})
    asks.ScheduledProcedureStepSequence.append(Dataset())
    assert found(running, asks) == ([], [0xA900])


def test_who_may_not_ask_hears_it(running: Hospital) -> None:
    with running.calling(ae_title="NOBODY") as association:
        assert asked(association, question(PatientID="")) == ([], [0x0124])


def test_implicit_and_explicit_questions_are_answered_alike(running: Hospital) -> None:
    answers = []
    for syntax in (make.IMPLICIT, make.EXPLICIT):
        with running.calling(syntaxes=(syntax,)) as association:
            found_, _ = asked(association, question(PatientName="*", step={"Modality": ""}))
            answers.append([answer.to_json_dict() for answer in found_])
    assert answers[0] == answers[1]
    assert len(answers[0]) == 3


def test_more_than_the_limit_ends_with_a_refusal(tmp_path: Path) -> None:
    with hospital(tmp_path, DimseLimits(answers_max=2)) as small:
        fill(small)
        answers, statuses = found(small, question(PatientID=""))
        assert len(answers) == 2
        assert statuses == [PENDING, PENDING, 0xA700]


def request(scanner: Scanner, encoded: bytes, message_id: int = 1) -> None:
    """A C-FIND-RQ with any bytes as its identifier."""
    scanner.command(
        1,
        (0x0002, padded(WORKLIST_FIND)),
        (0x0100, struct.pack("<H", 0x0020)),
        (0x0110, struct.pack("<H", message_id)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", 1)),
    )
    scanner.value(1, 2, encoded)


def last_status(scanner: Scanner) -> int:
    """The status that ends the answers."""
    while True:
        status = raw_status(scanner)
        if status not in (PENDING, UNSUPPORTED):
            return status


def raw_status(scanner: Scanner) -> int:
    while True:
        kind, body = scanner.answer()
        assert kind == 4, kind
        if body[5] & 1:
            return int(struct.unpack("<H", read_command_set(body[6:])[0x0900])[0])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(noise=st.binary(min_size=1, max_size=200), at=st.integers(0, 200))
def test_a_spoilt_identifier_is_answered_and_harms_nobody(
    running: Hospital, noise: bytes, at: int
) -> None:
    encoded = bytearray(
        make.data_set_bytes(
            question(PatientName="A*", step={"Modality": "CT", "ScheduledStationAETitle": "X"})
        )
    )
    encoded[at : at + len(noise)] = noise
    with Scanner(running.port) as scanner:
        assert scanner.associate(Context(WORKLIST_FIND), calling="CT1")[0] == 2
        request(scanner, bytes(encoded))
        assert last_status(scanner) in (SUCCESS, 0xA900, 0xC000, 0x0110)


@pytest.mark.parametrize(
    "encoded",
    [
        make.nested(3_000),
        make.nested(60),
        make.element(0x00400100, "SQ", b"\xfe\xff\x00\xe0\xff\xff\xff\xff"),
        make.element(0x00400100, "SQ", b"\x08\x00\x60\x00"),
        make.element(0x00100010, "PN", b"\x1b$B\xff\xff=\x1b") + b"\x10",
        make.element(0x00080005, "CS", b"ISO 2022 IR 999\\X ")
        + make.element(0x00100010, "PN", b"\xff*"),
    ],
)
def test_a_hostile_identifier_ends_in_an_answer(running: Hospital, encoded: bytes) -> None:
    with Scanner(running.port) as scanner:
        assert scanner.associate(Context(WORKLIST_FIND), calling="CT1")[0] == 2
        request(scanner, encoded)
        assert last_status(scanner) in (SUCCESS, 0xC000)
