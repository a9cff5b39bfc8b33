"""The rows of forwarding: rules, how far the feed is read, and what went to whom.

A delivery is one object on its way to one peer. It is entered once for good, in the transaction of
what caused it, under a job of its study and peer; so no crash loses it, no rule doubles it, and two
nodes that forward to each other end after one hop. What a rule means is in `pacs/forwarding.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from pacs.dicom.attributes import Attribute, Level
from pacs.dicom.matching import Match
from pacs.index import jobs as queue
from pacs.index import narrowing, queries
from pacs.index.jobs import DELIVERY_ATTEMPTS_MAX, QUEUED, RUNNING, Job
from pacs.index.schema import (
    deliveries,
    feeds,
    insert_new,
    instances,
    jobs,
    now,
    rules,
    series,
    studies,
)

FORWARD: Final = "forward"  # the kind of a job
FEED: Final = "forwarding"  # the name of how far the audit trail is read
VERSIONS_MAX: Final = 8  # of one instance to one peer; further ones stay, for that is a circle
UIDS_ASKED_MAX: Final = 5_000  # in one statement, since its values are limited; more take several

WAITING, DELIVERED, REFUSED, GONE, CANCELLED = (
    "waiting",
    "delivered",
    "refused",
    "gone",
    "cancelled",
)

SENDER: Final = Attribute("SourceApplicationEntityTitle", Level.INSTANCE)

Conditions = Sequence[tuple[Attribute, Sequence[Match]]]


@unique
class Trigger(Enum):
    """When a rule is asked."""

    RECEIVED = "received"  # instance by instance, soon after it came
    COMPLETE = "complete"  # when a study is complete
    RESULT = "result"  # when AI has made something of a study


@dataclass(frozen=True, slots=True)
class Rule:
    """What goes to whom, and when.

    `conditions` gives by keyword the values of which an instance must match one; it must match each
    keyword. `project` names the research project whose copies are meant, empty for the identified
    archive. With `commitment` the peer is asked for storage commitment after each delivery. The
    rest is ours to note: `since` is the row of the audit trail after which the rule holds, times are
    seconds since 1970.
    """

    name: str
    peer: str
    trigger: Trigger
    conditions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    project: str = ""
    commitment: bool = False
    enabled: bool = True
    since: int = 0
    created_at: float | None = None
    changed_at: float | None = None


# rules


def listed(connection: Connection) -> list[Rule]:
    """Every rule, by name."""
    return [_rule(row) for row in connection.execute(select(rules).order_by(rules.c.name))]


def enabled(connection: Connection, *triggers: Trigger) -> list[Rule]:
    """The rules that are asked at these triggers."""
    asked = rules.c.trigger.in_([trigger.value for trigger in triggers])
    found = connection.execute(select(rules).where(rules.c.enabled, asked).order_by(rules.c.id))
    return [_rule(row) for row in found]


def find(connection: Connection, name: str) -> Rule | None:
    """The rule of a name, None where there is none."""
    row = connection.execute(select(rules).where(rules.c.name == name)).one_or_none()
    return None if row is None else _rule(row)


def _rule(row: Row[Any]) -> Rule:
    columns = {name: getattr(row, name) for name in Rule.__dataclass_fields__}
    conditions = {keyword: tuple(given) for keyword, given in json.loads(row.conditions).items()}
    return Rule(**columns | {"trigger": Trigger(row.trigger), "conditions": conditions})


def put(connection: Connection, rule: Rule, seq: int) -> bool:
    """Enter a rule or replace what it says; True if its name is new here.

    `seq` is the audit row of this very change. A rule that was at rest does not make good for what
    it missed.
    """
    held = find(connection, rule.name)
    since = held.since if held is not None and held.enabled else seq
    values = {
        "name": rule.name,
        "peer": rule.peer,
        "trigger": rule.trigger.value,
        "project": rule.project,
        "conditions": json.dumps({key: list(texts) for key, texts in rule.conditions.items()}),
        "commitment": rule.commitment,
        "enabled": rule.enabled,
        "since": since,
    }
    stamped = ["created_at", "changed_at"]
    _, is_new = insert_new(connection, rules, ["name"], values, stamped=stamped)
    if not is_new:
        changed = update(rules).where(rules.c.name == rule.name)
        connection.execute(changed.values(**values, changed_at=now()))
    return is_new


def remove(connection: Connection, name: str) -> bool:
    """Remove a rule; whether it was there. What it has sent on its way goes on."""
    gone = connection.execute(delete(rules).where(rules.c.name == name).returning(rules.c.id))
    return gone.one_or_none() is not None


def count(connection: Connection) -> int:
    """How many rules there are."""
    return connection.execute(select(func.count()).select_from(rules)).scalar_one()


# the feed


def position(connection: Connection) -> int:
    """The last row of the audit trail whose consequences are written; 0 before the first."""
    read = select(feeds.c.seq).where(feeds.c.name == FEED)
    return connection.execute(read).scalar_one_or_none() or 0


def move(connection: Connection, seen: int, seq: int) -> bool:
    """Move the position from where it was seen; False if somebody else has moved it since.

    What the rows between lead to is written in the same transaction: of two that read the same
    rows, one waits here and then learns that it came second.
    """
    insert_new(connection, feeds, ["name"], {"name": FEED, "seq": 0})
    moved = connection.execute(
        update(feeds)
        .where(feeds.c.name == FEED, feeds.c.seq == seen)
        .values(seq=seq)
        .returning(feeds.c.id)
    )
    return moved.one_or_none() is not None


# what is to be delivered


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a rule chooses among: instances that were received, or that one job or any job made."""

    archive_id: int
    conditions: Conditions
    study_instance_uid: str = ""  # empty: of every study
    sop_instance_uids: Sequence[str] | None = None  # None: all of them
    is_result: bool = False
    made_by: str = ""  # with is_result: the job; empty: any

    def condition(self, dialect: str) -> ColumnElement[bool]:
        """It as SQL over the joined tables, by the matcher of every other door."""
        wanted = [studies.c.archive_id == self.archive_id]
        if self.study_instance_uid:
            wanted.append(studies.c.StudyInstanceUID == self.study_instance_uid)
        if self.sop_instance_uids is not None:
            wanted.append(instances.c.SOPInstanceUID.in_(self.sop_instance_uids))
        if self.made_by or not self.is_result:
            wanted.append(instances.c.made_by == self.made_by)
        else:
            wanted.append(instances.c.made_by != "")
        for attribute, matches in self.conditions:
            wanted.append(or_(*(_holds(attribute, match, dialect) for match in matches)))
        return and_(*wanted)


