"""The worklist: which procedure steps are scheduled, and who may say so and ask (PS3.4 annex K).

Whoever schedules (`/api/worklist`, `isocenter worklist import`, an order) comes in by one verb,
`schedule`, and may say the same twice. An entry has its own copy of everything, the patient's name
among it, so that two that disagree about a patient are both on the list. A step leaves the list
when it is performed, and the table some time after its day.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from pacs.access import Action, Actor, permits
from pacs.dicom.attributes import WORKLIST, Attribute
from pacs.dicom.json_model import JsonModel
from pacs.dicom.matching import Match, Range, parse_key
from pacs.dicom.plain_json import model_of
from pacs.dicom.small_sets import element_of, element_text, items_of, key_of, text_of
from pacs.dicom.uids import new_uid
from pacs.errors import BadQuery, Exhausted, Forbidden, Missing
from pacs.index import Index, audit, worklist
from pacs.index.worklist import (
    DISCONTINUED,
    SCHEDULED,
    STARTED,
    STATION,
    STATUSES,
    STEP_SEQUENCE,
    WAITING,
    Entry,
)

__all__ = ["STATION", "Entry", "LeavesAt", "Scheduled", "Worklist"]

ENTRIES_MAX: Final = 100_000  # on the list or not; a further one is refused
PAGE_ENTRIES: Final = 200  # read in one transaction while a peer is answered
SEARCH_S_MAX: Final = 2.0  # one page may take so long; then the query is refused (A700)
REMOVED_MAX: Final = 1_000  # old entries removed in one transaction; further ones wait
AUDIT_WINDOW_S: Final = 300.0  # the same question of the same actor is written once in so long
AUDITED_MAX: Final = 4_096  # questions remembered for that; beyond it all are forgotten at once

LeavesAt = Literal["started", "ended", "completed"]

# Which statuses are on the list, by when a step leaves it.
LISTED: Final[Mapping[LeavesAt, tuple[str, ...]]] = {
    "started": WAITING,
    "ended": (*WAITING, STARTED),
    "completed": (*WAITING, STARTED, DISCONTINUED),
}

DATE, TIME = "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"
STATUS: Final = "ScheduledProcedureStepStatus"

# Of every entry (PS3.4 table K.6-1, type 1), and the number by which we know it again.
REQUIRED: Final = ("PatientName", "PatientID", "AccessionNumber", "RequestedProcedureID")
REQUIRED_OF_STEP: Final = (STATION, DATE, TIME, "Modality", "ScheduledProcedureStepID")


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What became of an entry: its number, whether it is new, and the study it belongs to."""

    id: int
    is_new: bool
    study_instance_uid: str


def _never() -> bool:
    return False


