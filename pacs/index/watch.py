"""Statements that may not take for ever: one thread watches those that run under a limit.

A thread for each search would cost more than most searches do, and so would waking one. This one
looks by itself what there is to watch, and ends when it has seen nothing for a while.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection

WATCH_STEP_S: Final = 0.1  # how often it is looked whether a statement is still wanted
LINGER_S: Final = 10.0  # how long the thread looks for something to watch


class Watched:
    """One connection whose statements have a limit; `until` is on the monotonic clock."""

    def __init__(
        self, connection: Connection, until: float, is_stopped: Callable[[], bool]
    ) -> None:
        driver: Any = connection.connection.driver_connection
        is_sqlite = connection.dialect.name == "sqlite"
        self._interrupt = driver.interrupt if is_sqlite else driver.cancel_safe
        self._is_stopped = is_stopped
        self.until = until
        self.is_given_up = False

    def look(self, at: float) -> None:
        """Interrupt the statement that runs, if its time is over or nobody waits for it."""
        if at > self.until or self._is_stopped():
            self.is_given_up = True
            self._interrupt()


class Watch:
    """Watches connections, all in one thread."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @contextmanager
    def over(self, watched: Watched) -> Iterator[None]:
        """Watch a connection inside the block, and never a moment longer."""
        with self._changed:
            self._watched.add(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="index watch", daemon=True)
                self._thread.start()
            elif watched.until - time.monotonic() < WATCH_STEP_S:
                self._changed.notify()
        try:
            yield
        finally:
            # Whoever interrupts holds the lock, or it would hit who has the connection next.
            with self._changed:
                self._watched.discard(watched)

    def close(self) -> None:
        """End the thread; nothing may be watched any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        with self._changed:
            lingers_until = time.monotonic() + LINGER_S
            while not self._is_closed:
                self._changed.wait(self._pause_s())
                at = time.monotonic()
                if self._watched:
                    lingers_until = at + LINGER_S
                elif at > lingers_until:
                    break
                for watched in self._watched:
                    watched.look(at)
            self._thread = None

    def _pause_s(self) -> float:
        soonest = min((one.until for one in self._watched), default=math.inf) - time.monotonic()
        return max(0.0, min(WATCH_STEP_S, soonest))
