"""A study that everything hangs on, deleted and rebuilt: nothing else may come loose."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacs.archive import Archive, Scope, upkeep
from pacs.archive.series_metadata import make_due
from pacs.archive.tagging import QueryTags
from pacs.commitment import Commitments, Reference
from pacs.dicom.attributes import Level
from pacs.dicom.query_tags import checked_tag
from pacs.forwarding import Forwarding, Rule, Trigger
from pacs.index import Index
from pacs.peers import Peer, Peers, Right
from pacs.procedure_steps import ProcedureSteps
from pacs.store import open_store
from pacs.workflow import Plan, Workflow
from tests import make, scheduled

STUDY = make.uid("study")
PEER = Peer("FAR", "192.0.2.9", 104, rights=frozenset({Right.RECEIVE, Right.COMMIT}))


class Hospital:
    """One archive, and every service that writes rows of what it holds."""

    def __init__(self, index: Index, folder: Path) -> None:
        self.archive = Archive("main", open_store(f"file://{folder}", "main"), index)
        self.forwarding = Forwarding(index, self.archive, {}, is_us=lambda _: False)
        self.workflow = Workflow(
            index,
            self.archive,
            Plan(),
            quiet_s=0.0,
            consequences=[
                self.forwarding.on_complete,
                lambda connection, done: self.steps.tell_gaps(connection, done.study_instance_uid),
            ],
        )
        self.steps = ProcedureSteps(
            index, self.archive.id, complete=self.workflow.complete, send=lambda *_: None
        )
        self.commitments = Commitments(self.archive)
        Peers(index).put(make.READER, PEER)
        for trigger in (Trigger.RECEIVED, Trigger.COMPLETE):
            self.forwarding.put(make.READER, Rule(trigger.value, PEER.ae_title, trigger, {}))

    def live(self) -> None:
        """Instances come, a step tells of them, a peer asks, viewers look."""
        tag = checked_tag("ProtocolName", "LO", Level.SERIES, "")
        QueryTags(self.archive).add(make.READER, [tag])
        made = [make.data_set(number, ProtocolName="Chest") for number in (1, 2, 3)]
        for one in made:
            self.archive.store(make.SCANNER, make.incoming(one))
        references = [Reference(one.SOPClassUID, one.SOPInstanceUID) for one in made]
        self.commitments.request(make.SCANNER, make.uid("theirs"), references)
        self.commitments.request_commitment(PEER.ae_title, references)
        self.steps.create(
            scheduled.SCANNER,
            make.uid("step"),
            make.data_set_bytes(scheduled.creation(STUDY)),
            make.EXPLICIT,
        )
        self.sweep()

    def sweep(self) -> None:
        """What the worker does between jobs."""
        self.steps.settle_completed()
        self.workflow.complete_quiet_studies()
        self.forwarding.sweep()
        make_due(self.archive)
        QueryTags(self.archive).fill()

    def states(self) -> list[tuple[int, int]]:
        """Of each delivery, how many instances wait and how many are lost."""
        return [(one.waiting, one.lost) for one in self.forwarding.deliveries()]


@pytest.fixture
def hospital(index: Index, tmp_path: Path) -> Hospital:
    return Hospital(index, tmp_path)


@pytest.mark.parametrize("is_rebuilt", [False, True])
def test_a_deleted_study_leaves_nothing_loose(hospital: Hospital, is_rebuilt: bool) -> None:
    hospital.live()
    assert sum(waiting for waiting, _ in hospital.states()) >= 3

    hospital.archive.delete(make.READER, Scope(STUDY))
    if is_rebuilt:
        assert upkeep.rebuild(hospital.archive, make.READER) == []
    hospital.sweep()

    assert upkeep.fsck(hospital.archive) == []
    assert list(hospital.archive.objects.digests()) == []
    (performed,) = hospital.steps.of_study(make.READER, STUDY)
    assert performed.state == "IN PROGRESS"


def test_a_rebuilt_study_goes_on_as_before(hospital: Hospital) -> None:
    hospital.live()
    before = hospital.states()

    assert upkeep.rebuild(hospital.archive, make.READER) == []
    hospital.sweep()

    assert upkeep.fsck(hospital.archive) == []
    assert hospital.states()[-len(before) :] == before
    hospital.archive.store(make.SCANNER, make.incoming(make.data_set(4)))
    hospital.sweep()
    newest = hospital.states()
    assert sum(waiting for waiting, _ in newest) > sum(waiting for waiting, _ in before)