def _holds(attribute: Attribute, match: Match, dialect: str) -> ColumnElement[bool]:
    if attribute is SENDER:
        return narrowing.condition(instances.c.source_ae_title, match, dialect)
    return narrowing.wanted(attribute, match, dialect)


def enter(connection: Connection, rule: Rule, chosen: Chosen, cause: str) -> int:
    """Enter what a rule chooses of one study as deliveries to its peer; how many are new.

    Left out are what came from that very peer, what was entered before, and what has gone to it in
    VERSIONS_MAX versions. They join the job of the study and peer that waits, or a new one, whose
    key ends with `cause`: each cause happens once, so that no job that has ended is met again.
    """
    wanted = and_(chosen.condition(connection.dialect.name), _is_new_to(rule.peer))
    joined = queries.JOINED_DOWN_TO[Level.INSTANCE]
    if not connection.execute(select(exists(select(1).select_from(joined).where(wanted)))).scalar():
        return 0
    job_id = _job_for(connection, rule.peer, chosen, cause)
    columns: dict[str, ColumnElement[Any]] = {
        "job_id": literal(job_id),
        "peer": literal(rule.peer),
        "rule": literal(rule.name),
        "commitment": literal(rule.commitment),
        "digest": instances.c.digest,
        "sop_instance_uid": instances.c.SOPInstanceUID,
    }
    order = (series.c.SeriesNumber, series.c.id, instances.c.InstanceNumber, instances.c.id)
    found = select(*columns.values()).select_from(joined).where(wanted).order_by(*order)
    return _entered(connection, list(columns), found)


def _entered(connection: Connection, names: list[str], found: Select[Any]) -> int:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    entered = dialect.insert(deliveries).from_select(names, found)
    return connection.execute(
        entered.on_conflict_do_nothing(index_elements=["peer", "digest"])
    ).rowcount


def _is_new_to(peer: str) -> ColumnElement[bool]:
    """Whether an instance neither came from a peer nor was entered for it, this or too often."""
    to_peer = deliveries.c.peer == peer
    entered = exists(select(1).where(to_peer, deliveries.c.digest == instances.c.digest))
    versions = (
        select(func.count())
        .where(to_peer, deliveries.c.sop_instance_uid == instances.c.SOPInstanceUID)
        .scalar_subquery()
    )
    return and_(
        instances.c.source_ae_title != peer,
        not_(entered.correlate(instances)),
        versions.correlate(instances) < VERSIONS_MAX,
    )


