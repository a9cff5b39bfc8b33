"""A node that modalities use, in this process, and what they say to it: pynetdicom's own SCUs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from pacs.archive import Archive
from pacs.dimse.procedure_steps import PROCEDURE_STEP_CLASS, RETRIEVE_CLASS
from pacs.dimse.scp import Modalities, Receiver
from pacs.dimse.upper_layer import DimseLimits
from pacs.dimse.worklist import WORKLIST_FIND
from pacs.index import Index, open_index
from pacs.index.performed import Message
from pacs.peers import Peer, Peers, Right
from pacs.procedure_steps import ProcedureSteps
from pacs.store import open_store
from pacs.workflow import Plan, Workflow
from pacs.worklist import Worklist
from tests.unit.dimse.scanner import OPERATOR

MODALITY = "CT1"


@dataclass(frozen=True)
class Hospital:
    """A running receiver and the services behind it."""

    index: Index
    archive: Archive
    workflow: Workflow
    worklist: Worklist
    procedure_steps: ProcedureSteps
    peers: Peers
    receiver: Receiver

    @property
    def port(self) -> int:
        return self.receiver.port

    @contextmanager
    def calling(
        self, *, ae_title: str = MODALITY, syntaxes: tuple[str, ...] = ()
    ) -> Iterator[Association]:
        """An association of a modality for the worklist and for procedure steps."""
        entity = ApplicationEntity(ae_title)
        entity.dimse_timeout = 30
        given = list(syntaxes) or None
        contexts = [
            build_context(uid, given)
            for uid in (WORKLIST_FIND, PROCEDURE_STEP_CLASS, RETRIEVE_CLASS)
        ]
        association = entity.associate("127.0.0.1", self.port, contexts, ae_title="ISOCENTER")
        assert association.is_established
        try:
            yield association
        finally:
            if association.is_established:
                association.release()
            association.join()


@contextmanager
def hospital(folder: Path, limits: DimseLimits | None = None) -> Iterator[Hospital]:
    """A node below a folder. CT1 may use the worklist and tell of steps; NOBODY may only store."""
    index = open_index(f"sqlite:///{folder}/index.db")
    archive = Archive("identified", open_store(f"file://{folder}/store", "identified"), index)
    peers = Peers(index)
    rights = frozenset({Right.WORKLIST, Right.MPPS, Right.STORE})
    peers.put(OPERATOR, Peer(MODALITY, "127.0.0.1", 104, rights=rights))
    peers.put(OPERATOR, Peer("NOBODY", "127.0.0.1", 104, rights=frozenset({Right.STORE})))
    workflow = Workflow(index, archive, Plan(), quiet_s=3600)
    steps = ProcedureSteps(index, archive.id, complete=workflow.complete, send=_untold)
    worklist = Worklist(index)
    receiver = Receiver(
        archive,
        peers,
        port=0,
        limits=limits or DimseLimits(),
        modalities=Modalities(worklist, steps),
    )
    receiver.start()
    try:
        yield Hospital(index, archive, workflow, worklist, steps, peers, receiver)
    finally:
        receiver.stop()
        index.close()


def _untold(_peer: Peer, _uid: str, _message: Message, _is_repeat: bool) -> None:
    raise AssertionError("nobody is told here")


def question(*, step: Mapping[str, object] | None = None, **keys: object) -> Dataset:
    """A worklist identifier with its keys, those of `step` inside the sequence."""
    inner, made = Dataset(), Dataset()
    for data_set, given in ((inner, step or {}), (made, keys)):
        for keyword, value in given.items():
            setattr(data_set, keyword, value)
    if step is not None:
        made.ScheduledProcedureStepSequence = [inner]
    return made


def asked(association: Association, made: Dataset) -> tuple[list[Dataset], list[int]]:
    """The matches of a question to the worklist, and the status of every response."""
    replies = list(association.send_c_find(made, WORKLIST_FIND))
    return (
        [match for _, match in replies if match is not None],
        [int(reply.Status) for reply, _ in replies],
    )
