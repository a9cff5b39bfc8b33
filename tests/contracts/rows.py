"""Rows in an index without an archive above it."""

from __future__ import annotations

from typing import Any

from pydicom import Dataset

from pacs.dicom.attributes import INDEXED, Level
from pacs.dicom.matching import Query, parse_key
from pacs.dicom.part10 import scan
from pacs.index import Index, catalog, queries
from pacs.index.catalog import Kept
from tests import make


def kept(name: object, *, made_by: str = "") -> Kept:
    """What the store is said to hold under a name."""
    digest = f"{abs(hash(name)):064x}"[-64:]
    return Kept(digest, 100, digest, 10, make.EXPLICIT, b"", 1.5, made_by)


def enter(index: Index, *data_sets: Dataset, archive: str = "main") -> int:
    """Enter data sets in one transaction; the archive's id."""
    with index.write() as connection:
        archive_id = catalog.archive_id(connection, archive)
        for made in data_sets:
            values = catalog.described(scan(make.data_set_bytes(made), make.EXPLICIT))
            catalog.add_instance(connection, archive_id, values, kept(made.SOPInstanceUID))
    return archive_id


def search(
    index: Index,
    level: Level = Level.STUDY,
    *,
    limit: int = 100,
    offset: int = 0,
    fuzzy: bool = False,
    archive: str = "main",
    combined: bool = False,
    empty: bool = False,
    multiple: bool = False,
    **keys: str,
) -> list[dict[str, Any]]:
    """The rows that keys given by keyword find."""
    parsed = {
        INDEXED[key]: parse_key(INDEXED[key], text, fuzzy=fuzzy, empty=empty, multiple=multiple)
        for key, text in keys.items()
    }
    with index.write() as connection:
        archive_id = catalog.archive_id(connection, archive)
    with index.read() as connection:
        rows, _ = queries.search(
            connection, archive_id, Query(level, parsed, limit, offset, combined=combined)
        )
    return rows
