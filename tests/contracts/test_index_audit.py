"""The audit trail on every database: gap-free, and whoever lays hands on it is found out."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, delete, select, update

from pacs.access import Action, Actor
from pacs.errors import Refused
from pacs.index import Index
from pacs.index.audit import ORIGIN, after, append, newest, verify
from pacs.index.schema import audit, audit_head
from tests import make


def write(connection: Connection, name: object = "one", actor: Actor = make.SCANNER) -> int:
    return append(
        connection,
        actor,
        Action.STORE,
        archive="main",
        outcome="new",
        subject={"instance": str(name)},
    )


@pytest.fixture
def trail(index: Index) -> Index:
    """Ten rows."""
    with index.write() as connection:
        assert [write(connection, n) for n in range(10)] == list(range(1, 11))
    return index


def problems(index: Index) -> tuple[str, ...]:
    with index.read() as connection:
        return verify(connection)


def test_an_untouched_trail_is_whole(trail: Index) -> None:
    assert problems(trail) == ()


def test_an_empty_trail_is_whole(index: Index) -> None:
    assert problems(index) == ()


def test_a_row_says_who_did_what_to_what(trail: Index) -> None:
    with trail.read() as connection:
        row = connection.execute(select(audit).where(audit.c.seq == 1)).one()
    assert row.previous == ORIGIN
    assert json.loads(row.event) == {
        "action": "store",
        "actor": {
            "address": "192.0.2.1",
            "implementation": "",
            "kind": "peer",
            "name": "SCANNER",
        },
        "archive": "main",
        "outcome": "new",
        "subject": {"instance": "0"},
    }


def test_what_happened_after_a_row_is_told_in_order_and_in_pages(trail: Index) -> None:
    with trail.read() as connection:
        assert newest(connection) == 10
        assert [event.seq for event in after(connection, 0, 4)] == [1, 2, 3, 4]
        last, *others = after(connection, 9, 4)
    assert not others
    assert (last.seq, last.action, last.archive) == (10, "store", "main")
    assert (last.outcome, last.subject) == ("new", {"instance": "9"})


@pytest.mark.parametrize(
    ("column", "seq"),
    [("event", 1), ("event", 5), ("event", 10), ("at", 5), ("digest", 10), ("previous", 1)],
)
def test_a_changed_row_is_found(trail: Index, column: str, seq: int) -> None:
    value = 1.5 if column == "at" else "{}"
    with trail.write() as connection:
        connection.execute(update(audit).where(audit.c.seq == seq).values({column: value}))
    assert str(seq) in problems(trail)[0]


@pytest.mark.parametrize("seq", [1, 5, 10])
def test_a_removed_row_is_found(trail: Index, seq: int) -> None:
    with trail.write() as connection:
        connection.execute(delete(audit).where(audit.c.seq == seq))
    assert problems(trail)


def test_a_tail_cut_off_is_found(trail: Index) -> None:
    with trail.write() as connection:
        connection.execute(delete(audit).where(audit.c.seq > 7))
    assert problems(trail) == ("the audit trail ends at row 7, its head says 10",)


def test_a_tail_cut_off_whose_head_was_set_back_by_number_alone_is_found(trail: Index) -> None:
    with trail.write() as connection:
        connection.execute(delete(audit).where(audit.c.seq > 7))
        connection.execute(update(audit_head).values(seq=7))
    assert problems(trail)


def test_swapped_rows_are_found(trail: Index) -> None:
    with trail.write() as connection:
        events = dict(connection.execute(select(audit.c.seq, audit.c.event)).all())
        for seq, other in ((3, 4), (4, 3)):
            connection.execute(update(audit).where(audit.c.seq == seq).values(event=events[other]))
    assert "row 3" in problems(trail)[0]


def test_a_row_slipped_in_is_found(trail: Index) -> None:
    with trail.write() as connection:
        last = connection.execute(select(audit).where(audit.c.seq == 10)).mappings().one()
        connection.execute(audit.insert().values(**{**last, "seq": 11}))
    assert problems(trail)


def test_a_deed_undone_leaves_no_row(trail: Index) -> None:
    def fail() -> None:
        with trail.write() as connection:
            write(connection)
            raise Refused

    with pytest.raises(Refused):
        fail()
    assert problems(trail) == ()
    with trail.write() as connection:
        assert write(connection) == 11


def test_writers_at_once_leave_no_gap(index: Index) -> None:
    def deed(n: int) -> int | None:
        try:
            with index.write() as connection:
                seq = write(connection, n)
                if n % 7 == 0:
                    raise Refused
        except Refused:
            return None
        return seq

    with ThreadPoolExecutor(16) as pool:
        answers = [seq for seq in pool.map(deed, range(160)) if seq is not None]
    assert sorted(answers) == list(range(1, len(answers) + 1))
    assert problems(index) == ()


@pytest.mark.parametrize("name", ["a\0b", "\n{}", "日本", "\ud800"])
def test_an_actor_may_call_itself_what_it_likes(index: Index, name: str) -> None:
    with index.write() as connection:
        write(connection, actor=Actor("peer", name, implementation=name))
        write(connection)
    assert problems(index) == ()
