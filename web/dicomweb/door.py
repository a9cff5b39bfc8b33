"""What every DICOMweb request needs first: the archive it is for, who asks, and which scope.

The same routes stand at `/dicom-web`, on the identified archive, and at
`/research/{project}/dicom-web`, on one project's. A project's archive holds pseudonymous UIDs
alone, so an identified UID is unknown there without any check of ours.
"""

from __future__ import annotations

import re
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
from web.parts import Parts

IDENTIFIED: Final = "/dicom-web"
RESEARCH: Final = "/research/{project}/dicom-web"

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")


@dataclass(frozen=True, slots=True)
class Door:
    """One DICOMweb service as one caller meets it. `path` is the service's path on this server."""

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
    if project is None:
        return Door(parts, parts.identified, actor, _origin(request), IDENTIFIED)
    archive = parts.projects.get(project)
    if archive is None:
        raise Missing("there is no such project here")
    path = RESEARCH.replace("{project}", quote(project, safe=""))
    return Door(parts, archive, actor, _origin(request), path)


async def scope_of(request: Request) -> Scope:
    """The study, series or instance in the path. Raises HTTPException 400 for what is no UID."""
    given = [request.path_params.get(level, "") for level in ("study", "series", "instance")]
    if not all(uids.is_valid(uid) for uid in given if uid):
        raise HTTPException(400, "a UID in the path has other characters than digits and dots")
    return Scope(*given)


At = Annotated[Door, Depends(door_of)]
InPath = Annotated[Scope, Depends(scope_of)]


def _origin(request: Request) -> str:
    """Scheme and host as the client knows them; a Host header that is none is not believed."""
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        address, port = request.scope.get("server") or ("localhost", None)
        host = f"{address}:{port}" if port else str(address)
    return f"{request.url.scheme}://{host}"


def warning(door: Door, *sentences: str) -> dict[str, str]:
    """A Warning header of code 299 (PS3.18 8.4.3); sentences are ours, so they hold no quotes."""
    lines = ", ".join(f'299 {door.host} "{sentence}"' for sentence in sentences)
    return {"Warning": lines} if lines else {}
