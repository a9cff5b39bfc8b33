"""Fill an index with very many studies, row by row and without a store: what a query reads.

`python -m bench.rows sqlite:////FOLDER/index.db --studies 1000000` writes the studies of
`bench.query.Made` with five series and five instances each, straight into the tables. No object
backs these rows, so such an index is good for searches and for nothing else.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, Table, insert

from bench.figures import Tell, tell
from bench.query import MODALITIES, STUDIES_PER_PATIENT, Made
from pacs.dicom.folding import canonical_time, folded
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN
from pacs.errors import NodeError
from pacs.index import Index, catalog, names, open_index
from pacs.index.schema import instances, name_tails, patients, series, studies
from pacs.node import IDENTIFIED

SERIES_PER_STUDY: Final = 5
STUDIES_AT_ONCE: Final = 10_000  # rows of one transaction
ROOT: Final = "1.2.826.0.1.3680043.8.498.77"
CT_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.2"

Rows = dict[Table, list[dict[str, Any]]]


def fill(index: Index, number: int, tell: Tell) -> None:
    """Write that many studies into an empty index."""
    with index.write() as connection:
        archive = catalog.archive_id(connection, IDENTIFIED)
    for first in range(0, number, STUDIES_AT_ONCE):
        tell(f"rows: {first:,} of {number:,} studies")
        with index.write() as connection:
            _write(connection, archive, range(first, min(first + STUDIES_AT_ONCE, number)))
    index.maintain()


def _write(connection: Connection, archive: int, numbers: range) -> None:
    rows: Rows = {table: [] for table in (patients, name_tails, studies, series, instances)}
    for number in numbers:
        for table, row in _rows_of(archive, number):
            rows[table].append(row)
    for table, found in rows.items():
        if found:
            connection.execute(insert(table), found)


def _rows_of(archive: int, number: int) -> Iterator[tuple[Table, dict[str, Any]]]:
    """The rows of one study; those of its patient as well, if it is the patient's first."""
    made, patient = Made.of(number), number // STUDIES_PER_PATIENT + 1
    if number % STUDIES_PER_PATIENT == 0:
        person = _patient(made)
        yield patients, {"id": patient, "archive_id": archive, **person}
        for tail in names.tails([person["PatientName_alphabetic"]]):
            yield name_tails, {"archive_id": archive, "tail": tail, "patient_id": patient}
    yield (
        studies,
        {"id": number + 1, "archive_id": archive, "patient_id": patient, **_study(made, number)},
    )
    modalities = [made.modality, *random.Random(number).choices(MODALITIES, k=SERIES_PER_STUDY - 1)]
    for serial in range(SERIES_PER_STUDY):
        key = number * SERIES_PER_STUDY + serial + 1
        one = {"id": key, "archive_id": archive, "study_id": number + 1}
        yield series, one | _series(number, serial, modalities[serial])
        yield (
            instances,
            {"id": key, "archive_id": archive, "series_id": key} | _instance(number, serial),
        )


def _patient(made: Made) -> dict[str, Any]:
    return {
        "PatientID": made.patient_id,
        "IssuerOfPatientID": "",
        "PatientName": made.patient_name,
        "PatientName_alphabetic": folded(made.patient_name),
        "PatientBirthDate": "19700101",
        "PatientSex": "O",
    }


def _study(made: Made, number: int) -> dict[str, Any]:
    return {
        "StudyInstanceUID": f"{ROOT}.{number}",
        "StudyDate": made.study_date,
        "StudyTime": "101112",
        "StudyTime_sorted": canonical_time("101112"),
        "AccessionNumber": made.accession_number,
        "StudyID": "1",
        "StudyDescription": "Follow-up",
        "ReferringPhysicianName": "Phantom^Referrer",
        "ReferringPhysicianName_alphabetic": "phantom^referrer",
        "state": catalog.COMPLETE,
        "generation": 1,
        "first_received_at": 0.0,
        "last_received_at": 0.0,
    }


def _series(number: int, serial: int, modality: str) -> dict[str, Any]:
    return {
        "SeriesInstanceUID": f"{ROOT}.{number}.{serial}",
        "Modality": modality,
        "SeriesNumber": serial,
        "SeriesDescription": "Axial",
    }


def _instance(number: int, serial: int) -> dict[str, Any]:
    digest = f"{number:032x}{serial:032x}"
    return {
        "SOPInstanceUID": f"{ROOT}.{number}.{serial}.1",
        "SOPClassUID": CT_IMAGE_STORAGE,
        "InstanceNumber": 1,
        "transfer_syntax_uid": EXPLICIT_VR_LITTLE_ENDIAN,
        "digest": digest,
        "size_bytes": 1,
        "data_set_digest": digest,
        "data_set_offset": 0,
        "frame_table": b"",
        "received_at": 0.0,
    }


def main(arguments: list[str] | None = None) -> int:
    """Fill the index that was named; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.rows", description=__doc__)
    parser.add_argument(
        "index", help="sqlite:///FILE or postgresql+psycopg://…; it should be empty"
    )
    parser.add_argument("--studies", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    try:
        index = open_index(options.index)
        fill(index, options.studies, tell)
        index.close()
    except NodeError as error:
        sys.stderr.write(f"bench.rows: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
