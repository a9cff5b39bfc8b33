"""The worklist on every database: the same step once, found by every key, gone when it is done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, update

from pacs.access import Action, Actor
from pacs.errors import BadQuery, Forbidden, Missing
from pacs.index import Index, audit
from pacs.index.schema import now, scheduled_steps
from pacs.worklist import PAGE_ENTRIES, LeavesAt, Worklist
from tests.scheduled import RIS, SCANNER, STEP, entry

JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
KOREAN = "Hong^Gildong=洪^吉洞=홍^길동"

MATCHES: list[tuple[dict[str, str], list[str]]] = [
    ({}, ["S-1", "S-2", "S-3"]),
    ({"ScheduledStationAETitle": "CT1"}, ["S-1"]),
    ({"ScheduledStationAETitle": "MR2"}, ["S-2"]),
    ({"ScheduledStationAETitle": "MR"}, []),
    ({"ScheduledStationAETitle": "MR*"}, ["S-2"]),
    ({"Modality": "MR"}, ["S-2"]),
    ({"PatientName": "phantom*"}, ["S-1"]),
    ({"PatientName": "山田*"}, ["S-2"]),
    ({"PatientName": "=山田^太郎"}, ["S-2"]),
    ({"PatientName": "yamada^tarou=山田^太郎"}, ["S-2"]),
    ({"PatientName": "*홍*"}, ["S-3"]),
    ({"PatientName": "=洪*=홍*"}, ["S-3"]),
    ({"PatientName": "=山田*=홍*"}, []),
    ({"PatientID": "P-?"}, ["S-1", "S-2", "S-3"]),
    ({"IssuerOfPatientID": "HOSPITAL"}, ["S-3"]),
    ({"AccessionNumber": "A-2"}, ["S-2"]),
    ({"AccessionNumber": "a-2"}, []),
    ({"RequestedProcedureID": "R-3"}, ["S-3"]),
    ({"ScheduledProcedureStepID": "S-3"}, ["S-3"]),
    ({"ScheduledPerformingPhysicianName": "perform*"}, ["S-1", "S-2", "S-3"]),
    ({"StudyInstanceUID": "1.2.3\\1.2.4"}, ["S-3"]),
    ({"ScheduledProcedureStepStartDate": "20260305"}, ["S-2"]),
    ({"ScheduledProcedureStepStartTime": "10"}, ["S-1"]),
    ({"ScheduledProcedureStepStartTime": "-1200"}, ["S-1", "S-2"]),
    ({"ScheduledProcedureStepStartDate": "20260304-20260305"}, ["S-1", "S-2"]),
]
INTERVALS: list[tuple[str, str, list[str]]] = [
    ("20260305-20260307", "1000-1800", ["5 10:00", "6 03:00", "7 18:00"]),
    ("20260306-", "0400-", ["7 18:00", "7 23:00"]),
    ("-20260305", "-0959", ["5 09:00"]),
    ("20260305-20260306", "1000", ["5 10:00"]),
    ("20260306", "0300-0400", ["6 03:00"]),
]

LISTED: list[tuple[LeavesAt, str, bool]] = [
    ("started", "SCHEDULED", True),
    ("started", "ARRIVED", True),
    ("started", "READY", True),
    ("started", "STARTED", False),
    ("ended", "STARTED", True),
    ("ended", "COMPLETED", False),
    ("ended", "DISCONTINUED", False),
    ("completed", "DISCONTINUED", True),
    ("completed", "COMPLETED", False),
    ("completed", "CANCELED", False),
    ("completed", "DEPARTED", False),
]


@pytest.fixture
def worklist(index: Index) -> Worklist:
    return Worklist(index)


def ids(worklist: Worklist, **texts: str) -> list[str]:
    """The step IDs that a scanner is answered with."""
    return [
        one.model["00400100"]["Value"][0]["00400009"]["Value"][0]
        for page in worklist.pages(SCANNER, texts)
        for one in page
    ]


def statuses(index: Index) -> list[str]:
    with index.read() as connection:
        return list(connection.execute(select(scheduled_steps.c.status)).scalars())


def test_a_step_that_is_scheduled_twice_is_there_once(worklist: Worklist) -> None:
    first = worklist.schedule(RIS, entry())
    again = worklist.schedule(RIS, entry(PatientSex="F"))
    assert (first.is_new, again.is_new) == (True, False)
    assert (again.id, again.study_instance_uid) == (first.id, first.study_instance_uid)
    assert worklist.get(RIS, first.id).model["00100040"]["Value"] == ["F"]
    assert ids(worklist) == ["S-1"]


def test_sixteen_equal_ones_at_once_make_one_row(index: Index, worklist: Worklist) -> None:
    one = entry(StudyInstanceUID="1.2.3")
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: worklist.schedule(RIS, one), range(16)))
    assert sum(scheduled.is_new for scheduled in made) == 1
    with index.read() as connection:
        assert connection.execute(select(func.count()).select_from(scheduled_steps)).scalar() == 1


def test_the_steps_of_one_requested_procedure_share_their_study(worklist: Worklist) -> None:
    first = worklist.schedule(RIS, entry())
    second = worklist.schedule(RIS, entry(step={"ScheduledProcedureStepID": "S-2"}))
    other = worklist.schedule(RIS, entry(3))
    assert first.study_instance_uid == second.study_instance_uid
    assert other.study_instance_uid != first.study_instance_uid


def test_patients_that_disagree_are_both_on_the_list(worklist: Worklist) -> None:
    worklist.schedule(RIS, entry(1, PatientName="Phantom^One"))
    worklist.schedule(RIS, entry(2, PatientName="Other^Name", PatientBirthDate="19991231"))
    assert ids(worklist, PatientID="P-1") == ["S-1", "S-2"]


def test_every_key_finds_what_it_should(worklist: Worklist) -> None:
    worklist.schedule(RIS, entry(1))
    two = {
        "ScheduledStationAETitle": ["MR1", "MR2", "MR3"],
        "Modality": "MR",
        "ScheduledProcedureStepStartDate": "20260305",
        "ScheduledProcedureStepStartTime": "0900",
    }
    worklist.schedule(RIS, entry(2, step=two, PatientName=JAPANESE, PatientID="P-2"))
    three = {
        "ScheduledProcedureStepStartDate": "20260306",
        "ScheduledProcedureStepStartTime": "153000.5",
        "ScheduledStationAETitle": "US",
        "Modality": "US",
    }
    given = {"PatientID": "P-3", "IssuerOfPatientID": "HOSPITAL", "StudyInstanceUID": "1.2.3"}
    worklist.schedule(RIS, entry(3, step=three, PatientName=KOREAN, **given))
    assert [(texts, ids(worklist, **texts)) for texts, _ in MATCHES] == MATCHES


def test_ranges_of_date_and_time_are_one_interval(worklist: Worklist) -> None:
    for start in ("5 09:00", "5 10:00", "6 03:00", "7 18:00", "7 23:00"):
        day, _, time = start.partition(" ")
        step = {
            "ScheduledProcedureStepStartDate": f"2026030{day}",
            "ScheduledProcedureStepStartTime": time.replace(":", ""),
            "ScheduledProcedureStepID": start,
        }
        worklist.schedule(RIS, entry(1, step=step))
    for days, times, found in INTERVALS:
        texts = {
            "ScheduledProcedureStepStartDate": days,
            "ScheduledProcedureStepStartTime": times,
        }
        assert ids(worklist, **texts) == found, (days, times)


def test_a_range_without_ends_is_refused(worklist: Worklist) -> None:
    with pytest.raises(BadQuery):
        ids(worklist, ScheduledProcedureStepStartTime="-")


def test_a_long_list_comes_in_order_and_whole(worklist: Worklist) -> None:
    many = PAGE_ENTRIES + 7
    for number in reversed(range(many)):
        step = {"ScheduledProcedureStepStartTime": f"{10 + number % 3}0000"}
        worklist.schedule(RIS, entry(number, step=step))
    found = ids(worklist)
    assert len(set(found)) == many
    assert [int(one[2:]) % 3 for one in found] == sorted(number % 3 for number in range(many))


def test_a_step_leaves_the_list_when_it_is_set_to(index: Index) -> None:
    number = Worklist(index).schedule(RIS, entry()).id
    for leaves_at, status, is_listed in LISTED:
        worklist = Worklist(index, leaves_at=leaves_at)
        assert worklist.set_status(RIS, number, status).status == status
        assert bool(ids(worklist)) == is_listed, (leaves_at, status)


def test_what_the_list_says_of_a_step_does_not_change_its_status(worklist: Worklist) -> None:
    scheduled = worklist.schedule(RIS, entry())
    worklist.set_status(RIS, scheduled.id, "ARRIVED")
    worklist.schedule(RIS, entry(PatientSex="F"))
    assert worklist.get(RIS, scheduled.id).status == "ARRIVED"
    worklist.schedule(RIS, entry(step={"ScheduledProcedureStepStatus": "READY"}))
    told = worklist.get(RIS, scheduled.id)
    assert told.status == "READY"
    assert told.model["00400100"]["Value"][0]["00400020"]["Value"] == ["READY"]


def test_an_entry_is_removed_once(worklist: Worklist) -> None:
    scheduled = worklist.schedule(RIS, entry())
    worklist.remove(RIS, scheduled.id)
    for verb in (worklist.remove, worklist.get):
        with pytest.raises(Missing):
            verb(RIS, scheduled.id)
    with pytest.raises(Missing):
        worklist.set_status(RIS, scheduled.id, "READY")


def test_old_entries_go_and_those_to_come_stay(index: Index, worklist: Worklist) -> None:
    worklist.schedule(RIS, entry(1))
    worklist.schedule(RIS, entry(2))
    worklist.schedule(RIS, entry(3, step={"ScheduledProcedureStepStartDate": "29990101"}))
    assert worklist.remove_old() == 0
    with index.write() as connection:
        long_ago = update(scheduled_steps).where(scheduled_steps.c.AccessionNumber != "A-2")
        connection.execute(long_ago.values(changed_at=now() - 31 * 86_400))
        connection.execute(
            update(scheduled_steps).values(
                starts_at=func.replace(scheduled_steps.c.starts_at, "2026", "2020")
            )
        )
    assert worklist.remove_old() == 1
    assert ids(worklist) == ["S-2", "S-3"]


def test_deeds_are_audited_without_the_patient(index: Index, worklist: Worklist) -> None:
    scheduled = worklist.schedule(RIS, entry())
    ids(worklist, PatientName="Phantom*")
    ids(worklist, PatientName="Phantom*")
    worklist.set_status(RIS, scheduled.id, "READY")
    worklist.remove(RIS, scheduled.id)
    with index.read() as connection:
        events = audit.after(connection, 0, 100)
    assert [event.action for event in events] == [
        "schedule",
        "worklist",
        "change entry",
        "remove entry",
    ]
    assert events[1].subject == {"keys": "PatientName"}
    assert "hantom" not in str(events)


def test_nobody_does_what_he_may_not(worklist: Worklist) -> None:
    scheduled = worklist.schedule(RIS, entry())
    asker = Actor("peer", "CT1", actions=frozenset({Action.WORKLIST}))
    assert list(worklist.pages(asker, {}))
    for verb in (
        lambda: worklist.schedule(asker, entry()),
        lambda: worklist.set_status(asker, scheduled.id, "READY"),
        lambda: worklist.remove(asker, scheduled.id),
    ):
        with pytest.raises(Forbidden):
            verb()
    stranger = Actor("peer", "X", actions=frozenset({Action.STORE, Action.SEARCH}))
    for ask in (
        lambda: list(worklist.pages(stranger, {})),
        lambda: worklist.listed(stranger, {}),
        lambda: worklist.get(stranger, scheduled.id),
    ):
        with pytest.raises(Forbidden):
            ask()


@pytest.mark.parametrize(
    ("spoilt", "place"),
    [
        ({"PatientName": ""}, "PatientName is missing"),
        ({"PatientID": None}, "PatientID is missing"),
        ({"AccessionNumber": ["A", "B"]}, "AccessionNumber must have one value"),
        ({STEP: []}, f"{STEP} must have exactly one item"),
        ({STEP: [{}, {}]}, f"{STEP} must have exactly one item"),
        ({STEP: [{}]}, f"{STEP}[0].ScheduledStationAETitle is missing"),
        ({STEP: "CT"}, f"{STEP}[0] is no object"),
        ({"StudyInstanceUID": "1.2/3"}, "StudyInstanceUID is not a value of UI"),
        ({"StudyInstanceUID": ["1.2", "1.3"]}, "StudyInstanceUID must have one value"),
        ({"PatientsName": "X"}, "what is no keyword of DICOM is no attribute that can"),
        ({"SpecificCharacterSet": "ISO_IR 100"}, "SpecificCharacterSet is no attribute"),
        ({"PixelData": "x"}, "PixelData holds bytes"),
        ({"PatientBirthDate": "20250230"}, "PatientBirthDate is not a value of DA"),
        ({"PatientSex": True}, "PatientSex is neither a text nor a number"),
        ({"PatientName": "A\\B"}, "PatientName is not a value of PN"),
        ({"PatientID": "x" * 65}, "PatientID is not a value of LO"),
        ({"PatientID": "x\x00y"}, "PatientID is not a value of LO"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(
    sqlite_index: Index, spoilt: dict[str, Any], place: str
) -> None:
    worklist = Worklist(sqlite_index)
    with pytest.raises(BadQuery) as refused:
        worklist.schedule(RIS, entry(**spoilt))
    assert refused.value.message.startswith(place)
    assert statuses(sqlite_index) == []