def _job_for(connection: Connection, peer: str, chosen: Chosen, cause: str) -> int:
    """The job of a study and peer that waits, or a new one.

    The one that waits is locked: a worker passes it by until what joins it is there to be seen. One
    that somebody else has locked is not waited for, since its holder may be waiting for us.
    """
    study = chosen.study_instance_uid
    waits = connection.execute(
        select(jobs.c.id)
        .where(jobs.c.kind == FORWARD, jobs.c.lane == peer, jobs.c.state == QUEUED)
        .where(jobs.c.archive_id == chosen.archive_id, jobs.c.study_instance_uid == study)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).scalar_one_or_none()
    if waits is not None:
        return int(waits)
    key = f"{FORWARD}/{peer}/{chosen.archive_id}/{study}/{cause}"
    queue.enqueue(
        connection,
        key=key,
        kind=FORWARD,
        archive_id=chosen.archive_id,
        study_instance_uid=study,
        generation=0,
        payload={"peer": peer},
        attempts_max=DELIVERY_ATTEMPTS_MAX,
        lane=peer,
    )
    return int(connection.execute(select(jobs.c.id).where(jobs.c.key == key)).scalar_one())


@dataclass(frozen=True, slots=True)
class Matching:
    """A study of which a rule would forward something; the time is of its last instance."""

    study_instance_uid: str
    instances: int
    last_received_at: float


def matching(
    connection: Connection, rule: Rule, chosen: Chosen, since_s: float, rows_max: int
) -> list[Matching]:
    """The studies that received something in so many seconds and that a rule would choose of."""
    rows = connection.execute(
        select(studies.c.StudyInstanceUID, func.count().label("number"), studies.c.last_received_at)
        .select_from(queries.JOINED_DOWN_TO[Level.INSTANCE])
        .where(chosen.condition(connection.dialect.name))
        .where(instances.c.source_ae_title != rule.peer)
        .where(studies.c.last_received_at >= now() - since_s)
        .group_by(studies.c.id)
        .order_by(studies.c.last_received_at.desc(), studies.c.id.desc())
        .limit(rows_max)
    )
    return [Matching(row.StudyInstanceUID, row.number, row.last_received_at) for row in rows]


# delivering


def waiting(connection: Connection, job: Job) -> list[Row[Any]]:
    """What a job still has to deliver: what failed least often first.

    Where the archive no longer holds the object as a current instance, its columns are None.
    """
    return list(
        connection.execute(
            select(
                deliveries.c.id,
                deliveries.c.sop_instance_uid,
                deliveries.c.rule,
                instances.c.SOPClassUID,
                instances.c.transfer_syntax_uid,
                deliveries.c.digest,
                instances.c.size_bytes,
                instances.c.data_set_offset,
            )
            .select_from(deliveries.outerjoin(instances, instances.c.digest == deliveries.c.digest))
            .where(deliveries.c.job_id == job.id, deliveries.c.state == WAITING)
            .order_by(deliveries.c.tries, deliveries.c.id)
        )
    )


_END: Final = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("of"))
    .values(
        state=bindparam("to"),
        reason=bindparam("why"),
        tries=deliveries.c.tries + 1,
        ended_at=case((bindparam("to") == WAITING, None), else_=now()),
    )
)


def note(connection: Connection, outcomes: Iterable[tuple[int, str, str]]) -> None:
    """Note outcomes: of each delivery its id, its state from now on, and why."""
    rows = [{"of": one, "to": state, "why": reason} for one, state, reason in outcomes]
    if rows:
        connection.execute(_END, rows)


def outcomes(connection: Connection, job: Job) -> list[tuple[str, str, int]]:
    """How a job's deliveries stand: state, reason, and how many."""
    rows = connection.execute(
        select(deliveries.c.state, deliveries.c.reason, func.count().label("number"))
        .where(deliveries.c.job_id == job.id)
        .group_by(deliveries.c.state, deliveries.c.reason)
        .order_by(func.count().desc(), deliveries.c.reason)
    )
    return [(row.state, row.reason, row.number) for row in rows]


def to_commit(connection: Connection, job: Job) -> list[tuple[str, str]]:
    """SOP class and instance UID of what a job delivered and is to ask commitment for."""
    rows = connection.execute(
        select(instances.c.SOPClassUID, instances.c.SOPInstanceUID)
        .join(deliveries, instances.c.digest == deliveries.c.digest)
        .where(_to_commit(job))
        .order_by(deliveries.c.id)
    )
    return [(row.SOPClassUID, row.SOPInstanceUID) for row in rows]


