"""Group commit: together where it can be, alone where it must, and never anybody else's fault."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, select

from pacs.archive.commits import GroupCommit
from pacs.errors import NodeError, Refused
from pacs.index import Index, catalog
from pacs.index.schema import archives


def make_archive(name: str) -> Callable[[Connection], int]:
    return lambda connection: catalog.archive_id(connection, name)


def refuse(name: str) -> Callable[[Connection], int]:
    def work(connection: Connection) -> int:
        catalog.archive_id(connection, name)
        raise Refused

    return work


def names(index: Index) -> set[str]:
    with index.read() as connection:
        return set(connection.scalars(select(archives.c.name)))


def test_a_write_gives_what_its_work_gives(sqlite_index: Index) -> None:
    commits = GroupCommit(sqlite_index)
    assert commits.run(make_archive("one")) == commits.run(make_archive("one"))
    assert names(sqlite_index) == {"one"}


def test_writes_at_once_are_all_durable_and_each_gets_its_own_answer(index: Index) -> None:
    commits = GroupCommit(index)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: commits.run(make_archive(str(n))), range(200)))
    with index.read() as connection:
        made = {row.name: row.id for row in connection.execute(select(archives))}
    assert [made[str(n)] for n in range(200)] == answers


def test_a_refused_write_costs_nobody_else(index: Index) -> None:
    commits = GroupCommit(index)

    def write(n: int) -> bool:
        try:
            commits.run((refuse if n % 5 == 0 else make_archive)(str(n)))
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(write, range(100)))
    assert answers == [n % 5 != 0 for n in range(100)]
    assert names(index) == {str(n) for n in range(100) if n % 5}


def test_a_bug_in_one_write_does_not_stop_those_after_it(sqlite_index: Index) -> None:
    commits = GroupCommit(sqlite_index)

    def bug(_: Connection) -> None:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            commits.run(bug)
    commits.run(make_archive("after"))
    assert names(sqlite_index) == {"after"}


def test_a_bug_is_told_to_somebody_and_every_write_is_either_durable_or_failed(
    sqlite_index: Index,
) -> None:
    commits = GroupCommit(sqlite_index)
    gate = threading.Barrier(16)

    def write(n: int) -> bool:
        def work(connection: Connection) -> int:
            return catalog.archive_id(connection, str(n)) // (0 if n == 3 else 1)

        gate.wait()
        try:
            commits.run(work)
        except ZeroDivisionError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        answers = dict(zip(range(16), pool.map(write, range(16)), strict=True))
    assert not answers[3]
    assert names(sqlite_index) == {str(n) for n, is_durable in answers.items() if is_durable}


def test_an_index_that_does_not_answer_is_told_to_all(sqlite_index: Index) -> None:
    commits = GroupCommit(sqlite_index)

    def lose(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT * FROM nowhere")

    with pytest.raises(NodeError):
        commits.run(lose)
    commits.run(make_archive("after"))
    assert names(sqlite_index) == {"after"}
