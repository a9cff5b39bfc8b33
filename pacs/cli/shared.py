"""What commands share: options, settings, tables and progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pacs import config as settings
from pacs.access import Actor
from pacs.archive.upkeep import Progress as Tell
from pacs.config import Config
from pacs.node import Node, compose

OPERATOR: Final = Actor("operator", "command line")

DataOption = Annotated[
    Path | None, typer.Option("--data", help="The node's folder (default: ./isocenter-data).")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A settings file (default: ./isocenter.toml).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

out: Final = Console(soft_wrap=True, highlight=False)


def say(line: str) -> None:
    """One line for people, on standard error."""
    sys.stderr.write(line + "\n")


def print_json(value: object) -> None:
    """A value for programs, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def table(*headings: str) -> Table:
    """A plain table for people."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading)
    return made


def configured(
    data: Path | None,
    file: Path | None,
    **overrides: Any,  # noqa: ANN401 - settings of any kind
) -> Config:
    """The settings in force for a command. Raises BadQuery."""
    given = {"data": data, **overrides}
    wanted = {key: value for key, value in given.items() if value is not None}
    return settings.load(file=file, overrides=wanted)[0]


@contextmanager
def opened(data: Path | None, file: Path | None) -> Iterator[Node]:
    """This machine's node, without its doors. Raises NodeError."""
    node = compose(configured(data, file))
    try:
        yield node
    finally:
        node.close()


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Tell]:
    """A bar on a terminal; elsewhere one line at the end."""
    console = Console(stderr=True)
    if not console.is_terminal:
        last = [0]

        def note(done: int, _all: int) -> None:
            last[0] = done

        yield note
        say(f"{what}: {last[0]}")
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, every: bar.update(task, completed=done, total=every or total)
