"""Procedure steps on every database: one end each, told on in order, complete when all is here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence as Items
from sqlalchemy import update

from pacs.access import Action, Actor
from pacs.archive import Archive
from pacs.errors import BadObject, Conflict, Exhausted, Forbidden, Missing, NodeError, Unreachable
from pacs.index import Index, audit, jobs, parties
from pacs.index.jobs import Job
from pacs.index.parties import Peer, Right
from pacs.index.performed import Message
from pacs.index.schema import jobs as jobs_table
from pacs.procedure_steps import (
    FORWARD,
    AlreadyFinal,
    InvalidValue,
    MissingAttribute,
    MissingValue,
    ProcedureSteps,
)
from pacs.store import open_store
from pacs.worker import Worker
from pacs.workflow import ModelRef, Plan, Workflow
from pacs.worklist import Worklist
from tests import make
from tests.scheduled import RIS, SCANNER, completion, creation, encoded, entry, series

STUDY = make.uid("study")
STEP_UID = make.uid("step")


@dataclass
class Department:
    """An archive, its workflow, and the steps performed for it; `told` is what peers heard."""

    index: Index
    archive: Archive
    workflow: Workflow
    steps: ProcedureSteps
    told: list[tuple[str, int]]
    trouble: list[NodeError] = field(default_factory=list)

    def start(self, made: Dataset | None = None, *, uid: str = STEP_UID) -> str:
        return self.steps.create(SCANNER, uid, *encoded(made or creation(STUDY)))

    def change(self, made: Dataset, *, uid: str = STEP_UID) -> None:
        self.steps.change(SCANNER, uid, *encoded(made))

    def store(self, instances: Iterable[Dataset]) -> None:
        for one in instances:
            self.archive.store(SCANNER, make.incoming(one))

    def state(self) -> str:
        (study,) = self.workflow.statuses(RIS, [STUDY])
        return study.state

    def infer_jobs(self) -> list[Job]:
        return [job for job in self.workflow.jobs() if job.kind == "infer"]

    def work(self) -> None:
        """Let a worker tell what is due, whatever pause a job still has."""
        worker = Worker(self.index, {FORWARD: self.steps.forward})
        for _ in range(8):
            with self.index.write() as connection:
                connection.execute(update(jobs_table).values(not_before=0.0))
            while worker.step():
                pass


@pytest.fixture
def department(index: Index, tmp_path: Path) -> Department:
    return department_in(index, tmp_path)


def department_in(index: Index, folder: Path) -> Department:
    archive = Archive("identified", open_store(f"file://{folder}/store", "identified"), index)
    plan = Plan([ModelRef("model", "1", "0" * 64)])
    told: list[tuple[str, int]] = []
    trouble: list[NodeError] = []

    def send(peer: Peer, _uid: str, message: Message, _is_repeat: bool) -> None:
        if trouble:
            raise trouble[0]
        told.append((peer.ae_title, message.number))

    workflow = Workflow(
        index,
        archive,
        plan,
        quiet_s=3600,
        consequences=[
            lambda connection, done: steps.tell_gaps(connection, done.study_instance_uid)
        ],
    )
    steps = ProcedureSteps(index, archive.id, complete=workflow.complete, send=send)
    return Department(index, archive, workflow, steps, told, trouble)


def actions(index: Index) -> list[str]:
    with index.read() as connection:
        return [event.action for event in audit.after(connection, 0, 1_000)]


def test_a_step_is_made_goes_on_and_ends(department: Department) -> None:
    assert department.start() == STEP_UID
    department.change(Dataset())
    described = Dataset()
    described.PerformedProcedureStepDescription = "Chest, two views"
    department.change(described)
    department.change(completion())
    (step,) = department.steps.of_study(RIS, STUDY)
    assert (step.state, step.modality, step.performed_station_ae_title) == (
        "COMPLETED",
        "CT",
        "CT1",
    )
    assert (step.started, step.ended) == ("20260304 100500", "20260304 101500")
    assert (list(step.scheduled_procedure_step_ids), step.instances_listed) == (["S-1"], 0)
    model = department.steps.get(SCANNER, STEP_UID)
    assert model["00400254"]["Value"] == ["Chest, two views"]
    assert actions(department.index) == [
        "start procedure step",
        "change procedure step",
        "change procedure step",
        "completed step",
    ]


def test_a_uid_is_made_where_none_is_given(department: Department) -> None:
    made = department.start(uid="")
    assert made != department.start(uid="")
    assert department.steps.get(SCANNER, made)


def test_a_uid_that_is_taken_is_refused(department: Department) -> None:
    department.start()
    with pytest.raises(Conflict):
        department.start(creation(STUDY, Modality="MR"))
    assert department.steps.get(SCANNER, STEP_UID)["00080060"]["Value"] == ["CT"]


def test_an_unknown_step_can_be_neither_changed_nor_read(department: Department) -> None:
    with pytest.raises(Missing):
        department.change(completion())
    with pytest.raises(Missing):
        department.steps.get(SCANNER, STEP_UID)


@pytest.mark.parametrize("state", ["COMPLETED", "DISCONTINUED"])
def test_what_has_ended_is_never_updated(department: Department, state: str) -> None:
    department.start()
    department.change(completion(state=state))
    before = department.steps.get(SCANNER, STEP_UID)
    for made in (completion(), completion(state="DISCONTINUED"), Dataset()):
        with pytest.raises(AlreadyFinal):
            department.change(made)
    assert department.steps.get(SCANNER, STEP_UID) == before


def test_of_racing_ends_one_wins(department: Department) -> None:
    department.start()
    gate = threading.Barrier(8)

    def end(number: int) -> str:
        state = ("COMPLETED", "DISCONTINUED")[number % 2]
        gate.wait()
        try:
            department.change(completion(state=state))
        except AlreadyFinal:
            return ""
        return state

    with ThreadPoolExecutor(8) as pool:
        ended = [state for state in pool.map(end, range(8)) if state]
    (step,) = department.steps.of_study(RIS, STUDY)
    assert ended == [step.state]


def test_racing_changes_are_all_kept(department: Department) -> None:
    department.start()

    def change(number: int) -> None:
        made = Dataset()
        made.CommentsOnThePerformedProcedureStep = f"comment {number}"
        department.change(made)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(8)))
    department.change(completion())
    assert actions(department.index).count("change procedure step") == 8


def test_a_study_is_complete_once_the_step_says_so(department: Department) -> None:
    images = make.study(3)
    department.start()
    department.store(images)
    assert department.state() == "receiving"
    department.change(completion(images))
    assert department.state() == "complete"
    assert [job.generation for job in department.infer_jobs()] == [1]
    (step,) = department.steps.of_study(RIS, STUDY)
    assert (step.instances_listed, step.instances_missing, list(step.missing)) == (3, 0, [])
    assert department.steps.settle_completed() == 0
    assert department.workflow.complete_quiet_studies() == 0


def test_images_that_come_after_the_step_complete_the_study_when_the_last_is_there(
    department: Department,
) -> None:
    first, second, third = make.study(3)
    department.start()
    department.store([first])
    department.change(completion([first, second, third]))
    assert department.steps.settle_completed() == 0
    assert department.state() == "receiving"
    (step,) = department.steps.of_study(RIS, STUDY)
    assert step.instances_missing == 2
    assert set(step.missing) == {second.SOPInstanceUID, third.SOPInstanceUID}
    department.store([second])
    assert department.steps.settle_completed() == 0
    department.store([third])
    assert department.steps.settle_completed() == 1
    assert department.state() == "complete"
    assert len(department.infer_jobs()) == 1


def test_a_node_that_died_between_commit_and_completion_goes_on(
    index: Index, tmp_path: Path
) -> None:
    department = department_in(index, tmp_path)
    images = make.study(2)
    department.store(images)
    department.start()

    def die(*_: object) -> bool:
        raise KeyboardInterrupt

    dying = ProcedureSteps(index, department.archive.id, complete=die, send=die)  # type: ignore[arg-type]  # it ends
    with pytest.raises(KeyboardInterrupt):
        dying.change(SCANNER, STEP_UID, *encoded(completion(images)))
    assert department.state() == "receiving"
    assert department.steps.settle_completed() == 1
    assert department.state() == "complete"


def test_a_discontinued_step_completes_nothing(department: Department) -> None:
    images = make.study(2)
    department.store(images)
    department.start()
    department.change(completion(images, state="DISCONTINUED"))
    assert department.steps.settle_completed() == 0
    assert department.state() == "receiving"


def test_a_study_waits_for_its_other_step(department: Department) -> None:
    images = make.study(2)
    department.store(images)
    other = make.uid("other step")
    department.start()
    department.start(creation(STUDY, step_id="S-2"), uid=other)
    department.change(completion(images))
    assert department.state() == "receiving"
    department.change(completion(state="DISCONTINUED"), uid=other)
    assert department.steps.settle_completed() == 1
    assert department.state() == "complete"


def test_a_study_waits_for_what_is_still_scheduled(department: Department) -> None:
    worklist = Worklist(department.index)
    for number in (1, 2):
        worklist.schedule(RIS, entry(number, StudyInstanceUID=STUDY))
    images = make.study(2)
    department.store(images)
    department.start()
    department.change(completion(images))
    assert department.state() == "receiving"
    (waiting,) = [e for e in worklist.listed(RIS, {}) if e.status == "SCHEDULED"]
    worklist.set_status(RIS, waiting.id, "CANCELED")
    assert department.steps.settle_completed() == 1


def test_what_is_missing_is_told_when_quiet_comes_first(
    department: Department, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = make.study(2)
    department.start()
    department.store([first])
    department.change(completion([first, second]))
    hasty = Workflow(
        department.index,
        department.archive,
        Plan(),
        quiet_s=0,
        consequences=[
            lambda connection, done: department.steps.tell_gaps(connection, done.study_instance_uid)
        ],
    )
    assert hasty.complete_quiet_studies() == 1
    assert "complete without 1 instances of procedure step" in caplog.text
    assert "miss instances" in actions(department.index)
    department.store([second])
    assert department.steps.settle_completed() == 1
    assert department.state() == "complete"


def test_the_worklist_hears_of_each_state(department: Department) -> None:
    worklist = Worklist(department.index)
    number = worklist.schedule(RIS, entry(StudyInstanceUID=STUDY)).id
    other = worklist.schedule(RIS, entry(2)).id
    department.start()
    assert worklist.get(RIS, number).status == "STARTED"
    department.change(completion(state="DISCONTINUED"))
    assert worklist.get(RIS, number).status == "DISCONTINUED"
    department.start(uid=make.uid("second try"))
    assert worklist.get(RIS, number).status == "STARTED"
    department.change(completion(), uid=make.uid("second try"))
    assert worklist.get(RIS, number).status == "COMPLETED"
    assert worklist.get(RIS, other).status == "SCHEDULED"


def listen(index: Index, *ae_titles: str) -> None:
    with index.write() as connection:
        for ae_title in ae_titles:
            heard = frozenset({Right.RECEIVE_MPPS})
            parties.put(connection, Peer(ae_title, "127.0.0.1", 104, rights=heard))


def test_peers_are_told_in_order_and_once(department: Department) -> None:
    listen(department.index, "RIS", "CT1")  # CT1 is who tells us
    department.start()
    department.change(Dataset())
    department.change(completion())
    department.work()
    assert department.told == [("RIS", 0), ("RIS", 1), ("RIS", 2)]
    department.work()
    assert len(department.told) == 3


def test_a_peer_that_is_away_is_told_in_order_when_it_is_back(department: Department) -> None:
    listen(department.index, "RIS")
    department.trouble.append(Unreachable("it does not answer"))
    department.start()
    department.change(completion())
    department.work()
    assert department.told == []
    states = {job.state for job in department.workflow.jobs()}
    assert states == {jobs.QUEUED}
    department.trouble.clear()
    department.work()
    assert department.told == [("RIS", 0), ("RIS", 1)]


def test_a_peer_that_refused_the_beginning_is_not_told_the_end(department: Department) -> None:
    listen(department.index, "RIS")
    department.trouble.append(Missing("it has no such service"))
    department.start()
    department.work()
    department.trouble.clear()
    department.change(completion())
    department.work()
    assert department.told == []
    assert {job.state for job in department.workflow.jobs()} == {jobs.FAILED}


def test_a_peer_that_comes_in_the_middle_is_told_of_no_half_step(department: Department) -> None:
    department.start()
    listen(department.index, "RIS")
    department.change(completion())
    department.work()
    assert department.told == []


def test_completing_the_study_leaves_what_is_to_be_told(department: Department) -> None:
    listen(department.index, "RIS")
    images = make.study(2)
    department.store(images)
    department.start()
    department.change(completion(images))
    assert department.state() == "complete"
    department.work()
    assert department.told == [("RIS", 0), ("RIS", 1)]


# what may be said: the same on every database, so one will do


@pytest.fixture
def alone(sqlite_index: Index, tmp_path: Path) -> Department:
    return department_in(sqlite_index, tmp_path)


Spoil = Callable[[Dataset], None]


def without(keyword: str) -> Spoil:
    return lambda made: delattr(made, keyword)


def having(keyword: str, value: object) -> Spoil:
    return lambda made: setattr(made, keyword, value)


def in_scheduled(spoil: Spoil) -> Spoil:
    return lambda made: spoil(made.ScheduledStepAttributesSequence[0])


def in_series(spoil: Spoil) -> Spoil:
    return lambda made: spoil(made.PerformedSeriesSequence[0])


@pytest.mark.parametrize(
    ("spoil", "refusal"),
    [
        (without("Modality"), MissingAttribute),
        (having("Modality", ""), MissingValue),
        (without("ScheduledStepAttributesSequence"), MissingAttribute),
        (having("ScheduledStepAttributesSequence", Items([])), MissingValue),
        (in_scheduled(without("StudyInstanceUID")), MissingAttribute),
        (in_scheduled(having("StudyInstanceUID", "")), MissingValue),
        (without("PatientName"), MissingAttribute),
        (without("PerformedProcedureStepEndDate"), MissingAttribute),
        (without("PerformedProcedureStepStatus"), MissingAttribute),
        (having("PerformedProcedureStepStatus", "COMPLETED"), InvalidValue),
        (having("PerformedProcedureStepStatus", "RUNNING"), InvalidValue),
        (having("PerformedSeriesSequence", Items([Dataset()])), MissingAttribute),
    ],
)
def test_a_creation_that_breaks_the_table_is_refused(
    alone: Department, spoil: Spoil, refusal: type[NodeError]
) -> None:
    made = creation(STUDY)
    spoil(made)
    with pytest.raises(refusal):
        alone.start(made)
    assert alone.steps.of_study(RIS, STUDY) == []


@pytest.mark.parametrize(
    "spoil",
    [
        having("PatientName", ""),
        without("ProcedureCodeSequence"),
        without("PerformedSeriesSequence"),
        without("ReferencedPatientSequence"),
        in_scheduled(without("ScheduledProtocolCodeSequence")),
        in_scheduled(without("AccessionNumber")),
        having("SpecificCharacterSet", "ISO_IR 192"),
        having("CommentsOnThePerformedProcedureStep", "fine"),
    ],
)
def test_what_modalities_leave_out_every_day_is_no_reason(alone: Department, spoil: Spoil) -> None:
    made = creation(STUDY)
    spoil(made)
    alone.start(made)
    alone.change(completion())


@pytest.mark.parametrize(
    ("spoil", "refusal"),
    [
        (without("PerformedProcedureStepEndDate"), MissingValue),
        (having("PerformedProcedureStepEndTime", ""), MissingValue),
        (without("PerformedSeriesSequence"), MissingValue),
        (having("PerformedSeriesSequence", Items([])), MissingValue),
        (in_series(without("SeriesInstanceUID")), MissingAttribute),
        (in_series(having("ProtocolName", "")), MissingValue),
        (in_series(having("ReferencedImageSequence", Items([Dataset()]))), MissingAttribute),
        (having("PerformedProcedureStepStatus", "DONE"), InvalidValue),
        (having("PerformedProcedureStepStatus", ""), InvalidValue),
        (having("PatientID", "P-2"), InvalidValue),
        (having("Modality", "MR"), InvalidValue),
    ],
)
@pytest.mark.parametrize("state", ["COMPLETED", "DISCONTINUED"])
def test_an_end_that_breaks_the_table_is_refused(
    alone: Department, spoil: Spoil, refusal: type[NodeError], state: str
) -> None:
    alone.start()
    made = completion(state=state)
    spoil(made)
    with pytest.raises(refusal):
        alone.change(made)
    (step,) = alone.steps.of_study(RIS, STUDY)
    assert step.state == "IN PROGRESS"


def test_what_may_not_change_may_be_repeated(alone: Department) -> None:
    alone.start()
    alone.change(completion(PatientID="P-1", Modality="CT"))


def test_series_are_replaced_whole(alone: Department) -> None:
    first, second = make.study(2)
    alone.start()
    for instances in ([first], [first, second], [second, second]):
        made = Dataset()
        made.PerformedSeriesSequence = Items([series(instances)])
        alone.change(made)
    (step,) = alone.steps.of_study(RIS, STUDY)
    assert list(step.missing) == [second.SOPInstanceUID]


def test_names_keep_their_characters(alone: Department) -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    japanese = creation(STUDY, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name)
    alone.start(japanese)
    operator = Dataset()
    operator.SpecificCharacterSet = "ISO_IR 100"
    operator.PerformedProcedureStepDescription = "Schädel"
    alone.change(operator)
    model = alone.steps.get(SCANNER, STEP_UID)
    assert model["00100010"]["Value"] == [
        {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}
    ]
    assert model["00400254"]["Value"] == ["Schädel"]


@pytest.mark.parametrize(
    ("attributes", "refusal"),
    [
        (b"", MissingAttribute),
        (b"\x08\x00", BadObject),
        (make.nested(10), BadObject),
        (make.nested(10_000), BadObject),
        (b"\x08\x00\x60\x00CS\xff\xff", BadObject),
        (bytes((16 << 20) + 2), Exhausted),
    ],
)
def test_a_hostile_data_set_is_refused(
    alone: Department, attributes: bytes, refusal: type[NodeError]
) -> None:
    with pytest.raises(refusal):
        alone.steps.create(SCANNER, STEP_UID, attributes, make.EXPLICIT)


def test_nobody_tells_of_steps_who_may_not(alone: Department) -> None:
    stranger = Actor("peer", "X", actions=frozenset({Action.STORE}))
    alone.start()
    for verb in (alone.steps.create, alone.steps.change):
        with pytest.raises(Forbidden):
            verb(stranger, STEP_UID, *encoded(completion()))
    with pytest.raises(Forbidden):
        alone.steps.get(stranger, STEP_UID)
    with pytest.raises(Forbidden):
        alone.steps.of_study(stranger, STUDY)
