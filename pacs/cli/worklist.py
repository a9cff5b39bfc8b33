"""`isocenter worklist …`: what is scheduled, for scanners to ask."""

from __future__ import annotations

import json as jsons
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from pacs.cli.shared import (
    OPERATOR,
    ConfigOption,
    DataOption,
    JsonOption,
    opened,
    out,
    print_json,
    table,
)
from pacs.dicom.part10 import read_part10
from pacs.dicom.plain_json import plain_of
from pacs.dicom.small_sets import items_of, read_model, text_of
from pacs.errors import BadObject, BadQuery, NodeError
from pacs.worklist import Entry, Worklist

app: Final = typer.Typer(help="The worklist that scanners ask for.", no_args_is_help=True)

FILE_BYTES_MAX: Final = 64 << 20  # of one file; a larger one is refused
TAG_DIGITS: Final = 8  # of a key of DICOM JSON, where plain JSON has keywords


@app.command("import")
def import_(
    paths: Annotated[
        list[Path], typer.Argument(help="Files: DICOM (.dcm, .wl) or JSON (.json).", exists=True)
    ],
    data: DataOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Enter scheduled procedure steps from files; lists what was refused and why."""
    refused, entered = [], []
    with opened(data, config) as node:
        for path in paths:
            try:
                entered += [node.worklist.schedule(OPERATOR, one) for one in entries_in(path)]
            except NodeError as error:
                refused.append({"source": str(path), "reason": error.message})
    if json:
        rows = [{"id": one.id, "study_instance_uid": one.study_instance_uid} for one in entered]
        print_json({"entered": rows, "refused": refused})
    else:
        out.print(f"{len(entered)} entered, {len(refused)} refused")
        for one in refused:
            out.print(f"  {one['source']}: {one['reason']}", markup=False)
    if refused:
        raise typer.Exit(1)


def entries_in(path: Path) -> Iterator[dict[str, Any]]:
    """The entries in a file, as plain JSON. Raises BadObject, or BadQuery for bad JSON."""
    if path.stat().st_size > FILE_BYTES_MAX:
        raise BadObject("the file is too long", bytes_max=FILE_BYTES_MAX)
    content = path.read_bytes()
    if path.suffix.lower() != ".json":
        file = read_part10(content)
        yield plain_of(read_model(file.data_set, file.transfer_syntax_uid))
        return
    try:
        found = jsons.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadQuery("this is not JSON") from error
    for entry in found if isinstance(found, list) else [found]:
        if not isinstance(entry, dict):
            raise BadQuery("this is neither an entry nor a list of entries")
        yield _plain(entry) if _is_dicom_json(entry) else entry


def _is_dicom_json(entry: dict[str, Any]) -> bool:
    return bool(entry) and all(
        len(key) == TAG_DIGITS and isinstance(element, dict) and "vr" in element
        for key, element in entry.items()
    )


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    try:
        return plain_of(entry)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadQuery("this is not DICOM JSON") from error


@app.command("list")
def list_(data: DataOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Every entry by its start, on the list or not."""
    with opened(data, config) as node:
        entries = list(_every(node.worklist))
    if json:
        rows = [{"id": e.id, "status": e.status, "entry": plain_of(e.model)} for e in entries]
        print_json({"entries": rows})
        return
    shown = table("id", "start", "station", "modality", "status", "patient ID", "accession number")
    for entry in entries:
        shown.add_row(str(entry.id), *_cells(entry))
    out.print(shown)


def _every(worklist: Worklist) -> Iterator[Entry]:
    page = worklist.listed(OPERATOR, {})
    while page:
        yield from page
        page = worklist.listed(OPERATOR, {}, after=page[-1].position)


def _cells(entry: Entry) -> tuple[str, ...]:
    (step,) = items_of(entry.model, "ScheduledProcedureStepSequence")
    day, time = (text_of(step, f"ScheduledProcedureStepStart{part}") for part in ("Date", "Time"))
    return (
        f"{day[:4]}-{day[4:6]}-{day[6:]} {time[:2]}:{time[2:4] or '00'}",
        text_of(step, "ScheduledStationAETitle"),
        text_of(step, "Modality"),
        entry.status,
        text_of(entry.model, "PatientID"),
        text_of(entry.model, "AccessionNumber"),
    )
