"""Who is asking.

In local mode, without users and on loopback, everybody is one local user who may do everything.
Sessions and tokens will be told apart here; every handler already gets its actor from here, and
hands it to the archive, which asks what the actor may do.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends
from starlette.requests import HTTPConnection

from pacs.access import Actor

USER_AGENT_CHARACTERS_MAX: Final = 64  # the rest of a longer user agent is not kept


async def actor_of(request: HTTPConnection) -> Actor:
    """The actor behind a request."""
    return Actor(
        kind="user",
        name="local",
        address=request.client.host if request.client else "",
        implementation=_user_agent(request),
    )


Caller = Annotated[Actor, Depends(actor_of)]


def _user_agent(request: HTTPConnection) -> str:
    """It goes into the audit trail, so it is cut and holds printable characters only."""
    text = request.headers.get("user-agent", "")[:USER_AGENT_CHARACTERS_MAX]
    return "".join(character for character in text if character.isprintable())
