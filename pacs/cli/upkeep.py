"""`isocenter fsck`, `rebuild` and `scrub`: looking after what is kept."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import typer

from pacs.archive import Problem, upkeep
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

CLEAN: Final = "clean"


def fsck(data: DataOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Compare index and store, jobs, results and the audit chain."""
    with opened(data, config) as node:
        found = {archive.name: upkeep.fsck(archive) for archive in node.archives}
    _report(found, json)


def rebuild(data: DataOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Make the index anew from the store alone. Stop the node first."""
    found = {}
    with opened(data, config) as node:
        for archive in node.archives:
            with progress(f"Entering {archive.name}") as tell:
                found[archive.name] = upkeep.rebuild(archive, OPERATOR, tell)
    _report(found, json)


def scrub(data: DataOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Read every byte again and compare it with its digest."""
    found = {}
    with opened(data, config) as node:
        for archive in node.archives:
            with progress(f"Reading {archive.name}") as tell:
                found[archive.name] = upkeep.scrub(archive, tell)
    _report(found, json)


def _report(found: dict[str, list[Problem]], json: bool) -> None:
    """What was found, and the exit code that says so."""
    problems = [problem for every in found.values() for problem in every]
    if json:
        listed = {name: [asdict(problem) for problem in every] for name, every in found.items()}
        print_json({CLEAN: not problems, "archives": listed})
    for name, every in ({} if json else found).items():
        out.print(f"{name}: {f'{len(every)} problems' if every else CLEAN}")
        for problem in every:
            out.print(f"  {problem.code}: {problem.sentence} {problem.subject}".rstrip())
    if problems:
        raise typer.Exit(1)
