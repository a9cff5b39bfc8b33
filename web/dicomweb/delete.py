"""Deleting studies, series and instances: a DELETE on what WADO-RS retrieves.

What is deleted is out of every search at once, and WADO-RS says 410 for it while it is kept;
`/api/recycled` gives it back. Stored again, it is an instance like any other.
"""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter
from starlette.responses import Response

from web.dicomweb.door import At, InPath

router = APIRouter()


@router.delete("/studies/{study}", status_code=HTTPStatus.NO_CONTENT)
@router.delete("/studies/{study}/series/{series}", status_code=HTTPStatus.NO_CONTENT)
@router.delete(
    "/studies/{study}/series/{series}/instances/{instance}", status_code=HTTPStatus.NO_CONTENT
)
def delete(door: At, scope: InPath) -> Response:
    """Delete a study, a series or an instance."""
    door.archive.delete(door.actor, scope)
    return Response(status_code=HTTPStatus.NO_CONTENT)
