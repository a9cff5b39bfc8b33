"""The command line: one small file per command, and here what they share.

Errors are one line that says what to do; `--debug` adds the trace. Exit codes: 0 done, 1 something
was refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import sys
from typing import Annotated, Final

import click
import typer

from pacs.cli import (
    commitments,
    deliveries,
    demo,
    models,
    peers,
    recycled,
    retrieve,
    rules,
    serve,
    settings,
    transfer,
    upkeep,
    worklist,
)
from pacs.cli.shared import say
from pacs.errors import BadQuery, NodeError

app: Final = typer.Typer(
    help="Isocenter: a DICOM imaging archive and AI inference node.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("send")(transfer.send)
app.command("import")(transfer.import_)
app.command("find")(retrieve.find)
app.command("get")(retrieve.get)
app.command("export")(retrieve.export_)
app.add_typer(models.app, name="models")
app.add_typer(peers.app, name="peers")
app.add_typer(rules.app, name="rules")
app.add_typer(deliveries.app, name="deliveries")
app.add_typer(worklist.app, name="worklist")
app.add_typer(recycled.app, name="recycled")
app.command("commitments")(commitments.commitments)
app.command("fsck")(upkeep.fsck)
app.command("rebuild")(upkeep.rebuild)
app.command("scrub")(upkeep.scrub)
app.command("config")(settings.config)


def _show_version(wanted: bool) -> None:
    if wanted:
        from pacs.node import version

        typer.echo(f"isocenter {version()}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """What stands before every command."""
    del debug, version  # both are read elsewhere: the one by main, the other by its callback


def main() -> None:
    """Run a command and turn what it raises into one line and an exit code."""
    try:
        app()
    except NodeError as error:
        if "--debug" in sys.argv:
            raise
        facts = ", ".join(f"{key}={value}" for key, value in error.facts.items())
        say(f"isocenter: {error.message}{f' ({facts})' if facts else ''}")
        raise SystemExit(2 if isinstance(error, BadQuery) else 1) from None
    except click.exceptions.Abort:
        raise SystemExit(1) from None
