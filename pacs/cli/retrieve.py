"""`isocenter find`, `isocenter get` and `isocenter export`: ask, fetch, and take out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.text import Text

from pacs.access import Action, Actor
from pacs.archive import Archive, Incoming, Scope
from pacs.archive.upkeep import Progress as Tell
from pacs.cli.shared import (
    OPERATOR,
    ConfigOption,
    DataOption,
    JsonOption,
    configured,
    opened,
    out,
    print_json,
    progress,
    table,
)
from pacs.dicom.attributes import INDEXED, Level
from pacs.dicom.matching import Query, parse_key
from pacs.dimse import query_scu
from pacs.dimse.query_scu import Matches, Retrieval
from pacs.dimse.scu import Peer
from pacs.errors import BadQuery, Missing, Unreachable
from pacs.export import Exported, Folder, export
from pacs.node import Node
from pacs.peers import ANYWHERE

LEVELS: Final = {level.name.lower(): level for level in Level}
STUDIES_MAX: Final = 1_000_000  # of one export of everything; further ones are left out

# What a table shows of each level where nothing else is asked for.
_SHOWN: Final[Mapping[Level, Sequence[str]]] = {
    Level.PATIENT: ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    Level.STUDY: (
        *("PatientName", "PatientID", "StudyDate", "ModalitiesInStudy", "StudyDescription"),
        *("NumberOfStudyRelatedInstances", "StudyInstanceUID"),
    ),
    Level.SERIES: (
        *("Modality", "SeriesNumber", "SeriesDescription"),
        *("NumberOfSeriesRelatedInstances", "SeriesInstanceUID"),
    ),
    Level.INSTANCE: ("InstanceNumber", "SOPClassUID", "SOPInstanceUID"),
}

LevelOption = Annotated[
    Literal["patient", "study", "series", "instance"], typer.Option("--level", help="What to find.")
]
FromOption = Annotated[
    str, typer.Option("--from", help="The peer: HOST:PORT, or the AE title of a listed one.")
]
AetOption = Annotated[
    str, typer.Option("--aet", help="The AE title of a peer that is given as HOST:PORT.")
]
SeriesOption = Annotated[str, typer.Option("--series", help="One series alone: its UID.")]
InstanceOption = Annotated[str, typer.Option("--instance", help="One instance of it: its UID.")]


def find(
    keys: Annotated[
        list[str] | None, typer.Argument(help="KEYWORD=VALUE; a lone KEYWORD is only shown.")
    ] = None,
    level: LevelOption = "study",
    peer: FromOption = "",
    aet: AetOption = "ISOCENTER",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Rows at most.")] = 100,
    data: DataOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Find patients, studies, series or instances: with a peer, or here without --from."""
    wanted = _keys(keys or [])
    at = LEVELS[level]
    shown = list(dict.fromkeys((*_SHOWN[at], *wanted)))
    if peer:
        asked = dict.fromkeys(shown, "") | wanted
        with _called(peer, aet, data, config) as called:
            found = query_scu.find(called, at, asked, matches_max=limit)
    else:
        with opened(data, config) as node:
            found = _found_here(node.identified, at, wanted, limit)
    _show(found, shown, json)


def _keys(arguments: Sequence[str]) -> dict[str, str]:
    """Keyword -> value. Raises BadQuery for a keyword that comes twice."""
    pairs = [argument.partition("=") for argument in arguments]
    keys = {keyword: value for keyword, _, value in pairs}
    if len(keys) != len(pairs) or "" in keys:
        raise BadQuery("a key is KEYWORD=VALUE, and comes once")
    return keys


def _found_here(archive: Archive, level: Level, keys: Mapping[str, str], limit: int) -> Matches:
    """What this node's own archive holds. Raises BadQuery for what it cannot match."""
    unknown = [keyword for keyword in keys if keyword not in INDEXED]
    if unknown:
        raise BadQuery(f"{unknown[0]} is not in the index; docs/conformance.md lists what is")
    matched = {
        INDEXED[keyword]: parse_key(INDEXED[keyword], value)
        for keyword, value in keys.items()
        if value
    }
    answer = archive.search(OPERATOR, Query(level, matched, limit))
    rows = [{name: _text(value) for name, value in row.items()} for row in answer.rows]
    return Matches(rows, answer.more)


def _text(value: object) -> str:
    if isinstance(value, tuple | list):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def _show(found: Matches, columns: Sequence[str], json: bool) -> None:
    """The rows as a table for people, or all that is known of them for programs."""
    if json:
        print_json(
            {"matches": found.rows, "more": found.more, "unreadable_answers": found.unreadable}
        )
        return
    shown = table(*columns)
    for column in shown.columns:
        column.no_wrap = str(column.header).endswith("UID")  # it is there to be copied
        column.overflow = "fold"
    for row in found.rows:
        shown.add_row(*(_printable(row.get(column, "")) for column in columns))
    out.print(shown)
    more = ", more exist: raise --limit or narrow the keys" if found.more else ""
    unreadable = f", {found.unreadable} answers unreadable" if found.unreadable else ""
    out.print(f"{len(found.rows)} found{more}{unreadable}")


def _printable(text: str) -> Text:
    """Somebody else's text without what a terminal would obey."""
    return Text("".join(c if c.isprintable() else " " for c in text))


