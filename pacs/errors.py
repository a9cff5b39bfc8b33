"""The error tree, sorted by who must act.

    NodeError
    ├── Refused          the caller must change the request
    │   ├── BadObject    the bytes are no instance we can keep
    │   │   └── Mismatch     the data set is not what its envelope announced
    │   ├── BadQuery     a key or value that cannot be matched
    │   ├── Forbidden    this actor may not do this
    │   ├── Missing      there is no such thing here
    │   │   └── Gone         it was here, and was deleted
    │   └── Conflict     it is here already, and different; or somebody else was first
    ├── Unavailable      time must pass; trying again is right
    │   ├── Exhausted    a limit of ours is reached
    │   └── Unreachable  a peer, the database or the store does not answer
    └── Broken           the operator must act
        ├── Corrupt      bytes do not have the digest they were stored under
        └── BadModel     a model's files and its manifest disagree

The queue's rule follows: retry `Unavailable`, never `Refused`, be loud about `Broken`.
"""

from __future__ import annotations

Fact = str | int | float


class NodeError(Exception):
    """Something this node knows how to name.

    The message must hold no patient's data: it reaches logs, peers and browsers. `facts` are
    identifiers and figures (UIDs, limits, counts), never names, IDs or dates of patients.
    A class's docstring is its default message.
    """

    def __init__(self, message: str = "", **facts: Fact) -> None:
        self.message = message or str(type(self).__doc__).partition("\n")[0].rstrip(".")
        self.facts = facts
        super().__init__(self.message)


class Refused(NodeError):
    """The request must be changed."""


class BadObject(Refused):
    """The bytes are not a DICOM instance that can be kept."""


class Mismatch(BadObject):
    """The data set is not what its envelope announced."""


class BadQuery(Refused):
    """A key or value cannot be matched."""


class Forbidden(Refused):
    """This actor may not do this."""


class Missing(Refused):
    """There is no such thing here."""


class Gone(Missing):
    """It was here, and was deleted."""


class Conflict(Refused):
    """It is here already, and different."""


class Unavailable(NodeError):
    """Not now; trying again later is right."""


class Exhausted(Unavailable):
    """A limit of this node is reached."""


class Unreachable(Unavailable):
    """A peer, the database or the store does not answer."""


class Broken(NodeError):
    """An operator must act."""


class Corrupt(Broken):
    """Stored bytes no longer have the digest they were stored under."""


class BadModel(Broken):
    """A model's files and its manifest disagree."""
