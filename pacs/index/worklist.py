"""The rows of the worklist: scheduled procedure steps, found by their keys, entered and dropped.

A row holds the columns that keys are matched against, and the entry whole. A step is on the list
while its status is one of those that the caller names: `pacs/worklist.py` judges which.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
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
    or_,
    select,
    true,
    tuple_,
    update,
)

from pacs.dicom.attributes import WORKLIST, Attribute, Level
from pacs.dicom.folding import canonical_time, folded
from pacs.dicom.json_model import JsonModel
from pacs.dicom.matching import Match, Range, Single, Wildcard
from pacs.dicom.small_sets import items_of, text_of
from pacs.index.narrowing import condition, satisfied
from pacs.index.schema import insert_new, now, scheduled_steps, search_columns

STEP_SEQUENCE: Final = "ScheduledProcedureStepSequence"
STATION: Final = "ScheduledStationAETitle"  # the one matching key of which a step may have several

# Scheduled Procedure Step Status (0040,0020), PS3.3 C.4.10, and what became of a step that was
# performed, since one that has only STARTED may be wanted back.
SCHEDULED, ARRIVED, READY = "SCHEDULED", "ARRIVED", "READY"
STARTED, COMPLETED, DISCONTINUED = "STARTED", "COMPLETED", "DISCONTINUED"
DEPARTED, CANCELED = "DEPARTED", "CANCELED"
WAITING: Final = (SCHEDULED, ARRIVED, READY)
STATUSES: Final = (*WAITING, STARTED, COMPLETED, DISCONTINUED, DEPARTED, CANCELED)

KEY: Final = ("AccessionNumber", "ScheduledProcedureStepID")


@dataclass(frozen=True, slots=True)
class Entry:
    """One scheduled procedure step: its row's number, its status, and all that is said of it.

    `position` names its place in the order of the list, to go on from there.
    """

    id: int
    status: str
    model: JsonModel
    study_instance_uid: str
    position: tuple[str, int]


def _entry(row: Row[Any]) -> Entry:
    position = (row.starts_at, row.id)
    return Entry(row.id, row.status, json.loads(row.entry), row.StudyInstanceUID, position)


def _columns(model: JsonModel) -> dict[str, Any]:
    """The columns of an entry. Its one step is the source of the attributes of the level SERIES."""
    (step,) = items_of(model, STEP_SEQUENCE)
    values: dict[str, Any] = {}
    for keyword, attribute in WORKLIST.items():
        text = text_of(step if attribute.level is Level.SERIES else model, keyword)
        values[keyword] = text
        if attribute.vr == "PN":
            groups = [*text.split("="), "", ""]
            values |= dict(zip(search_columns(attribute), map(folded, groups), strict=False))
        elif attribute.vr == "TM":
            values |= dict.fromkeys(search_columns(attribute), canonical_time(text))
    starts = (values["ScheduledProcedureStepStartDate"], _start_time(values))
    return {**values, "starts_at": "".join(starts), "entry": json.dumps(model, ensure_ascii=False)}


def _start_time(values: Mapping[str, Any]) -> str:
    return str(values["ScheduledProcedureStepStartTime_sorted"])


def put(
    connection: Connection, model: JsonModel, status: str, *, keeps_status: bool
) -> tuple[int, bool]:
    """Enter a step, or replace what is said of it; its number, and whether it is new.

    One that is there already keeps its status where `keeps_status`.
    """
    values = {**_columns(model), "status": status}
    number, is_new = insert_new(connection, scheduled_steps, KEY, values, stamped=["changed_at"])
    if not is_new:
        if keeps_status:
            del values["status"]
        _change(connection, number, values)
    return number, is_new


def _change(connection: Connection, number: int, values: Mapping[str, Any]) -> bool:
    changed = connection.execute(
        update(scheduled_steps)
        .where(scheduled_steps.c.id == number)
        .values(**values, changed_at=now())
        .returning(scheduled_steps.c.id)
    )
    return changed.one_or_none() is not None


def study_of(connection: Connection, accession_number: str, requested_procedure_id: str) -> str:
    """The study that steps of this requested procedure belong to, empty if none is listed."""
    first: str | None = connection.execute(
        select(func.min(scheduled_steps.c.StudyInstanceUID)).where(
            scheduled_steps.c.AccessionNumber == accession_number,
            scheduled_steps.c.RequestedProcedureID == requested_procedure_id,
        )
    ).scalar_one()
    return first or ""


def get(connection: Connection, number: int) -> Entry | None:
    """The entry with a number, None where there is none."""
    row = connection.execute(
        select(scheduled_steps).where(scheduled_steps.c.id == number)
    ).one_or_none()
    return None if row is None else _entry(row)


def found(
    connection: Connection,
    keys: Mapping[Attribute, Match],
    *,
    statuses: Iterable[str],
    starts: Range | None = None,
    after: tuple[str, int] | None = None,
    limit: int,
) -> list[Entry]:
    """The entries that satisfy every key, by their start, those behind a position."""
    dialect = connection.dialect.name
    place = tuple_(scheduled_steps.c.starts_at, scheduled_steps.c.id)
    rows = connection.execute(
        select(scheduled_steps)
        .where(scheduled_steps.c.status.in_(list(statuses)))
        .where(*(_wanted(key, match, dialect) for key, match in keys.items()))
        .where(condition(scheduled_steps.c.starts_at, starts, dialect) if starts else true())
        .where(place > tuple_(*after) if after else true())
        .order_by(scheduled_steps.c.starts_at, scheduled_steps.c.id)
        .limit(limit)
    )
    return [_entry(row) for row in rows]


def _wanted(attribute: Attribute, match: Match, dialect: str) -> ColumnElement[bool]:
    spellings: Sequence[Match] = [match]
    if attribute.keyword == STATION and isinstance(match, Single):
        one = str(match.value)
        among = (f"{one}\\*", f"*\\{one}\\*", f"*\\{one}")
        spellings = [match, *(Wildcard(pattern) for pattern in among)]
    return or_(*(satisfied(scheduled_steps, attribute, each, dialect) for each in spellings))


def set_status(connection: Connection, number: int, status: str) -> bool:
    """Change the status of an entry; whether it is there."""
    return _change(connection, number, {"status": status})


def tell(
    connection: Connection,
    study_instance_uid: str,
    scheduled_procedure_step_id: str,
    status: str,
) -> bool:
    """Change the status of the step of a study that somebody performs; whether it is listed."""
    told = connection.execute(
        update(scheduled_steps)
        .where(
            scheduled_steps.c.StudyInstanceUID == study_instance_uid,
            scheduled_steps.c.ScheduledProcedureStepID == scheduled_procedure_step_id,
        )
        .values(status=status, changed_at=now())
        .returning(scheduled_steps.c.id)
    )
    return bool(told.all())


def is_any_waiting(
    connection: Connection, study_instance_uid: str, statuses: Iterable[str]
) -> bool:
    """Whether a step of a study stands in one of these statuses."""
    waiting = and_(
        scheduled_steps.c.StudyInstanceUID == study_instance_uid,
        scheduled_steps.c.status.in_(list(statuses)),
    )
    return bool(connection.execute(select(exists().where(waiting))).scalar())


def remove(connection: Connection, number: int) -> str | None:
    """Remove an entry; the study it belonged to, None where it was not there."""
    return connection.execute(
        delete(scheduled_steps)
        .where(scheduled_steps.c.id == number)
        .returning(scheduled_steps.c.StudyInstanceUID)
    ).scalar_one_or_none()


def remove_old(
    connection: Connection, *, starts_before: str, unchanged_s: float, rows_max: int
) -> int:
    """Remove entries that began before a moment and have not changed for so long; how many."""
    old = (
        select(scheduled_steps.c.id)
        .where(
            scheduled_steps.c.starts_at < starts_before,
            scheduled_steps.c.changed_at < now() - unchanged_s,
        )
        .limit(rows_max)
    )
    gone = connection.execute(
        delete(scheduled_steps).where(scheduled_steps.c.id.in_(old)).returning(scheduled_steps.c.id)
    )
    return len(gone.all())


def count(connection: Connection) -> int:
    """How many entries there are, on the list or not."""
    return connection.execute(select(func.count()).select_from(scheduled_steps)).scalar_one()
