"""Performed procedure steps: what modalities say they do, and what follows (PS3.4 annex F).

A step is in progress until it is completed or discontinued, and then nobody may change it. What a
modality says is judged by one table (F.7.2-1), kept as it came, told to other peers in the same
order, and takes the scheduled step off the worklist. A completed step lists its instances: once all
of them are here, its study is complete, sooner than quiet could tell; if quiet comes first, what is
missing is said aloud.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from pacs.access import Action, Actor, permits
from pacs.dicom import uids
from pacs.dicom.json_model import JsonModel
from pacs.dicom.part10 import Buffer
from pacs.dicom.plain_json import fits
from pacs.dicom.small_sets import items_of, key_of, read_model, text_of, vr_of
from pacs.errors import (
    BadQuery,
    Conflict,
    Exhausted,
    Forbidden,
    Missing,
    Refused,
    Unavailable,
)
from pacs.index import Index, audit, jobs, parties, performed, worklist
from pacs.index.jobs import DELIVERY_ATTEMPTS_MAX, Job
from pacs.index.parties import Peer, Right
from pacs.index.performed import COMPLETED, DISCONTINUED, IN_PROGRESS, Message, Step
from pacs.worker import End

ATTRIBUTES_BYTES_MAX: Final = 16 << 20  # of one message; a longer one is refused (0213)
INSTANCES_MAX: Final = 100_000  # that one step lists; more are refused (0213)
MESSAGES_MAX: Final = 1_000  # of one step, its N-CREATE among them; a further one: 0213
MISSING_TOLD_MAX: Final = 1_000  # UIDs of missing instances that are named; the rest is counted
SETTLED_MAX: Final = 100  # steps settled in one sweep, the newest first; others wait for the next

FORWARD: Final = "mpps-forward"

# What may follow each state (PS3.4 F.7.2.2.2): the last two are final.
NEXT: Final[Mapping[str, frozenset[str]]] = {
    IN_PROGRESS: frozenset({IN_PROGRESS, COMPLETED, DISCONTINUED}),
    COMPLETED: frozenset(),
    DISCONTINUED: frozenset(),
}

# What the scheduled step is told of the performed one.
_SCHEDULED: Final = {
    IN_PROGRESS: worklist.STARTED,
    COMPLETED: worklist.COMPLETED,
    DISCONTINUED: worklist.DISCONTINUED,
}

log = logging.getLogger(__name__)


class InvalidValue(BadQuery):
    """An attribute has a value that it may not have here."""


class MissingAttribute(BadQuery):
    """An attribute that must be there is not."""


class MissingValue(BadQuery):
    """An attribute that must have a value is empty."""


class AlreadyFinal(Conflict):
    """The procedure step may no longer be updated."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What PS3.4 table F.7.2-1 says of one attribute: its type (1, 2 or 3) in an N-CREATE, whether
    an N-SET may change it, whether it must have a value in the end, and the rules of its items."""

    keyword: str
    type: int
    may_be_set: bool = False
    is_final: bool = False
    items: tuple[Rule, ...] = ()


_REFERENCE: Final = (Rule("ReferencedSOPClassUID", 1), Rule("ReferencedSOPInstanceUID", 1))
INSTANCE_SEQUENCES: Final = (
    "ReferencedImageSequence",
    "ReferencedNonImageCompositeSOPInstanceSequence",
)
STATUS: Final = "PerformedProcedureStepStatus"
SERIES: Final = "PerformedSeriesSequence"
SCHEDULED_STEPS: Final = "ScheduledStepAttributesSequence"

RULES: Final = (
    Rule(
        SCHEDULED_STEPS,
        1,
        items=(
            Rule("StudyInstanceUID", 1),
            Rule("ReferencedStudySequence", 2, items=_REFERENCE),
            Rule("AccessionNumber", 2),
            Rule("RequestedProcedureID", 2),
            Rule("RequestedProcedureDescription", 2),
            Rule("ScheduledProcedureStepID", 2),
            Rule("ScheduledProcedureStepDescription", 2),
            Rule("ScheduledProtocolCodeSequence", 2),
        ),
    ),
    Rule("PatientName", 2),
    Rule("PatientID", 2),
    Rule("PatientBirthDate", 2),
    Rule("PatientSex", 2),
    Rule("ReferencedPatientSequence", 2, items=_REFERENCE),
    Rule("PerformedProcedureStepID", 1),
    Rule("PerformedStationAETitle", 1),
    Rule("PerformedStationName", 2),
    Rule("PerformedLocation", 2),
    Rule("PerformedProcedureStepStartDate", 1),
    Rule("PerformedProcedureStepStartTime", 1),
    Rule(STATUS, 1, may_be_set=True, is_final=True),
    Rule("PerformedProcedureStepDescription", 2, may_be_set=True),
    Rule("PerformedProcedureTypeDescription", 2, may_be_set=True),
    Rule("ProcedureCodeSequence", 2, may_be_set=True),
    Rule("PerformedProcedureStepEndDate", 2, may_be_set=True, is_final=True),
    Rule("PerformedProcedureStepEndTime", 2, may_be_set=True, is_final=True),
    Rule("Modality", 1),
    Rule("StudyID", 2),
    Rule("PerformedProtocolCodeSequence", 2, may_be_set=True),
    Rule(
        SERIES,
        2,
        may_be_set=True,
        is_final=True,
        items=(
            Rule("PerformingPhysicianName", 2),
            Rule("ProtocolName", 1),
            Rule("OperatorsName", 2),
            Rule("SeriesInstanceUID", 1),
            Rule("SeriesDescription", 2),
            Rule("RetrieveAETitle", 2),
            *(Rule(keyword, 2, items=_REFERENCE) for keyword in INSTANCE_SEQUENCES),
        ),
    ),
)

# VRs whose values are looked into. Texts that are too long, or codes in small letters, harm nobody.
_LOOKED_INTO: Final = frozenset(("DA", "TM", "UI"))

Complete = Callable[[Connection, str], bool]
# Tells a peer a message of the step with a UID, perhaps again. Raises Refused or Unavailable.
Send = Callable[[Peer, str, Message, bool], None]


@dataclass(frozen=True, slots=True)
class Performed:
    """One performed procedure step of a study, as `/api/studies/{uid}/procedure-steps` tells it."""

    sop_instance_uid: str
    state: str
    modality: str
    performed_station_ae_title: str
    started: str
    ended: str
    scheduled_procedure_step_ids: Sequence[str]
    instances_listed: int
    instances_missing: int
    missing: Sequence[str]


class ProcedureSteps:
    """The performed procedure steps of a node, for its identified archive.

    `complete` completes a study in a transaction (`Workflow.complete`), `send` tells a peer.
    """

    def __init__(self, index: Index, archive_id: int, *, complete: Complete, send: Send) -> None:
        self._index = index
        self._archive_id = archive_id
        self._complete = complete
        self._send = send

    # what modalities say

    def create(
        self, actor: Actor, sop_instance_uid: str, attributes: Buffer, transfer_syntax_uid: str
    ) -> str:
        """Make a step of an N-CREATE's attributes (F.7.2.1); its UID, made where none is given.

        Durable once this returns. Audited. Raises Conflict for a UID that is taken, BadObject,
        InvalidValue, MissingAttribute, MissingValue, Exhausted, Forbidden.
        """
        _permit(actor)
        uid = sop_instance_uid or uids.new_uid()
        if not uids.is_valid(uid):
            raise BadQuery("the SOP Instance UID is not valid")
        model = _read(attributes, transfer_syntax_uid)
        check_creation(model)
        scheduled = list(_scheduled(model))
        with self._index.write() as connection:
            number = performed.add(
                connection,
                sop_instance_uid=uid,
                ae_title=actor.name,
                model=model,
                scheduled=scheduled,
            )
            if number is None:
                raise Conflict("there is a procedure step with this UID")
            performed.list_instances(connection, number, _instances(model))
            message = Message(0, transfer_syntax_uid, bytes(attributes))
            self._take(connection, actor, uid, number, message)
            _tell(connection, scheduled, IN_PROGRESS)
            _audit(connection, actor, "start procedure step", uid, scheduled)
        return uid

    def change(
        self, actor: Actor, sop_instance_uid: str, attributes: Buffer, transfer_syntax_uid: str
    ) -> None:
        """Change a step by an N-SET's attributes (F.7.2.2). Durable once this returns. Audited.

        Raises Missing, AlreadyFinal, and otherwise as `create` does.
        """
        _permit(actor)
        changes = _read(attributes, transfer_syntax_uid)
        with self._index.write() as connection:
            step = performed.find(connection, sop_instance_uid, locked=True)
            if step is None:
                raise Missing("there is no such procedure step")
            model, state = changed(step.model, step.state, changes)
            performed.change(connection, step, model, state)
            if key_of(SERIES) in changes:
                performed.list_instances(connection, step.id, _instances(model))
            message = Message(step.messages, transfer_syntax_uid, bytes(attributes))
            self._take(connection, actor, sop_instance_uid, step.id, message)
            scheduled = performed.scheduled_for(connection, step.id)
            if state != step.state:
                _tell(connection, scheduled, state)
            deed = "change procedure step" if state == IN_PROGRESS else f"{state.lower()} step"
            _audit(connection, actor, deed, sop_instance_uid, scheduled)
        if state == COMPLETED:
            self._settle_soon(sop_instance_uid)

    def get(self, actor: Actor, sop_instance_uid: str) -> JsonModel:
        """The attributes of a step as they stand (F.8.2). Raises Missing, Forbidden."""
        _permit(actor)
        with self._index.read() as connection:
            step = performed.find(connection, sop_instance_uid)
        if step is None:
            raise Missing("there is no such procedure step")
        return step.model

    # what follows

    def _take(
        self, connection: Connection, actor: Actor, uid: str, step_id: int, message: Message
    ) -> None:
        """Keep a message, and write the jobs that tell it on to those who heard the one before."""
        if message.number >= MESSAGES_MAX:
            raise Exhausted("the procedure step has had too many changes", max=MESSAGES_MAX)
        performed.add_message(connection, step_id, message)
        for peer in parties.listed(connection):
            if Right.RECEIVE_MPPS not in peer.rights or peer.ae_title == actor.name:
                continue
            before = _job_key(peer.ae_title, uid, message.number - 1)
            if message.number and jobs.state_of(connection, before) is None:
                continue
            jobs.enqueue(
                connection,
                key=_job_key(peer.ae_title, uid, message.number),
                kind=FORWARD,
                archive_id=self._archive_id,
                study_instance_uid="",  # a step may be for several, and outlives their generations
                generation=0,
                payload={"peer": peer.ae_title, "step": uid, "number": message.number},
                attempts_max=DELIVERY_ATTEMPTS_MAX,
            )

    def forward(self, job: Job) -> End:
        """Tell a peer one message of a step, after the ones before it (the job's handler).

        Raises Unavailable while they are not told, Refused where one was not taken.
        """
        peer_name, uid = str(job.payload["peer"]), str(job.payload["step"])
        number = int(job.payload["number"])
        with self._index.read() as connection:
            peer = parties.find(connection, peer_name)
            message = performed.message(connection, uid, number)
            before = jobs.state_of(connection, _job_key(peer_name, uid, number - 1))
        if peer is None or Right.RECEIVE_MPPS not in peer.rights or message is None:
            raise Missing("the peer is no longer told of procedure steps")
        if number and before in jobs.ENDED - {jobs.SUCCEEDED}:
            raise Refused("the peer has not taken an earlier message of this procedure step")
        if number and before != jobs.SUCCEEDED:
            raise Unavailable("an earlier message of this procedure step is not delivered yet")
        self._send(peer, uid, message, job.attempts > 1)
        return End()

    def _settle_soon(self, uid: str) -> None:
        """Settle a step if that is possible now; what is not, the next sweep does."""
        try:
            self._settle(uid)
        except Unavailable as error:
            log.warning("a completed procedure step waits to be looked at: %s", error)

    def settle_completed(self) -> int:
        """Complete the studies of completed steps whose last instance has come; how many steps."""
        with self._index.read() as connection:
            waiting = performed.unsettled(connection, self._archive_id, SETTLED_MAX)
        return sum(self._settle(uid) for uid in waiting)

    def _settle(self, uid: str) -> bool:
        """Complete the studies of a step if all that it lists is here and nothing more is expected.

        Each study has a transaction of its own: two studies' rows are never waited for at once.
        """
        with self._index.read() as connection:
            step = performed.find(connection, uid)
            assert step is not None, "steps are not removed"
            studies = {study for study, _ in performed.scheduled_for(connection, step.id)}
            if self._waits(connection, step, studies):
                return False
            is_empty = not performed.instances_listed(connection, step.id)
        for study in () if is_empty else sorted(studies):
            with self._index.write() as connection:
                self._complete(connection, study)
        with self._index.write() as connection:
            performed.settle(connection, step)
        return True

    def _waits(self, connection: Connection, step: Step, studies: Iterable[str]) -> bool:
        """Whether instances of a step are missing, or more is done or scheduled for its studies."""
        return bool(performed.instances_missing(connection, self._archive_id, step.id)) or any(
            performed.is_any_in_progress(connection, study)
            or worklist.is_any_waiting(connection, study, worklist.WAITING)
            for study in studies
        )

    def tell_gaps(self, connection: Connection, study_instance_uid: str) -> None:
        """Say aloud which completed steps of a study list instances that are not here. Audited."""
        for step in performed.of_study(connection, study_instance_uid):
            missing = performed.instances_missing(connection, self._archive_id, step.id)
            if step.state != COMPLETED or not missing:
                continue
            log.warning(
                "study %s is complete without %d instances of procedure step %s",
                study_instance_uid,
                missing,
                step.sop_instance_uid,
            )
            audit.append(
                connection,
                Actor("node", "procedure steps"),
                "miss instances",
                archive="",
                outcome="done",
                subject={
                    "study": study_instance_uid,
                    "step": step.sop_instance_uid,
                    "instances": missing,
                },
            )

    # what is known

    def of_study(self, actor: Actor, study_instance_uid: str) -> list[Performed]:
        """The steps that were performed for a study, with what of them is missing."""
        if not permits(actor, Action.SEARCH):
            raise Forbidden("this actor may not ask for procedure steps")
        with self._index.read() as connection:
            return [
                self._performed(connection, step)
                for step in performed.of_study(connection, study_instance_uid)
            ]

    def _performed(self, connection: Connection, step: Step) -> Performed:
        def moment(of: str) -> str:
            day, time = (
                text_of(step.model, f"PerformedProcedureStep{of}{part}")
                for part in ("Date", "Time")
            )
            return f"{day} {time}".strip()

        scheduled = performed.scheduled_for(connection, step.id)
        return Performed(
            step.sop_instance_uid,
            step.state,
            text_of(step.model, "Modality"),
            text_of(step.model, "PerformedStationAETitle"),
            moment("Start"),
            moment("End"),
            [scheduled_id for _, scheduled_id in scheduled],
            performed.instances_listed(connection, step.id),
            performed.instances_missing(connection, self._archive_id, step.id),
            performed.missing_instances(connection, self._archive_id, step.id, MISSING_TOLD_MAX),
        )


def _permit(actor: Actor) -> None:
    if not permits(actor, Action.PERFORM):
        raise Forbidden("this actor may not tell of procedure steps")


def _job_key(ae_title: str, uid: str, number: int) -> str:
    return f"{FORWARD}/{ae_title}/{uid}/{number}"


def _tell(connection: Connection, scheduled: Iterable[tuple[str, str]], state: str) -> None:
    """Have the steps of the worklist know what became of them."""
    for study, scheduled_id in sorted(set(scheduled)):  # in one order, or two could wait in a ring
        if scheduled_id:
            worklist.tell(connection, study, scheduled_id, _SCHEDULED[state])


def _audit(
    connection: Connection,
    actor: Actor,
    deed: str,
    uid: str,
    scheduled: Iterable[tuple[str, str]],
) -> None:
    studies = sorted({study for study, _ in scheduled})
    subject = {"step": uid, "studies": studies}
    audit.append(connection, actor, deed, archive="", outcome="done", subject=subject)


# what may be said


def _read(attributes: Buffer, transfer_syntax_uid: str) -> JsonModel:
    if len(memoryview(attributes)) > ATTRIBUTES_BYTES_MAX:
        raise Exhausted("the attributes are too long", bytes_max=ATTRIBUTES_BYTES_MAX)
    return read_model(attributes, transfer_syntax_uid)


def check_creation(model: JsonModel) -> None:
    """Return if a step may be made of these attributes.

    Raises InvalidValue, MissingAttribute, MissingValue, or Exhausted for too many instances.
    """
    for rule in RULES:
        _check(rule, model, rule.type)
    if text_of(model, STATUS) != IN_PROGRESS:
        raise InvalidValue(f"{STATUS} must be {IN_PROGRESS} at first")
    _check_instances(model)


def changed(current: JsonModel, state: str, changes: JsonModel) -> tuple[JsonModel, str]:
    """A step's attributes and state after a change.

    What may not change may be repeated. A sequence is replaced whole. Raises AlreadyFinal, and as
    `check_creation` does.
    """
    if not NEXT[state]:
        raise AlreadyFinal("the procedure step may no longer be updated")
    for rule in RULES:
        key = key_of(rule.keyword)
        if key not in changes:
            continue
        if not rule.may_be_set and changes[key] != current.get(key):
            raise InvalidValue(f"{rule.keyword} may not be changed")
        _check(rule, changes, 2)
    model = dict(sorted((current | changes).items()))
    wanted = text_of(model, STATUS)
    if wanted not in NEXT[state]:
        raise InvalidValue(f"{STATUS} is one of {', '.join(NEXT)}")
    if not NEXT[wanted]:
        for rule in RULES:
            _check(rule, model, 1 if rule.is_final else 3)
    _check_instances(model)
    return model, wanted


def _check(rule: Rule, model: JsonModel, kind: int) -> None:
    """Return if an attribute is as its type wants it.

    A sequence of type 2, and what is of type 2 inside an item, may be absent as well as empty:
    modalities in daily use leave it out, and both say the same.
    """
    key = key_of(rule.keyword)
    element = model.get(key)
    vr = vr_of(int(key, 16))
    if element is None:
        if kind == 1 or (kind == 2 and vr != "SQ"):
            raise MissingAttribute(f"{rule.keyword} is missing")
        return
    if kind == 1 and not element.get("Value"):
        raise MissingValue(f"{rule.keyword} has no value")
    if vr in _LOOKED_INTO and not all(fits(vr, str(one)) for one in element.get("Value", ())):
        raise InvalidValue(f"{rule.keyword} is not a value of {vr}")
    for item in element.get("Value", ()) if rule.items else ():
        for inner in rule.items:
            _check(inner, item, 1 if inner.type == 1 else 3)


def _check_instances(model: JsonModel) -> None:
    listed = sum(1 for _ in _instances(model))
    if listed > INSTANCES_MAX:
        raise Exhausted("the procedure step lists too many instances", instances_max=INSTANCES_MAX)


def _instances(model: JsonModel) -> Iterator[str]:
    """The SOP Instance UIDs that a step lists."""
    for series in items_of(model, SERIES):
        for sequence in INSTANCE_SEQUENCES:
            for reference in items_of(series, sequence):
                yield text_of(reference, "ReferencedSOPInstanceUID")


def _scheduled(model: JsonModel) -> Iterator[tuple[str, str]]:
    """Study Instance UID and Scheduled Procedure Step ID of what a step is for."""
    for item in items_of(model, SCHEDULED_STEPS):
        yield text_of(item, "StudyInstanceUID"), text_of(item, "ScheduledProcedureStepID")
