"""`isocenter send` and `isocenter import`: instances into a node, over the network or not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pacs.archive import Archive, Incoming
from pacs.cli.shared import (
    OPERATOR,
    ConfigOption,
    DataOption,
    JsonOption,
    opened,
    out,
    print_json,
    progress,
)
from pacs.dicom.part10 import read_part10
from pacs.dimse import scu
from pacs.dimse.scu import Peer, SendOutcome, Source
from pacs.errors import BadQuery, NodeError

Paths = Annotated[list[Path], typer.Argument(help="Files, folders and zip archives.", exists=True)]


def send(
    paths: Paths,
    to: Annotated[str, typer.Option("--to", help="HOST:PORT of the receiver.")],
    aet: Annotated[str, typer.Option("--aet", help="The receiver's AE title.")] = "ISOCENTER",
    json: JsonOption = False,
) -> None:
    """Send instances by C-STORE; lists what was refused and why."""
    host, _, port = to.rpartition(":")
    if not host or not port.isdigit():
        raise BadQuery("--to is HOST:PORT")
    sources = list(scu.find(paths))
    _report(scu.send(sources, Peer(host, int(port), aet)), "Sending", len(sources), json)


def import_(
    paths: Paths,
    data: DataOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Take instances into this node's own archive, without a network."""
    sources = list(scu.find(paths))
    with opened(data, config) as node:
        outcomes = (_import(node.identified, source) for source in sources)
        _report(outcomes, "Importing", len(sources), json)


def _import(archive: Archive, source: Source) -> SendOutcome:
    try:
        file = read_part10(scu.content(source))
        stored = archive.store(OPERATOR, Incoming(file.data_set, file.transfer_syntax_uid))
    except NodeError as error:
        return SendOutcome(source.label, None, error.message)
    return SendOutcome(source.label, 0xB007 if stored.warning else 0, stored.warning)


def _report(outcomes: Iterable[SendOutcome], what: str, total: int, json: bool) -> None:
    """Progress meanwhile, and at the end what was refused; exit code 1 if anything was."""
    found = []
    with progress(what, total) as tell:
        for outcome in outcomes:
            found.append(outcome)
            tell(len(found), total)
    refused = [outcome for outcome in found if not outcome.is_stored]
    if json:
        print_json(
            {
                "stored": len(found) - len(refused),
                "refused": [
                    {"source": one.label, "status": one.status, "reason": one.comment}
                    for one in refused
                ],
            }
        )
    else:
        out.print(f"{len(found) - len(refused)} stored, {len(refused)} refused")
        for outcome in refused:
            status = "" if outcome.status is None else f"{outcome.status:04X} "
            out.print(f"  {outcome.label}: {status}{outcome.comment}", markup=False)
    if refused:
        raise typer.Exit(1)
