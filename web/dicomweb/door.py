"""What every DICOMweb request needs first: the archive it is for, who asks, and which scope.

The same routes stand at `/dicom-web`, on the identified archive, and at
`/research/{project}/dicom-web`, on one project's. A project's archive holds pseudonymous UIDs
alone, so an identified UID is unknown there without any check of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import Depends
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pacs.access import Actor
from pacs.archive import Archive, Scope
from pacs.dicom import uids
from pacs.errors import Missing
from web.auth import Caller
from web.dicomweb.origin import origin_of
from web.parts import Parts

IDENTIFIED: Final = "/dicom-web"
RESEARCH: Final = "/research/{project}/dicom-web"


@dataclass(frozen=True, slots=True)
class Door:
    """One DICOMweb service as one caller meets it. `path` is the service's path as it meets it."""

    parts: Parts
    archive: Archive
    actor: Actor
    origin: str  # such as https://pacs.example:8080
    path: str

    @property
    def url(self) -> str:
        """The address of the service, without a slash at its end."""
        return self.origin + self.path

    @property
    def host(self) -> str:
        """Host and port, as a Warning header names its sender."""
        return self.origin.partition("://")[2]


async def door_of(request: Request, actor: Caller) -> Door:
    """The service that a request came to. Raises Missing for an unknown project."""
    parts: Parts = request.app.state.parts
    project = request.path_params.get("project")
    origin = origin_of(request, parts.trusted_proxies)
    if project is None:
        return Door(parts, parts.identified, actor, origin.url, origin.prefix + IDENTIFIED)
    archive = parts.projects.get(project)
    if archive is None:
        raise Missing("there is no such project here")
    path = RESEARCH.replace("{project}", quote(project, safe=""))
    return Door(parts, archive, actor, origin.url, origin.prefix + path)


async def scope_of(request: Request) -> Scope:
    """The study, series or instance in the path. Raises HTTPException 400 for what is no UID."""
    given = [request.path_params.get(level, "") for level in ("study", "series", "instance")]
    if not all(uids.is_valid(uid) for uid in given if uid):
        raise HTTPException(400, "a UID in the path has other characters than digits and dots")
    return Scope(*given)


At = Annotated[Door, Depends(door_of)]
InPath = Annotated[Scope, Depends(scope_of)]


def warning(door: Door, *sentences: str) -> dict[str, str]:
    """A Warning header of code 299 (PS3.18 8.4.3); sentences are ours, so they hold no quotes."""
    lines = ", ".join(f'299 {door.host} "{sentence}"' for sentence in sentences)
    return {"Warning": lines} if lines else {}
