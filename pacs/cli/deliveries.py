"""`isocenter deliveries …`: what is on its way to peers, what arrived, and what did not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
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
from pacs.forwarding import STANDINGS, Delivery, Forwarding, standing

app: Final = typer.Typer(help="What is on its way to peers.", no_args_is_help=True)

Number = Annotated[int, typer.Argument(help="The delivery's number.", metavar="[ID]")]
PeerOption = Annotated[str, typer.Option("--peer", help="Of this peer only.", metavar="AET")]


@app.command("list")
def list_(
    peer: PeerOption = "",
    state: Annotated[str, typer.Option("--state", help=f"One of {', '.join(STANDINGS)}.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, the newest.")] = 100,
    data: DataOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Deliveries by study, newest first, and in all by peer."""
    with opened(data, config) as node:
        found = node.forwarding.deliveries(peer=peer, state=state, limit=limit)
        traffic = node.forwarding.traffic()
    if json:
        print_json(
            {
                "peers": [asdict(one) for one in traffic],
                "deliveries": [_row(one) for one in found],
            }
        )
        return
    in_all = table("peer", "waiting", "delivered", "failed")
    for one in traffic:
        in_all.add_row(one.peer, str(one.waiting), str(one.delivered), str(one.failed))
    shown = table("id", "peer", "study", "state", "waiting", "delivered", "refused", "reason")
    for delivery in found:
        row = _row(delivery)
        shown.add_row(*(str(row[name]) for name in _SHOWN), row["reason"] or "-")
    out.print(in_all, "", shown)


_SHOWN: Final = (
    "id",
    "peer",
    "study_instance_uid",
    "state",
    "waiting",
    "delivered",
    "refused",
)


def _row(delivery: Delivery) -> dict[str, Any]:
    job = delivery.job
    return {
        "id": job.id,
        "peer": job.lane,
        "archive": job.archive,
        "study_instance_uid": job.study_instance_uid,
        "state": standing(delivery),
        "waiting": delivery.waiting,
        "delivered": delivery.delivered,
        "refused": delivery.refused,
        "lost": delivery.lost,
        "attempts": job.attempts,
        "reason_code": job.reason_code,
        "reason": job.reason,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
    }


@app.command()
def retry(
    delivery: Number = 0,
    peer: PeerOption = "",
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Try a delivery again at once, or all that wait for a peer or failed."""
    with opened(data, config) as node:
        number = _ordered(node.forwarding, Forwarding.retry, delivery, peer)
    out.print(f"{number} to be tried again", markup=False)


@app.command()
def cancel(
    delivery: Number = 0,
    peer: PeerOption = "",
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Send no more of a delivery, or of any to a peer."""
    with opened(data, config) as node:
        number = _ordered(node.forwarding, Forwarding.cancel, delivery, peer)
    out.print(f"{number} cancelled", markup=False)


def _ordered(forwarding: Forwarding, order: Callable[..., int], delivery: int, peer: str) -> int:
    """Give an order on one delivery or on a peer's. Raises BadQuery for both or neither."""
    if bool(delivery) == bool(peer):
        raise BadQuery("name one delivery by its number, or a peer with --peer")
    return order(forwarding, OPERATOR, delivery=delivery, peer=peer)
