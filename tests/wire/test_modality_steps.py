"""Performed procedure steps over real sockets, both as SCP and as SCU: every status of PS3.4 F.7.2."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence as Items
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity

from pacs.dimse import scu
from pacs.dimse.procedure_steps import (
    PROCEDURE_STEP_CLASS,
    RETRIEVE_CLASS,
    Verdict,
    judge,
    tell,
)
from pacs.dimse.worklist import WORKLIST_FIND
from pacs.errors import NodeError, Refused, Unreachable
from pacs.index.performed import Message
from tests import make
from tests.scheduled import RIS, completion, creation, encoded, entry
from tests.wire.modality import Hospital, asked, hospital, question

STUDY = make.uid("study")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Hospital]:
    with hospital(tmp_path) as started:
        yield started


def create(running: Hospital, made: Dataset, uid: str | None, **options: str) -> Dataset:
    """The status of an N-CREATE."""
    with running.calling(**options) as association:  # type: ignore[arg-type]  # an AE title
        status, _ = association.send_n_create(made, PROCEDURE_STEP_CLASS, uid)
    return status


def change(running: Hospital, made: Dataset, uid: str, **options: str) -> Dataset:
    """The status of an N-SET."""
    with running.calling(**options) as association:  # type: ignore[arg-type]  # an AE title
        status, _ = association.send_n_set(made, PROCEDURE_STEP_CLASS, uid)
    return status


def test_a_modality_works_through_its_list(running: Hospital) -> None:
    running.worklist.schedule(RIS, entry(StudyInstanceUID=STUDY))
    with running.calling() as association:
        (scheduled,), _ = asked(association, question(step={"ScheduledStationAETitle": "CT1"}))
        uid, images = make.uid("step"), make.study(2)
        begun = creation(str(scheduled.StudyInstanceUID))
        status, _ = association.send_n_create(begun, PROCEDURE_STEP_CLASS, uid)
        assert status.Status == 0
        assert asked(association, question(PatientID=""))[0] == []
        for image in images:
            running.archive.store(RIS, make.incoming(image))
        status, _ = association.send_n_set(completion(images), PROCEDURE_STEP_CLASS, uid)
        assert status.Status == 0
        status, told = association.send_n_get([], RETRIEVE_CLASS, uid)
        assert status.Status == 0
        assert told is not None
        assert told.PerformedProcedureStepStatus == "COMPLETED"
    (study,) = running.workflow.statuses(RIS, [STUDY])
    assert study.state == "complete"


def test_the_uid_is_ours_where_the_modality_gives_none(running: Hospital) -> None:
    with running.calling() as association:
        status, _ = association.send_n_create(creation(STUDY), PROCEDURE_STEP_CLASS, None)
    assert status.Status == 0
    (step,) = running.procedure_steps.of_study(RIS, STUDY)
    assert step.sop_instance_uid.startswith("2.25.")


def test_every_refusal_of_a_creation_has_its_status(running: Hospital) -> None:
    uid = make.uid("step")
    invalid = creation(STUDY, PerformedProcedureStepStatus="COMPLETED")
    missing, empty = creation(STUDY, Modality=None), creation(STUDY, Modality="")
    assert [create(running, made, uid).Status for made in (invalid, missing, empty)] == [
        0x0106,
        0x0120,
        0x0121,
    ]
    assert create(running, missing, uid).ErrorComment == "Modality is missing"
    assert create(running, creation(STUDY), "1.2/../3").Status == 0x0117
    assert create(running, creation(STUDY), uid, ae_title="NOBODY").Status == 0x0124
    assert create(running, creation(STUDY), uid, ae_title="STRANGER").Status == 0x0124
    assert running.procedure_steps.of_study(RIS, STUDY) == []
    assert create(running, creation(STUDY), uid).Status == 0x0000
    assert create(running, creation(STUDY), uid).Status == 0x0111


def test_every_refusal_of_a_change_has_its_status(running: Hospital) -> None:
    uid = make.uid("step")
    assert change(running, completion(), uid).Status == 0x0112
    create(running, creation(STUDY), uid)
    unfinished = completion(PerformedProcedureStepEndDate=None)
    assert change(running, unfinished, uid).Status == 0x0121
    assert change(running, completion(Modality="MR"), uid).Status == 0x0106
    assert change(running, completion(), uid, ae_title="NOBODY").Status == 0x0124
    assert change(running, completion(), uid).Status == 0x0000
    final = change(running, completion(), uid)
    assert (final.Status, final.ErrorID) == (0x0110, 0xA710)
    assert "no longer be updated" in final.ErrorComment


def test_the_attributes_asked_for_come_back(running: Hospital) -> None:
    uid = make.uid("step")
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    create(running, creation(STUDY, SpecificCharacterSet="ISO_IR 192", PatientName=name), uid)
    with running.calling() as association:
        status, told = association.send_n_get([0x00100010, 0x00080060], RETRIEVE_CLASS, uid)  # type: ignore[list-item]  # tags are numbers
        assert status.Status == 0
        assert told is not None
        assert (str(told.PatientName), told.Modality) == (name, "CT")
        assert len(told) == 3  # and the character set
        status, _ = association.send_n_get([0x00104000], RETRIEVE_CLASS, uid)  # type: ignore[list-item]  # tags are numbers
        assert status.Status == 0x0001
        status, _ = association.send_n_get([], RETRIEVE_CLASS, "1.2.3")
        assert status.Status == 0x0112


def test_each_class_has_its_own_operations(running: Hospital) -> None:
    with running.calling() as association:
        status, _ = association.send_n_get([], PROCEDURE_STEP_CLASS, "1.2.3")
        assert status.Status == 0x0211
        status, _ = association.send_n_create(creation(STUDY), RETRIEVE_CLASS, "1.2.3")
        assert status.Status == 0x0211
        status, _ = association.send_n_set(completion(), RETRIEVE_CLASS, "1.2.3")
        assert status.Status == 0x0211
        replies = list(association.send_c_find(question(PatientID=""), WORKLIST_FIND))
        assert int(replies[-1][0].Status) == 0


def test_racing_ends_have_one_winner(running: Hospital) -> None:
    uid = make.uid("step")
    create(running, creation(STUDY), uid)
    gate, statuses = threading.Barrier(4), []

    def end(state: str) -> None:
        with running.calling() as association:
            gate.wait()
            status, _ = association.send_n_set(completion(state=state), PROCEDURE_STEP_CLASS, uid)
            statuses.append(status.Status)

    ends = [threading.Thread(target=end, args=(s,)) for s in ("COMPLETED", "DISCONTINUED") * 2]
    for one in ends:
        one.start()
    for one in ends:
        one.join()
    assert sorted(statuses) == [0x0000, 0x0110, 0x0110, 0x0110]


def test_a_step_of_thousands_of_images_is_taken(running: Hospital) -> None:
    uid = make.uid("step")
    create(running, creation(STUDY), uid)
    images = []
    for number in range(3_000):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", make.uid(number)
        images.append(image)
    assert change(running, completion(images), uid).Status == 0
    (step,) = running.procedure_steps.of_study(RIS, STUDY)
    assert (step.instances_listed, step.instances_missing) == (3_000, 3_000)
    assert len(step.missing) == 1_000


# as SCU


@contextmanager
def listener(judgement: Callable[[evt.Event], int], heard: list[Dataset]) -> Iterator[scu.Peer]:
    """A peer that hears of procedure steps, pynetdicom's own SCP."""

    def on_any(event: evt.Event) -> tuple[int, None]:
        attributes = "attribute_list" if event.event is evt.EVT_N_CREATE else "modification_list"
        heard.append(getattr(event, attributes))
        return judgement(event), None

    entity = ApplicationEntity("RIS")
    entity.add_supported_context(PROCEDURE_STEP_CLASS)
    server = entity.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[(evt.EVT_N_CREATE, on_any), (evt.EVT_N_SET, on_any)],
    )
    assert server is not None
    try:
        yield scu.Peer("127.0.0.1", int(server.server_address[1]), "RIS")
    finally:
        server.shutdown()


