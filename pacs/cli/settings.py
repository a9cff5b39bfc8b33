"""`isocenter config`: every setting in force."""

from __future__ import annotations

from pacs import config as settings
from pacs.cli.shared import ConfigOption, DataOption, JsonOption, out, print_json, table


def config(data: DataOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Every setting in force, where it came from, secrets masked."""
    overrides = {} if data is None else {"data": data}
    in_force = settings.in_force(*settings.load(file=config, overrides=overrides))
    if json:
        print_json(in_force)
        return
    shown = table("setting", "value", "from", "meaning")
    for key, facts in in_force.items():
        shown.add_row(key, str(facts["value"]), facts["from"], facts["description"])
    for column in shown.columns:
        column.overflow = "fold"
    out.print(shown)