class Worklist:
    """The scheduled procedure steps of a node.

    `leaves_at` says when a step leaves the list: when a modality starts it, when it is ended either
    way, or only when it is completed, so that one that was discontinued is offered again.
    """

    def __init__(
        self, index: Index, *, leaves_at: LeavesAt = "started", kept_days: float = 30
    ) -> None:
        self._index = index
        self._listed = LISTED[leaves_at]
        self._kept_days = kept_days
        self._lock = threading.Lock()
        self._audited: dict[tuple[str, ...], float] = {}

    def schedule(self, actor: Actor, entry: Mapping[str, object]) -> Scheduled:
        """Enter one scheduled procedure step, or replace what is said of it. Audited.

        `entry` is plain JSON with DICOM's keywords; accession number and Scheduled Procedure Step
        ID together say which step it is. A study's UID is made where it is missing, the same for
        the steps of one requested procedure that come one after the other. A step that is known
        keeps its status unless the entry has one. Raises BadQuery with the place of what does not
        fit, Forbidden, and Exhausted beyond 100,000 entries.
        """
        self._permit(actor, Action.SCHEDULE)
        model, status = _parted(model_of(entry))
        with self._index.write() as connection:
            study = text_of(model, "StudyInstanceUID") or worklist.study_of(
                connection,
                text_of(model, "AccessionNumber"),
                text_of(model, "RequestedProcedureID"),
            )
            model |= element_of("StudyInstanceUID", study := study or new_uid())
            number, is_new = worklist.put(
                connection, model, status or SCHEDULED, keeps_status=not status
            )
            if is_new and worklist.count(connection) > ENTRIES_MAX:
                raise Exhausted("the worklist is as long as it can be", entries_max=ENTRIES_MAX)
            subject = {"entry": number, "study": study}
            audit.append(connection, actor, "schedule", archive="", outcome="done", subject=subject)
        return Scheduled(number, is_new, study)

    def get(self, actor: Actor, number: int) -> Entry:
        """The entry with a number, on the list or not. Raises Missing, Forbidden."""
        self._permit(actor, Action.WORKLIST)
        with self._index.read() as connection:
            entry = worklist.get(connection, number)
        if entry is None:
            raise Missing("there is no such entry in the worklist")
        return _told(entry)

    def listed(
        self,
        actor: Actor,
        texts: Mapping[str, str],
        *,
        status: str = "",
        after: tuple[str, int] | None = None,
        limit: int = PAGE_ENTRIES,
    ) -> list[Entry]:
        """Entries by their start, those behind a position; of one status, or whichever.

        `texts` are matching keys by keyword. Raises BadQuery, Forbidden.
        """
        self._permit(actor, Action.WORKLIST)
        keys, starts = asked(texts)
        with self._index.read() as connection:
            found = worklist.found(
                connection,
                keys,
                statuses=[_known(status)] if status else STATUSES,
                starts=starts,
                after=after,
                limit=limit,
            )
        return [_told(entry) for entry in found]

    def set_status(self, actor: Actor, number: int, status: str) -> Entry:
        """Change the status of an entry. Audited. Raises BadQuery, Missing, Forbidden."""
        self._permit(actor, Action.SCHEDULE)
        with self._index.write() as connection:
            if not worklist.set_status(connection, number, _known(status)):
                raise Missing("there is no such entry in the worklist")
            subject = {"entry": number, "status": status}
            audit.append(
                connection, actor, "change entry", archive="", outcome="done", subject=subject
            )
        return self.get(actor, number)

    def remove(self, actor: Actor, number: int) -> None:
        """Remove an entry. Audited. Raises Missing, Forbidden."""
        self._permit(actor, Action.SCHEDULE)
        with self._index.write() as connection:
            study = worklist.remove(connection, number)
            if study is None:
                raise Missing("there is no such entry in the worklist")
            subject = {"entry": number, "study": study}
            audit.append(
                connection, actor, "remove entry", archive="", outcome="done", subject=subject
            )

    def pages(
        self, actor: Actor, texts: Mapping[str, str], *, is_stopped: Callable[[], bool] = _never
    ) -> Iterator[list[Entry]]:
        """Every entry that is on the list and satisfies the keys, by its start, page by page.

        Between two pages nothing is held. Raises BadQuery, Forbidden, and Exhausted where a page
        takes longer than SEARCH_S_MAX or `is_stopped` came true.
        """
        self._permit(actor, Action.WORKLIST)
        keys, starts = asked(texts)
        self._audit_search(actor, sorted(texts))
        after = None
        while True:
            with self._index.read_within(SEARCH_S_MAX, is_stopped) as connection:
                page = worklist.found(
                    connection,
                    keys,
                    statuses=self._listed,
                    starts=starts,
                    after=after,
                    limit=PAGE_ENTRIES,
                )
            yield [_told(entry) for entry in page]
            if len(page) < PAGE_ENTRIES:
                return
            after = page[-1].position

    def remove_old(self) -> int:
        """Remove entries whose day, and last change, lie further back than they are kept."""
        # A day is the department's own; a day more than enough lies between any two clocks.
        before = datetime.now(UTC) - timedelta(days=self._kept_days + 1)
        with self._index.write() as connection:
            gone = worklist.remove_old(
                connection,
                starts_before=before.strftime("%Y%m%d"),
                unchanged_s=timedelta(days=self._kept_days).total_seconds(),
                rows_max=REMOVED_MAX,
            )
            if gone:
                node = Actor("node", "worklist")
                audit.append(
                    connection,
                    node,
                    "remove old entries",
                    archive="",
                    outcome="done",
                    subject={"entries": gone},
                )
        return gone

    def _audit_search(self, actor: Actor, keywords: list[str]) -> None:
        """One row per actor and question within the window: a modality asks every minute."""
        question = (actor.kind, actor.name, actor.address, *keywords)
        at = time.monotonic()
        with self._lock:
            if at - self._audited.get(question, -AUDIT_WINDOW_S) < AUDIT_WINDOW_S:
                return
            if len(self._audited) >= AUDITED_MAX:
                self._audited.clear()
        with self._index.write() as connection:
            subject = {"keys": ",".join(keywords)}
            audit.append(
                connection, actor, Action.WORKLIST, archive="", outcome="done", subject=subject
            )
        with self._lock:
            self._audited[question] = at

    @staticmethod
    def _permit(actor: Actor, action: Action) -> None:
        if not permits(actor, action):
            raise Forbidden("this actor may not do this with the worklist", action=action.value)


