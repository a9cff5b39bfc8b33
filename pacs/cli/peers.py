"""`isocenter peers …`: who may ask what of this node, and whom it may call."""

from __future__ import annotations

from datetime import UTC, datetime
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
from pacs.errors import BadQuery
from pacs.peers import Peer, Right, rights_of

app: Final = typer.Typer(help="The DICOM peers of this node.", no_args_is_help=True)

_RIGHTS: Final = ", ".join(right.value for right in Right)

AeTitle = Annotated[str, typer.Argument(help="The peer's AE title.", metavar="AET")]


@app.command("list")
def list_(data: DataOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """The peers, what each may do, and what was last heard of it."""
    with opened(data, config) as node:
        peers = node.peers.list()
    if json:
        print_json({"peers": [_row(peer) for peer in peers]})
        return
    shown = table("AE title", "host", "port", "TLS", "may", "last association", "last error")
    for peer in peers:
        shown.add_row(
            peer.ae_title,
            peer.host or "*",
            str(peer.port or "-"),
            "yes" if peer.tls else "no",
            ", ".join(sorted(right.value for right in peer.rights)) or "echo only",
            _when(peer.last_association_at),
            f"{_when(peer.last_error_at)} {peer.last_error}" if peer.last_error else "-",
        )
    out.print(shown)


def _row(peer: Peer) -> dict[str, Any]:
    columns = {name: getattr(peer, name) for name in Peer.__dataclass_fields__}
    return columns | {"rights": sorted(right.value for right in peer.rights)}


def _when(at: float | None) -> str:
    return "never" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


@app.command()
def add(
    ae_title: AeTitle,
    address: Annotated[
        str, typer.Argument(help="HOST:PORT; * for a peer that calls from anywhere.")
    ],
    may: Annotated[str, typer.Option("--may", help=f"Some of {_RIGHTS}; with commas.")] = "",
    tls: Annotated[bool, typer.Option("--tls", help="Call it by TLS.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Enter a peer, or replace what is said of it."""
    rights = rights_of(word.strip() for word in may.split(",") if word.strip())
    peer = Peer(ae_title, *_host_and_port(address), tls, rights)
    with opened(data, config) as node:
        is_new = node.peers.put(OPERATOR, peer)
    out.print(f"{ae_title} {'added' if is_new else 'changed'}", markup=False)


def _host_and_port(address: str) -> tuple[str, int]:
    """HOST:PORT, [IPV6]:PORT or a lone `*`. Raises BadQuery."""
    if address == "*":
        return address, 0
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()):
        raise BadQuery("a peer's address is HOST:PORT, or * for one that calls from anywhere")
    return host.removeprefix("[").removesuffix("]"), int(port)


@app.command()
def remove(ae_title: AeTitle, data: DataOption = None, config: ConfigOption = None) -> None:
    """Remove a peer: from now on it is an unknown caller."""
    with opened(data, config) as node:
        node.peers.remove(OPERATOR, ae_title)
    out.print(f"{ae_title} removed", markup=False)


@app.command()
def echo(
    ae_title: AeTitle,
    data: DataOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Ask a peer whether it is there; exit 1 with the reason if it does not answer."""
    with opened(data, config) as node:
        told = node.echo(ae_title)
    if json:
        print_json(
            {"answered": told.is_answered, "reason": told.reason, "elapsed_ms": told.elapsed_ms}
        )
    elif told.is_answered:
        out.print(f"{ae_title} answers, after {told.elapsed_ms:.0f} ms", markup=False)
    else:
        out.print(f"{ae_title} does not answer: {told.reason}", markup=False)
    if not told.is_answered:
        raise typer.Exit(1)