def get(
    study: Annotated[str, typer.Argument(help="The UID of a study.", metavar="STUDY")],
    peer: FromOption,
    series: SeriesOption = "",
    instance: InstanceOption = "",
    to: Annotated[
        Path | None, typer.Option("--to", help="A new folder for the files (default: the archive).")
    ] = None,
    move_to: Annotated[
        str, typer.Option("--move-to", help="Have the peer send it to this AE title instead.")
    ] = "",
    aet: AetOption = "ISOCENTER",
    data: DataOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch from a peer by C-GET into this node's own archive, or into a folder."""
    scope = Scope(study, series, instance)
    if to is not None and move_to:
        raise BadQuery("--to and --move-to exclude each other")
    with _called(peer, aet, data, config) as called, progress("Fetching") as tell:
        if move_to:
            found = query_scu.move(called, scope, move_to, tell=tell)
        elif to is not None:
            folder = Folder(to)
            found = query_scu.get(called, scope, folder.keep, tell=tell, spool=folder.path)
        else:
            with opened(data, config) as node:
                found = _into_archive(node, called, scope, tell)
    _tell_fetched(found, json)


def _into_archive(node: Node, called: Peer, scope: Scope, tell: Tell) -> Retrieval:
    """Fetch into the archive; it is the peer from whom each instance is said to come."""
    actor = Actor("peer", called.called_ae_title, called.host, actions=frozenset({Action.STORE}))

    def keep(incoming: Incoming, expect: Mapping[str, str]) -> str:
        return node.identified.store(actor, incoming, expect=expect).warning

    return query_scu.get(called, scope, keep, tell=tell, spool=node.spool)


def _tell_fetched(found: Retrieval, json: bool) -> None:
    """What came and what did not; exit code 1 unless all of it did."""
    if json:
        print_json(asdict(found) | {"is_whole": found.is_whole})
    else:
        sentence = f"{found.kept} kept, {found.refusals} refused here, {found.failed} failed there"
        out.print(sentence if not found.reason else f"{sentence}: {found.reason}", markup=False)
        for uid, reason in found.refused:
            out.print(f"  {uid}: {reason}", markup=False)
    if not found.is_whole:
        raise typer.Exit(1)


def export_(
    to: Annotated[Path, typer.Option("--to", help="A new or empty folder.")],
    studies: Annotated[
        list[str] | None, typer.Argument(help="UIDs of studies.", metavar="STUDY…")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every study.")] = False,
    project: Annotated[
        str, typer.Option("--deidentified", help="The copies of this research project.")
    ] = "",
    data: DataOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write studies of the archive, or de-identified copies of them, into a folder."""
    if bool(studies) == everything:
        raise BadQuery("name the studies to export, or say --all")
    with opened(data, config) as node:
        archive = _archive(node, project)
        wanted = list(studies or []) or _every_study(archive)
        outcomes, missing = _exported(archive, wanted, Folder(to))
    _tell_exported(outcomes, missing, json)


def _archive(node: Node, project: str) -> Archive:
    """The identified archive, or that of a project. Raises BadQuery."""
    if not project:
        return node.identified
    if project not in node.projects:
        raise BadQuery("there is no such research project")
    return node.projects[project].archive


def _every_study(archive: Archive) -> list[str]:
    query = Query(Level.STUDY, limit=STUDIES_MAX)
    return [str(row["StudyInstanceUID"]) for page in archive.pages(OPERATOR, query) for row in page]


def _exported(
    archive: Archive, studies: Sequence[str], folder: Folder
) -> tuple[list[Exported], list[str]]:
    """What became of each instance, and the studies that are not there."""
    outcomes: list[Exported] = []
    missing = []
    with progress("Exporting") as tell:
        for study in studies:
            try:
                for outcome in export(OPERATOR, archive, Scope(study), folder):
                    outcomes.append(outcome)
                    tell(len(outcomes), 0)
            except Missing:
                missing.append(study)
    return outcomes, missing


def _tell_exported(outcomes: Sequence[Exported], missing: Sequence[str], json: bool) -> None:
    """What was written and what was not; exit code 1 unless all of it was."""
    failed = [one for one in outcomes if not one.name]
    if json:
        print_json({"files": [asdict(one) for one in outcomes], "missing_studies": missing})
    else:
        out.print(f"{len(outcomes) - len(failed)} written, {len(failed)} failed")
        for one in failed:
            out.print(f"  {one.sop_instance_uid}: {one.reason}", markup=False)
        for study in missing:
            out.print(f"  {study}: not here", markup=False)
    if failed or missing:
        raise typer.Exit(1)


@contextmanager
def _called(peer: str, aet: str, data: Path | None, config: Path | None) -> Iterator[Peer]:
    """The peer that --from names. Raises BadQuery, and Missing for a title that is not listed."""
    host, _, port = peer.rpartition(":")
    if host and port.isascii() and port.isdigit():
        name = host.removeprefix("[").removesuffix("]")
        yield Peer(name, int(port), aet, configured(data, config).dimse.aet)
        return
    with opened(data, config) as node:
        listed = node.peers.get(peer)
        if listed.host in ANYWHERE:
            raise BadQuery("this peer has no host that could be called")
        try:
            yield Peer.listed(listed, node.config.dimse.aet, node.credentials)
        except Unreachable as error:
            node.peers.note(listed.ae_title, error.message)
            raise
        node.peers.note(listed.ae_title)