def note_commitment(connection: Connection, job: Job) -> None:
    """Note that a peer has been asked for commitment of what a job delivered."""
    connection.execute(update(deliveries).where(_to_commit(job)).values(commitment=False))


def _to_commit(job: Job) -> ColumnElement[bool]:
    delivered = deliveries.c.state == DELIVERED
    return and_(deliveries.c.job_id == job.id, delivered, deliveries.c.commitment)


# what is told


@dataclass(frozen=True, slots=True)
class Delivery:
    """What goes of one study to one peer: its job, and how many instances stand where.

    `lost` are those that were deleted or replaced here before they could be sent.
    """

    job: Job
    waiting: int
    delivered: int
    refused: int
    lost: int


def delivery_page(
    connection: Connection, *, peer: str, states: Sequence[str], limit: int, cursor: int
) -> list[Delivery]:
    """Deliveries by study and peer, newest first, with ids below cursor (0: from the newest)."""
    found = queue.listed(
        connection, kind=FORWARD, lane=peer, states=states, limit=limit, cursor=cursor
    )
    rows = connection.execute(
        select(deliveries.c.job_id, deliveries.c.state, func.count().label("number"))
        .where(deliveries.c.job_id.in_([job.id for job in found]))
        .group_by(deliveries.c.job_id, deliveries.c.state)
    )
    numbers = {(row.job_id, row.state): row.number for row in rows}
    states_told = (WAITING, DELIVERED, REFUSED, GONE)
    return [
        Delivery(job, *(numbers.get((job.id, state), 0) for state in states_told)) for job in found
    ]


@dataclass(frozen=True, slots=True)
class Traffic:
    """How many instances stand where on their way to one peer."""

    peer: str
    waiting: int
    delivered: int
    failed: int  # refused, or given up


def traffic(connection: Connection) -> list[Traffic]:
    """The peers that something went to or is to go to, by AE title."""
    ended = (
        select(deliveries.c.peer, deliveries.c.state, func.count())
        .where(deliveries.c.state.in_((DELIVERED, REFUSED)))
        .group_by(deliveries.c.peer, deliveries.c.state)
    )
    is_open = case((jobs.c.state.in_((QUEUED, RUNNING)), WAITING), else_=REFUSED)
    waiting = (
        select(deliveries.c.peer, is_open, func.count())
        .join(jobs, jobs.c.id == deliveries.c.job_id)
        .where(deliveries.c.state == WAITING)
        .group_by(deliveries.c.peer, is_open)
    )
    numbers: Counter[tuple[str, str]] = Counter()
    for peer, state, number in (*connection.execute(ended), *connection.execute(waiting)):
        numbers[peer, state] += number
    return [
        Traffic(peer, *(numbers[peer, state] for state in (WAITING, DELIVERED, REFUSED)))
        for peer in sorted({peer for peer, _ in numbers})
    ]


def retry(connection: Connection, job_ids: Sequence[int]) -> int:
    """Try again what waits or failed under these jobs, at once; how many jobs."""
    queued = queue.retry(connection, job_ids)
    again = deliveries.c.state.in_((REFUSED, CANCELLED, GONE))
    connection.execute(
        update(deliveries)
        .where(deliveries.c.job_id.in_(queued), again)
        .values(state=WAITING, reason="", tries=0, ended_at=None)
    )
    return len(queued)


def cancel(connection: Connection, job_ids: Sequence[int], reason: str) -> int:
    """Send no more of what waits under these jobs; how many jobs."""
    ended = queue.cancel(connection, job_ids, reason)
    connection.execute(
        update(deliveries)
        .where(deliveries.c.job_id.in_(ended), deliveries.c.state == WAITING)
        .values(state=CANCELLED, reason=reason, ended_at=now())
    )
    return len(ended)


def jobs_to(
    connection: Connection, *, peer: str, states: Sequence[str], delivery: int = 0
) -> list[int]:
    """The ids of the jobs in one of these states: of one delivery, or of all to a peer."""
    wanted = [jobs.c.kind == FORWARD, jobs.c.state.in_(states)]
    wanted.append(jobs.c.id == delivery if delivery else jobs.c.lane == peer)
    return list(connection.scalars(select(jobs.c.id).where(*wanted)))
