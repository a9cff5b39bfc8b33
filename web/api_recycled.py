"""`/api/recycled`: what was deleted and is still kept, to be given back or removed for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Query

from pacs.archive import Archive, recycle
from pacs.archive.recycle import LISTED_MAX, Restored
from pacs.errors import Missing
from pacs.index.recycled import Deletion
from web.auth import Caller
from web.limits import NUMBER_MAX
from web.parts import Parts

Number = Annotated[int, Path(ge=1, le=NUMBER_MAX)]
Project = Annotated[str, Query(description="A research project; empty: the identified archive.")]


@dataclass(frozen=True, slots=True)
class DeletionView:
    """One deletion, times in seconds since 1970. Empty UIDs stand for all of the level."""

    id: int
    deleted_at: float
    purge_at: float
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    instances: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Deletions:
    """Deletions, newest first. `cursor` asks for the next page; it is null on the last one."""

    deletions: list[DeletionView]
    cursor: int | None


def router(parts: Parts) -> APIRouter:
    """The routes of `/api/recycled`."""
    api = Recycled(parts)
    routes = APIRouter(prefix="/api/recycled", tags=["API"])
    routes.add_api_route("", api.listed)
    routes.add_api_route("/{deletion}/restore", api.restore, methods=["POST"])
    routes.add_api_route("/{deletion}", api.purge, methods=["DELETE"], status_code=204)
    return routes


class Recycled:
    """What may be asked of deletions."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def listed(
        self,
        caller: Caller,
        project: Project = "",
        limit: Annotated[int, Query(ge=1, le=LISTED_MAX)] = 100,
        cursor: Annotated[int, Query(ge=0, le=NUMBER_MAX)] = 0,
    ) -> Deletions:
        """One page of what was deleted and is still kept."""
        archive = self._archive(project)
        found = recycle.listed(archive, caller, limit, cursor)
        views = [_view(one, archive.recycle_s) for one in found]
        return Deletions(views, found[-1].id if len(found) == limit else None)

    def restore(self, deletion: Number, caller: Caller, project: Project = "") -> Restored:
        """Give back what a deletion took away, but for what was stored again. Raises Missing."""
        return recycle.restore(self._archive(project), caller, deletion)

    def purge(self, deletion: Number, caller: Caller, project: Project = "") -> None:
        """Remove for good what a deletion took away. Raises Missing."""
        recycle.purge(self._archive(project), caller, deletion)

    def _archive(self, project: str) -> Archive:
        if not project:
            return self._parts.identified
        archive = self._parts.projects.get(project)
        if archive is None:
            raise Missing("there is no such project here")
        return archive


def _view(deletion: Deletion, recycle_s: float) -> DeletionView:
    scope = deletion.scope
    return DeletionView(
        id=deletion.id,
        deleted_at=deletion.deleted_at,
        purge_at=deletion.deleted_at + recycle_s,
        study_instance_uid=scope.study_instance_uid,
        series_instance_uid=scope.series_instance_uid,
        sop_instance_uid=scope.sop_instance_uid,
        instances=deletion.instances,
        size_bytes=deletion.size_bytes,
    )