def told(number: int, made: Dataset) -> Message:
    attributes, syntax = encoded(made)
    return Message(number, syntax, attributes)


def test_a_peer_hears_what_the_modality_said() -> None:
    heard: list[Dataset] = []
    name = "Yamada^Tarou=山田^太郎"
    begun = creation(STUDY, SpecificCharacterSet="ISO_IR 192", PatientName=name)
    with listener(lambda _: 0, heard) as peer:
        tell(peer, "1.2.3", told(0, begun), False)
        tell(peer, "1.2.3", told(1, completion(make.study(2))), False)
    assert heard[0] == begun
    assert heard[1] == completion(make.study(2))


@pytest.mark.parametrize(
    ("status", "error"), [(0x0110, Unreachable), (0x0213, Unreachable), (0x0106, Refused)]
)
def test_what_a_peer_answers_is_understood(status: int, error: type[NodeError]) -> None:
    with listener(lambda _: status, []) as peer, pytest.raises(error, match=f"{status:04X}"):
        tell(peer, "1.2.3", told(0, creation(STUDY)), False)


def test_a_peer_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        tell(scu.Peer("127.0.0.1", 1), "1.2.3", told(0, creation(STUDY)), False)


def test_what_a_peer_had_already_is_delivered() -> None:
    judge(Verdict(0x0111), is_creation=True, is_repeat=False)
    judge(Verdict(0x0110, 0xA710), is_creation=False, is_repeat=True)
    for verdict, is_creation in ((Verdict(0x0110, 0xA710), False), (Verdict(0x0111), False)):
        with pytest.raises(Refused):
            judge(verdict, is_creation=is_creation, is_repeat=False)


def test_an_empty_series_sequence_at_the_end_is_refused(running: Hospital) -> None:
    create(running, creation(STUDY), "1.2.3")
    made = completion(state="DISCONTINUED", PerformedSeriesSequence=Items([]))
    assert change(running, made, "1.2.3").Status == 0x0121
