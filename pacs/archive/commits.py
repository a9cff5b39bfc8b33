"""Group commit: writes of several threads in one transaction, each answered when it is durable.

The first thread leads and takes along whatever waits; the others find their write done. One sync
of the index then serves them all, which is what bounds ingest with several associations. A write
that is refused costs nobody else: the group is rolled back and its writes run one by one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import Connection

from pacs.errors import NodeError
from pacs.index import Index

GROUP_MAX: Final = 64  # writes of one transaction; further ones wait for the next

Result = TypeVar("Result")


class _Write(Generic[Result]):
    """One thread's work, and what became of it."""

    def __init__(self, work: Callable[[Connection], Result]) -> None:
        self.work = work
        self.is_done = False
        self.error: NodeError | None = None
        self._result: list[Result] = []

    def attempt(self, connection: Connection) -> None:
        self._result = [self.work(connection)]

    def outcome(self) -> Result:
        if self.error is not None:
            raise self.error
        return self._result[0]


class GroupCommit:
    """Runs writes on an index, those that wait at the same time together."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._waiting: deque[_Write[Any]] = deque()
        self._leading = threading.Lock()

    def run(self, work: Callable[[Connection], Result]) -> Result:
        """What work returns, once its transaction is durable. Raises what it raises."""
        write = _Write(work)
        self._waiting.append(write)
        with self._leading:
            try:
                while not write.is_done:
                    self._lead()
            finally:
                # A bug in some work has come through: nobody may meet ours again.
                if write in self._waiting:
                    self._waiting.remove(write)
        return write.outcome()

    def _lead(self) -> None:
        group = [self._waiting.popleft() for _ in range(min(GROUP_MAX, len(self._waiting)))]
        try:
            if not self._commit(group):
                for write in group:
                    self._commit([write], alone=True)
        finally:
            # Whatever ended us, those that are not done lead themselves.
            self._waiting.extendleft(write for write in reversed(group) if not write.is_done)

    def _commit(self, group: list[_Write[Any]], *, alone: bool = False) -> bool:
        """Whether the group is done; False if one of several was refused, which undoes them all.

        If the commit itself fails, nobody knows whether it happened: all are told, none is run
        again.
        """
        refused = False
        try:
            with self._index.write() as connection:
                for write in group:
                    refused = True
                    write.attempt(connection)
                    refused = False
        except NodeError as error:
            if refused and not alone and len(group) > 1:
                return False
            for write in group:
                write.error = error
        for write in group:
            write.is_done = True
        return True
