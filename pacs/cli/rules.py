"""`isocenter rules …`: what is forwarded to which peer, and when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
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
from pacs.forwarding import Rule, Trigger

app: Final = typer.Typer(help="What is forwarded to which peer.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The rule's name.", metavar="NAME")]


@app.command("list")
def list_(data: DataOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """The rules, by name."""
    with opened(data, config) as node:
        rules = node.forwarding.rules()
    if json:
        print_json({"rules": [_row(rule) for rule in rules]})
        return
    shown = table("name", "to", "when", "of", "if", "commitment", "enabled")
    for rule in rules:
        shown.add_row(
            rule.name,
            rule.peer,
            rule.trigger.value,
            rule.project or "received studies",
            "; ".join(f"{key}={', '.join(given)}" for key, given in rule.conditions.items()) or "-",
            "yes" if rule.commitment else "no",
            "yes" if rule.enabled else "no",
        )
    out.print(shown)


def _row(rule: Rule) -> dict[str, Any]:
    columns = {name: getattr(rule, name) for name in Rule.__dataclass_fields__ if name != "since"}
    return columns | {"trigger": rule.trigger.value}


@app.command()
def add(
    name: Name,
    to: Annotated[str, typer.Option("--to", help="The AE title of a peer that may receive.")],
    on: Annotated[
        Trigger, typer.Option("--on", help="When: as it comes, complete, or AI results.")
    ],
    conditions: Annotated[
        list[str] | None,
        typer.Option("--if", help="KEYWORD=VALUE; repeated: every keyword, any of its values."),
    ] = None,
    project: Annotated[
        str, typer.Option("--project", help="Forward this project's de-identified copies.")
    ] = "",
    commitment: Annotated[
        bool, typer.Option("--commit", help="Ask the peer for storage commitment.")
    ] = False,
    disabled: Annotated[bool, typer.Option("--disabled", help="Let the rule rest.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Enter a rule, or replace what it says. It holds for what happens from now on."""
    wanted = _conditions(conditions or [])
    rule = Rule(name, to.strip(), on, wanted, project, commitment, not disabled)
    with opened(data, config) as node:
        is_new = node.forwarding.put(OPERATOR, rule)
    out.print(f"{name} {'added' if is_new else 'changed'}", markup=False)


def _conditions(given: Iterable[str]) -> dict[str, list[str]]:
    """KEYWORD=VALUE words as conditions. Raises BadQuery."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for word in given:
        keyword, equals, value = word.partition("=")
        if not equals:
            raise BadQuery("a condition is KEYWORD=VALUE, like Modality=CT")
        found[keyword.strip()].append(value)
    return dict(found)


@app.command()
def remove(name: Name, data: DataOption = None, config: ConfigOption = None) -> None:
    """Remove a rule; what is on its way goes on."""
    with opened(data, config) as node:
        node.forwarding.remove(OPERATOR, name)
    out.print(f"{name} removed", markup=False)


@app.command("test")
def dry_run(
    name: Name,
    days: Annotated[float, typer.Option("--days", min=0, help="How far to look back.")] = 7.0,
    data: DataOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """A dry run: the newest studies of the last days of which a rule would forward something."""
    with opened(data, config) as node:
        found = node.forwarding.test(OPERATOR, node.forwarding.get(name), days)
    if json:
        print_json({"studies": [asdict(study) for study in found]})
        return
    shown = table("study", "instances", "last received")
    for study in found:
        at = datetime.fromtimestamp(study.last_received_at, UTC)
        when = at.strftime("%Y-%m-%d %H:%M UTC")
        shown.add_row(study.study_instance_uid, str(study.instances), when)
    out.print(shown)
