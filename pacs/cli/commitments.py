"""`isocenter commitments`: what peers were promised, and what they have promised us."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from pacs.cli.shared import ConfigOption, DataOption, JsonOption, opened, out, print_json, table
from pacs.commitment import STATES

LISTED: Final = 100  # the newest; the others are told by /api/commitments


def commitments(
    state: Annotated[str, typer.Option("--state", help=f"One of {', '.join(STATES)}.")] = "",
    data: DataOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """The newest requests for storage commitment, those of peers and those of ours."""
    with opened(data, config) as node:
        found = node.commitments.outstanding(state=state, limit=LISTED)
    if json:
        print_json({"commitments": [asdict(one) for one in found]})
        return
    shown = table("requested", "by", "of", "state", "instances", "failed", "reason")
    for one in found:
        by, of = (one.ae_title, "us") if one.role == "scp" else ("us", one.ae_title)
        at = datetime.fromtimestamp(one.requested_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        failed = "-" if one.ended_at is None else str(one.failed)
        shown.add_row(at, by, of, one.state, str(one.instances), failed, one.reason)
    out.print(shown)
