"""`isocenter recycled …`: what was deleted and is still kept."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from pacs.archive import Archive, recycle
from pacs.archive.recycle import LISTED_MAX
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
from pacs.errors import Missing
from pacs.node import Node

app: Final = typer.Typer(help="What was deleted and is still kept.", no_args_is_help=True)

Number = Annotated[int, typer.Argument(help="The deletion's number.", metavar="NUMBER", min=1)]
ProjectOption = Annotated[
    str, typer.Option("--project", help="A research project (default: the identified archive).")
]


@app.command("list")
def list_(
    project: ProjectOption = "",
    data: DataOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """The deletions that can be taken back, newest first."""
    with opened(data, config) as node:
        archive = _archive(node, project)
        found = recycle.listed(archive, OPERATOR, LISTED_MAX)
    if json:
        print_json({"deletions": [asdict(one) for one in found]})
        return
    shown = table("number", "deleted", "removed for good", "instances", "MB", "study", "part")
    for one in found:
        shown.add_row(
            str(one.id),
            _when(one.deleted_at),
            _when(one.deleted_at + archive.recycle_s),
            str(one.instances),
            f"{one.size_bytes / 1e6:.1f}",
            one.scope.study_instance_uid,
            one.scope.sop_instance_uid or one.scope.series_instance_uid or "all",
        )
    out.print(shown)


@app.command()
def restore(
    deletion: Number,
    project: ProjectOption = "",
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Give back what a deletion took away; what was stored again meanwhile stays as it is."""
    with opened(data, config) as node:
        done = recycle.restore(_archive(node, project), OPERATOR, deletion)
    out.print(f"{done.restored} instances restored, {done.left} left", markup=False)
    if done.left:
        raise typer.Exit(1)


@app.command()
def purge(
    deletion: Number,
    project: ProjectOption = "",
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove for good what a deletion took away."""
    with opened(data, config) as node:
        recycle.purge(_archive(node, project), OPERATOR, deletion)
    out.print(f"deletion {deletion} removed for good", markup=False)


def _archive(node: Node, project: str) -> Archive:
    if not project:
        return node.identified
    if project not in node.projects:
        raise Missing("there is no such project here")
    return node.projects[project].archive


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
