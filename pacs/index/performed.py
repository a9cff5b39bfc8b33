"""The rows of performed procedure steps: what modalities say they have done (PS3.4 annex F).

A step's attributes stand as they are now, its messages as they came. The instances that it lists
have rows of their own, so that the database compares them with what is held.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    exists,
    func,
    insert,
    not_,
    select,
    update,
)

from pacs.dicom.json_model import JsonModel
from pacs.index.schema import (
    insert_new,
    instances,
    now,
    performed_for,
    performed_instances,
    performed_messages,
    performed_steps,
)

IN_PROGRESS, COMPLETED, DISCONTINUED = "IN PROGRESS", "COMPLETED", "DISCONTINUED"

WATCHED_S: Final = 86_400.0  # what is listed may come so long after; then it is looked at no more


@dataclass(frozen=True, slots=True)
class Step:
    """One performed procedure step, as its row stands; times in seconds since 1970."""

    id: int
    sop_instance_uid: str
    ae_title: str
    state: str
    model: JsonModel
    messages: int
    is_settled: bool
    created_at: float
    changed_at: float


@dataclass(frozen=True, slots=True)
class Message:
    """The attributes of one N-CREATE (number 0) or N-SET, as they came."""

    number: int
    transfer_syntax_uid: str
    attributes: bytes


def _step(row: Row[Any]) -> Step:
    plain = (row.id, row.SOPInstanceUID, row.ae_title, row.state, json.loads(row.attributes))
    return Step(*plain, row.messages, row.is_settled, row.created_at, row.changed_at)


def add(
    connection: Connection,
    *,
    sop_instance_uid: str,
    ae_title: str,
    model: JsonModel,
    scheduled: Iterable[tuple[str, str]],
) -> int | None:
    """Make a step that is in progress; its row's number, None if its UID is taken.

    `scheduled` are the Study Instance UID and Scheduled Procedure Step ID of what it is for.
    """
    number, is_new = insert_new(
        connection,
        performed_steps,
        ["SOPInstanceUID"],
        {
            "SOPInstanceUID": sop_instance_uid,
            "ae_title": ae_title,
            "state": IN_PROGRESS,
            "attributes": json.dumps(model, ensure_ascii=False),
            "messages": 0,
            "is_settled": False,
        },
        stamped=["created_at", "changed_at"],
    )
    if not is_new:
        return None
    rows = [
        {"step_id": number, "StudyInstanceUID": study, "ScheduledProcedureStepID": scheduled_id}
        for study, scheduled_id in scheduled
    ]
    connection.execute(insert(performed_for), rows)
    return number


def find(connection: Connection, sop_instance_uid: str, *, locked: bool = False) -> Step | None:
    """The step with a UID, locked for us where asked; None where there is none."""
    wanted = select(performed_steps).where(performed_steps.c.SOPInstanceUID == sop_instance_uid)
    row = connection.execute(wanted.with_for_update() if locked else wanted).one_or_none()
    return None if row is None else _step(row)


def change(connection: Connection, step: Step, model: JsonModel, state: str) -> None:
    """Give a step its attributes and state; whether it is settled is open again."""
    connection.execute(
        update(performed_steps)
        .where(performed_steps.c.id == step.id)
        .values(
            attributes=json.dumps(model, ensure_ascii=False),
            state=state,
            is_settled=False,
            changed_at=now(),
        )
    )


def list_instances(connection: Connection, number: int, sop_instance_uids: Iterable[str]) -> None:
    """Have a step list these instances, and no others."""
    connection.execute(delete(performed_instances).where(performed_instances.c.step_id == number))
    rows = [{"step_id": number, "SOPInstanceUID": uid} for uid in dict.fromkeys(sop_instance_uids)]
    if rows:
        connection.execute(insert(performed_instances), rows)


def add_message(connection: Connection, step_id: int, message: Message) -> None:
    """Keep a message of a step as it came."""
    connection.execute(
        insert(performed_messages).values(
            step_id=step_id,
            number=message.number,
            transfer_syntax_uid=message.transfer_syntax_uid,
            attributes=message.attributes,
        )
    )
    connection.execute(
        update(performed_steps)
        .where(performed_steps.c.id == step_id)
        .values(messages=message.number + 1)
    )


def message(connection: Connection, sop_instance_uid: str, number: int) -> Message | None:
    """A message of the step with a UID, None where there is none."""
    row = connection.execute(
        select(performed_messages)
        .join(performed_steps)
        .where(
            performed_steps.c.SOPInstanceUID == sop_instance_uid,
            performed_messages.c.number == number,
        )
    ).one_or_none()
    return None if row is None else Message(row.number, row.transfer_syntax_uid, row.attributes)


def scheduled_for(connection: Connection, step_id: int) -> list[tuple[str, str]]:
    """Study Instance UID and Scheduled Procedure Step ID of what a step was performed for."""
    rows = connection.execute(
        select(performed_for.c.StudyInstanceUID, performed_for.c.ScheduledProcedureStepID)
        .where(performed_for.c.step_id == step_id)
        .order_by(performed_for.c.id)
    )
    return [(study, scheduled) for study, scheduled in rows]


def of_study(connection: Connection, study_instance_uid: str) -> list[Step]:
    """The steps that were performed for a study, in the order in which they began."""
    of_it = select(performed_for.c.step_id).where(
        performed_for.c.StudyInstanceUID == study_instance_uid
    )
    rows = connection.execute(
        select(performed_steps)
        .where(performed_steps.c.id.in_(of_it))
        .order_by(performed_steps.c.id)
    )
    return [_step(row) for row in rows]


def is_any_in_progress(connection: Connection, study_instance_uid: str) -> bool:
    """Whether a modality still works on a study."""
    working = and_(
        performed_for.c.step_id == performed_steps.c.id,
        performed_for.c.StudyInstanceUID == study_instance_uid,
        performed_steps.c.state == IN_PROGRESS,
    )
    return bool(connection.execute(select(exists().where(working))).scalar())


def instances_listed(connection: Connection, step_id: int) -> int:
    """How many instances a step lists."""
    return connection.execute(
        select(func.count()).where(performed_instances.c.step_id == step_id)
    ).scalar_one()


def instances_missing(connection: Connection, archive: int, step_id: int) -> int:
    """How many of the instances that a step lists are not in an archive."""
    return connection.execute(
        select(func.count()).where(_is_missing(archive, step_id))
    ).scalar_one()


def missing_instances(
    connection: Connection, archive: int, step_id: int, rows_max: int
) -> Sequence[str]:
    """The first of them, in the order in which the step lists them."""
    rows = connection.execute(
        select(performed_instances.c.SOPInstanceUID)
        .where(_is_missing(archive, step_id))
        .order_by(performed_instances.c.id)
        .limit(rows_max)
    )
    return rows.scalars().all()


def _is_missing(archive: int, step_id: int | ColumnElement[int]) -> ColumnElement[bool]:
    is_held = exists(
        select(instances.c.id).where(
            instances.c.archive_id == archive,
            instances.c.SOPInstanceUID == performed_instances.c.SOPInstanceUID,
        )
    )
    return and_(performed_instances.c.step_id == step_id, not_(is_held))


def unsettled(connection: Connection, archive: int, rows_max: int) -> Sequence[str]:
    """The UIDs of completed steps that are not settled though nothing that they list is missing.

    Those come last which have waited longest.
    """
    lacks = exists(select(1).where(_is_missing(archive, performed_steps.c.id)))
    rows = connection.execute(
        select(performed_steps.c.SOPInstanceUID)
        .where(
            performed_steps.c.is_settled.is_(False),
            performed_steps.c.state == COMPLETED,
            performed_steps.c.changed_at > now() - WATCHED_S,
            not_(lacks.correlate(performed_steps)),
        )
        .order_by(performed_steps.c.changed_at.desc())
        .limit(rows_max)
    )
    return rows.scalars().all()


def settle(connection: Connection, step: Step) -> None:
    """Note that nothing more follows from a step."""
    connection.execute(
        update(performed_steps).where(performed_steps.c.id == step.id).values(is_settled=True)
    )
