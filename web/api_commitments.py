"""`/api/commitments`: the requests for storage commitment, those of peers and ours, as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query

from pacs.commitment import LISTED_MAX, Commitment
from web.auth import Caller
from web.parts import Parts


@dataclass(frozen=True, slots=True)
class Commitments:
    """Requests, newest first. `cursor` asks for the next page; it is null on the last one."""

    commitments: list[Commitment]
    cursor: int | None


def router(parts: Parts) -> APIRouter:
    """The routes of `/api/commitments`."""
    routes = APIRouter(prefix="/api", tags=["API"])
    routes.add_api_route("/commitments", CommitmentsApi(parts).listed)
    return routes


class CommitmentsApi:
    """What is told of requests for storage commitment."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def listed(
        self,
        caller: Caller,
        role: str = "",
        state: str = "",
        limit: Annotated[int, Query(ge=1, le=LISTED_MAX)] = 100,
        cursor: Annotated[int, Query(ge=0)] = 0,
    ) -> Commitments:
        """One page; of one role (scp: a peer asked us; scu: we asked it) or state if that is asked."""
        del (
            caller
        )  # a request names a peer and counts instances; every signed-in caller may read it
        found = self._parts.commitments.outstanding(
            role=role, state=state, limit=limit, cursor=cursor
        )
        return Commitments(found, found[-1].id if len(found) == limit else None)
