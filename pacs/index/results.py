"""AI runs: what each said of itself, and which of them is the visible one.

A run's record is JSON, written once when the run ends; the same record lies in the store, so that
`rebuild` finds it again. At most one run of a model is not superseded for a study.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select, update

from pacs.index.jobs import SUPERSEDED
from pacs.index.schema import insert_new, runs

RUN_PREFIX: Final = b"isocenter run\n"  # how such an object begins, unlike any Part 10 file


@dataclass(frozen=True, slots=True)
class Run:
    """One ended run of a model on one generation of a study. `record` is what the run says."""

    key: str
    study_instance_uid: str
    generation: int
    model: str
    state: str
    record: Mapping[str, Any]
    ended_at: float

    @property
    def reason(self) -> tuple[str, str]:
        """Why it ended as it did: a code and a sentence, empty for success."""
        reason = self.record.get("reason") or {}
        return str(reason.get("code", "")), str(reason.get("sentence", ""))

    def packed(self) -> bytes:
        """As an object of the store."""
        body = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return RUN_PREFIX + json.dumps(body, sort_keys=True, default=dict).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Run:
        """What `packed` gave."""
        return cls(**json.loads(packed.removeprefix(RUN_PREFIX)))


def add(connection: Connection, archive_id: int, run: Run, *, digest: str) -> bool:
    """Write the row of an ended run, and supersede what earlier generations said."""
    _, is_new = insert_new(
        connection,
        runs,
        ["key"],
        {
            "key": run.key,
            "archive_id": archive_id,
            "study_instance_uid": run.study_instance_uid,
            "generation": run.generation,
            "model": run.model,
            "state": run.state,
            "record": json.dumps(run.record, sort_keys=True, default=dict),
            "digest": digest,
            "ended_at": run.ended_at,
        },
    )
    _supersede_earlier(connection, archive_id, run.study_instance_uid, run.model)
    return is_new


def _supersede_earlier(
    connection: Connection, archive_id: int, study_instance_uid: str, model: str
) -> None:
    same = (
        runs.c.archive_id == archive_id,
        runs.c.study_instance_uid == study_instance_uid,
        runs.c.model == model,
    )
    newest = select(runs.c.generation).where(*same).order_by(runs.c.generation.desc()).limit(1)
    connection.execute(
        update(runs)
        .where(*same, runs.c.generation < newest.scalar_subquery())
        .values(state=SUPERSEDED)
    )


def of_study(connection: Connection, archive_id: int, study_instance_uid: str) -> list[Run]:
    """Every ended run on a study, the newest generation first."""
    rows = connection.execute(
        select(runs)
        .where(runs.c.archive_id == archive_id, runs.c.study_instance_uid == study_instance_uid)
        .order_by(runs.c.generation.desc(), runs.c.model, runs.c.id)
    )
    names = [name for name in Run.__dataclass_fields__ if name != "record"]
    return [
        Run(record=json.loads(row.record), **{name: getattr(row, name) for name in names})
        for row in rows
    ]


def every_digest(connection: Connection, archive_id: int) -> Iterator[str]:
    """The objects that hold an archive's run records."""
    rows = connection.execute(select(runs.c.digest).where(runs.c.archive_id == archive_id))
    yield from (digest for (digest,) in rows)


def still_named(connection: Connection, digests: set[str]) -> Iterator[str]:
    """Those of digests that some run names, in any archive."""
    rows = connection.execute(select(runs.c.digest).where(runs.c.digest.in_(digests)))
    yield from (digest for (digest,) in rows)


def forget_everything(connection: Connection, archive_id: int) -> None:
    """Remove every run of an archive; the records in the store stay. For `rebuild`."""
    connection.execute(runs.delete().where(runs.c.archive_id == archive_id))
