"""Fixtures of the real parts. `index` and `object_store` run a test on every back end in turn."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs.archive import Archive
from pacs.index import Index, open_index
from pacs.store import ObjectStore, open_store
from pacs.store.files import FileStore
from tests import parts


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[parts.PostgresqlServer]:
    """One PostgreSQL server for all tests."""
    with parts.postgresql_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[parts.S3Server]:
    """One S3 server for all tests."""
    with parts.s3_server() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: parts.PostgresqlServer) -> Iterator[str]:
    """A fresh database with the schema in it."""
    url = postgresql_server.new_database()
    yield url
    postgresql_server.drop(url)


@pytest.fixture
def s3_url(s3_server: parts.S3Server) -> str:
    """A fresh bucket."""
    return s3_server.new_bucket()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the schema in it, to be copied: that is quicker than migrating."""
    path = tmp_path_factory.mktemp("sqlite") / "index.db"
    open_index(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, migrated_file: Path) -> str:
    """A fresh database file with the schema in it."""
    shutil.copy(migrated_file, tmp_path / "index.db")
    return f"sqlite:///{tmp_path}/index.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def index(request: pytest.FixtureRequest) -> Iterator[Index]:
    """An empty index on each kind of database."""
    opened = open_index(request.getfixturevalue(f"{request.param}_url"))
    yield opened
    opened.close()


@pytest.fixture
def sqlite_index(sqlite_url: str) -> Iterator[Index]:
    """An empty index, where any database will do."""
    opened = open_index(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture(params=["files", "s3"])
def object_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store on each back end."""
    url = f"file://{tmp_path}" if request.param == "files" else request.getfixturevalue("s3_url")
    return open_store(url, "objects")


@pytest.fixture
def file_store(tmp_path: Path) -> FileStore:
    """An empty store, where any back end will do."""
    return FileStore(tmp_path / "objects")


@pytest.fixture
def archive(file_store: FileStore, sqlite_index: Index) -> Archive:
    """An empty archive, where any back end will do."""
    return Archive("main", file_store, sqlite_index)
