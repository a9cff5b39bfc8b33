"""Where things are found: one relational index for every archive of a node.

`open_index` turns a URL into an `Index`, the only maker of connections. A transaction that writes
is durable when its `with` block ends without an error; one that reads sees a single moment.
SQLite takes one writer at a time, so its writers queue here, in order, rather than at its lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import resources
from pathlib import Path
from typing import Any, Final, cast

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pacs.errors import BadQuery, Exhausted, Forbidden, NodeError, Unreachable
from pacs.index.watch import Watch, Watched

CONNECTIONS_MAX: Final = 32  # of one process; a further one waits
CONNECTION_WAIT_S: Final = 5.0  # and is refused after this
ANALYSED_ROWS_MAX: Final = 1_000  # of each of SQLite's indexes: an estimate, made in milliseconds
WRITER_WAIT_S: Final = 10.0  # how long one SQLite writer waits for another process's
MIGRATION_LOCK: Final = 0x150CE  # the key of PostgreSQL's advisory lock; a number of our own


class Index:
    """The index's door: transactions, and what depends on the kind of database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dialect = engine.dialect.name
        self._watch = Watch()
        self._one_writer: AbstractContextManager[Any] = (
            threading.Lock() if self.dialect == "sqlite" else nullcontext()
        )

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; durable when the block ends. Raises Unreachable."""
        with self._one_writer, self._transaction(writes=True) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads one moment's state. Raises Unreachable."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def read_within(
        self, seconds_max: float, is_stopped: Callable[[], bool]
    ) -> Iterator[Connection]:
        """The same, given up in the middle of a statement when its time is over or nobody waits.

        Raises Exhausted then.
        """
        watched: Watched | None = None
        try:
            with self.read() as connection:
                watched = Watched(connection, time.monotonic() + seconds_max, is_stopped)
                with self._watch.over(watched):
                    yield connection
        except Unreachable as error:
            if watched is None or not watched.is_given_up:
                raise
            raise Exhausted("the search takes too long", seconds_max=seconds_max) from error

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        try:
            with self.engine.connect() as connection:
                connection.execution_options(isocenter_writes=writes)
                if self.dialect == "postgresql" and not writes:
                    # Else each statement would see a moment of its own, as writers want it.
                    connection.execution_options(
                        isolation_level="REPEATABLE READ", postgresql_readonly=True
                    )
                with connection.begin():
                    yield connection
        except (DBAPIError, PoolTimeout) as error:
            raise _translated(error) from error

    def migrate(self) -> None:
        """Bring the schema to this release's. Raises Unreachable."""
        config = Config()
        config.set_main_option("script_location", str(_migrations()))
        try:
            with self.engine.connect() as connection:
                connection.execution_options(isocenter_writes=True)
                config.attributes["connection"] = connection
                with connection.begin():
                    self._wait_for_other_migrators(connection)
                    command.upgrade(config, "head")
        except DBAPIError as error:
            raise _translated(error) from error

    def _wait_for_other_migrators(self, connection: Connection) -> None:
        """Let one process migrate at a time. SQLite's transaction that writes does so already."""
        if self.dialect == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})

    def maintain(self) -> int:
        """Let SQLite look at what it holds, so that it picks the right index; PostgreSQL does so
        by itself.
        """
        if self.dialect == "sqlite":
            with self.write() as connection:
                connection.exec_driver_sql(f"PRAGMA analysis_limit = {ANALYSED_ROWS_MAX}")
                connection.exec_driver_sql("ANALYZE")
        return 0

    def check(self) -> None:
        """Return if the index answers. Raises Unreachable."""
        with self.read() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every connection."""
        self._watch.close()
        self.engine.dispose()


def open_index(url: str) -> Index:
    """The index of `sqlite:///PATH` or `postgresql+psycopg://…`, its schema up to date."""
    try:
        parsed = make_url(url)
        engine = _engine(parsed)
    except (ArgumentError, ImportError) as error:
        raise BadQuery("an index is sqlite:///FILE or postgresql+psycopg://…") from error
    index = Index(engine)
    index.migrate()
    return index


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(
            url,
            pool_size=CONNECTIONS_MAX,
            max_overflow=0,
            pool_timeout=CONNECTION_WAIT_S,
            pool_pre_ping=True,
            # Several workers may race; what a row shows is what has been committed.
            isolation_level="READ COMMITTED",
        )
    if url.database in (None, "", ":memory:"):
        raise BadQuery("an index in SQLite needs a file: sqlite:///FILE")
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        pool_size=CONNECTIONS_MAX,
        max_overflow=0,
        pool_timeout=CONNECTION_WAIT_S,
        connect_args={"timeout": WRITER_WAIT_S, "check_same_thread": False},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - sqlite3's own, behind SQLAlchemy's event
    # The driver's own BEGIN comes too late for a writer, so transactions begin in _begin_sqlite.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        # FULL: a commit survives a power cut. NORMAL would not promise it (docs/promises.md).
        "synchronous = FULL",
        "foreign_keys = ON",
        "cache_size = -65536",
        "mmap_size = 268435456",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get("isocenter_writes", False):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        # It locks nothing and reads nothing, so it cannot fail; what SQLAlchemy does around a
        # statement would cost more than it does.
        cast(Any, connection.connection.driver_connection).execute("BEGIN")


def _migrations() -> Path:
    return Path(str(resources.files("pacs.index") / "migrations"))


def _translated(error: SQLAlchemyError) -> NodeError:
    """A database's error in our words; the driver's text may hold values and is not repeated."""
    text_of_driver = str(getattr(error, "orig", "")).lower()
    if "disk is full" in text_of_driver or "no space left" in text_of_driver:
        return Exhausted("the index's disk is full")
    if "readonly" in text_of_driver or "permission denied" in text_of_driver:
        return Forbidden("the index may not be written")
    if isinstance(error, OperationalError | PoolTimeout):
        return Unreachable("the index does not answer")
    return Unreachable("the index refused a statement", error=type(error).__name__)