def _known(status: str) -> str:
    if status not in STATUSES:
        raise BadQuery(f"{STATUS} is one of {', '.join(STATUSES)}")
    return status


def _parted(model: JsonModel) -> tuple[JsonModel, str]:
    """An entry without its status, and that status. Raises BadQuery for what is missing."""
    steps = items_of(model, STEP_SEQUENCE)
    if len(steps) != 1:
        raise BadQuery(f"{STEP_SEQUENCE} must have exactly one item")
    for name in REQUIRED:
        _check_single(model, name, name)
    for name in REQUIRED_OF_STEP:
        _check_single(steps[0], name, f"{STEP_SEQUENCE}[0].{name}")
    if len(_values(model, "StudyInstanceUID")) > 1:
        raise BadQuery("StudyInstanceUID must have one value")
    status = text_of(steps[0], STATUS)
    step = {key: element for key, element in steps[0].items() if key != key_of(STATUS)}
    return model | element_of(STEP_SEQUENCE, step), status and _known(status)


def _check_single(model: JsonModel, keyword: str, place: str) -> None:
    values = _values(model, keyword)
    if not element_text(model.get(key_of(keyword), {})):
        raise BadQuery(f"{place} is missing")
    if len(values) > 1 and keyword != STATION:
        raise BadQuery(f"{place} must have one value")


def _values(model: JsonModel, keyword: str) -> list[object]:
    return list(model.get(key_of(keyword), {}).get("Value", ()))


def _told(entry: Entry) -> Entry:
    """An entry whose step says what its status is now."""
    (step,) = items_of(entry.model, STEP_SEQUENCE)
    step = step | element_of(STATUS, entry.status)
    model = entry.model | element_of(STEP_SEQUENCE, step)
    return Entry(entry.id, entry.status, model, entry.study_instance_uid, entry.position)


def asked(texts: Mapping[str, str]) -> tuple[dict[Attribute, Match], Range | None]:
    """What matching keys mean: each for itself, and the interval of two ranges. Raises BadQuery.

    Ranges of start date and of start time name one interval together: from the first day at the
    first time to the last day at the last (PS3.4 table K.6-1).
    """
    keys = {
        WORKLIST[keyword]: parse_key(WORKLIST[keyword], text) for keyword, text in texts.items()
    }
    days, times = keys.get(WORKLIST[DATE]), keys.get(WORKLIST[TIME])
    if not (isinstance(days, Range) and isinstance(times, Range) and "-" in texts[TIME]):
        return keys, None
    del keys[WORKLIST[DATE]], keys[WORKLIST[TIME]]
    first = days.first and days.first + (times.first or "000000.000000")
    last = days.last and days.last + (times.last or "235959.999999")
    return keys, Range(first, last)
