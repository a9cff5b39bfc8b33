"""Who acts, and what they may do: values and one pure function.

*Who are you* belongs to each door. *May you* is answered here, and asked by every verb of the
archive, whose first argument is the actor.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique


@unique
class Action(Enum):
    """The verbs of the archive, and of the services beside it."""

    STORE = "store"
    SEARCH = "search"
    RETRIEVE = "retrieve"
    DELETE = "delete"
    VERIFY = "verify"
    WORKITEMS = "workitems"  # create, find, change and watch them (PS3.4 annex CC)
    WORKLIST = "worklist"  # ask what is scheduled
    SCHEDULE = "schedule"  # say what is scheduled
    PERFORM = "perform"  # tell of procedure steps that are performed


EVERY_ACTION = frozenset(Action)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and whence: one person, peer or part of this node.

    `name` is an AE title, a user's subject or a part's name; `address` is where the request came
    from, empty for the node itself; `implementation` is the peer's implementation version name
    (PS3.7 D.3.3.2.3) or its user agent.
    """

    kind: str  # "peer" (DIMSE), "user" (HTTP), "node" (a part of this node), "operator" (command line)
    name: str
    address: str = ""
    implementation: str = ""
    actions: frozenset[Action] = EVERY_ACTION


def permits(actor: Actor, action: Action) -> bool:
    """Whether actor may do action. Local mode gives every actor every action."""
    return action in actor.actions
