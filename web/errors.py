"""Errors as HTTP says them: a status and a problem document (RFC 9457).

One table maps the error tree to statuses, looked up along an error's ancestry. What Starlette and
FastAPI raise becomes a problem document too, so that a caller meets one kind of error. No patient's
data can stand in one: messages and facts hold none, and nothing of a request is repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from pacs.dicom import uids
from pacs.errors import (
    BadObject,
    Broken,
    Conflict,
    Fact,
    Forbidden,
    Gone,
    Missing,
    NodeError,
    Refused,
    Unavailable,
)

RETRY_AFTER_S: Final = 10  # what a client is told to wait when something of ours is not there
PROBLEM_JSON: Final = "application/problem+json"

log = logging.getLogger(__name__)


class TooLong(Refused):
    """The body holds more than this node takes in one request."""


class TooSlow(Refused):
    """The body comes too slowly, or not at all."""


STATUS: Final[Mapping[type[NodeError], HTTPStatus]] = {
    NodeError: HTTPStatus.INTERNAL_SERVER_ERROR,
    Refused: HTTPStatus.BAD_REQUEST,
    BadObject: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooLong: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TooSlow: HTTPStatus.REQUEST_TIMEOUT,
    Forbidden: HTTPStatus.FORBIDDEN,
    Missing: HTTPStatus.NOT_FOUND,
    Gone: HTTPStatus.GONE,
    Conflict: HTTPStatus.CONFLICT,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    Broken: HTTPStatus.INTERNAL_SERVER_ERROR,
}

_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


def status_of(error: NodeError) -> HTTPStatus:
    """The HTTP status of an error: that of its nearest ancestor in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Fact
) -> Response:
    """A problem document (RFC 9457 3.1); `members` extend it (3.2)."""
    content = {**members, "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    # An answer to a crash passes no middleware, so the header is given here as well.
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", **(headers or {})}
    return JSONResponse(content, status, headers, media_type=PROBLEM_JSON)


def install(app: FastAPI) -> None:
    """Let app answer every error with a problem document."""
    app.add_exception_handler(NodeError, _on_node_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_bug)


async def _on_node_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, NodeError)
    level = logging.ERROR if isinstance(error, Broken) else logging.INFO
    log.log(level, "%s %s: %s", request.method, _route(request), error.message)
    headers = _closing(request)
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    facts = {} if isinstance(error, Broken) else error.facts
    return problem(status_of(error), error.message, headers, **facts)


def _closing(request: Request) -> dict[str, str]:
    """A refused body may go on for ever: nobody reads the rest of it."""
    return {"Connection": "close"} if request.method in ("PATCH", "POST", "PUT") else {}


def _route(request: Request) -> str:
    """The path for the log; what stands where a UID belongs and is none may be a patient's."""
    path = str(getattr(request.scope.get("route"), "path", ""))
    for name, value in request.path_params.items():
        if "." in str(value) and uids.is_valid(str(value)):
            path = path.replace(f"{{{name}}}", str(value))
    return path


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = {**_closing(request), **(error.headers or {})}
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    return problem(error.status_code, error.detail, headers)


def _allowed(request: Request) -> list[str]:
    """The methods of a path, whichever routes they are spread over."""
    routes = request.app.router.routes
    found = {
        method
        for method in _METHODS
        if any(r.matches({**request.scope, "method": method})[0] is Match.FULL for r in routes)
    }
    return sorted(found | {"HEAD"} if "GET" in found else found)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    """Which parameters do not fit is said; their values are not repeated."""
    assert isinstance(error, RequestValidationError)
    names = sorted({".".join(str(step) for step in e["loc"]) for e in error.errors()})
    log.info("%s %s: invalid request", request.method, _route(request))
    return problem(HTTPStatus.BAD_REQUEST, f"these do not fit: {', '.join(names)}")


async def _on_disconnect(request: Request, _error: Exception) -> Response:
    """The client has gone: there is nobody to answer, and nothing to be alarmed about."""
    log.info("%s %s: the client broke off", request.method, _route(request))
    return Response(status_code=HTTPStatus.BAD_REQUEST)


async def _on_bug(_request: Request, _error: Exception) -> Response:
    """A bug of ours. Starlette raises it again after the answer, so the server logs its trace."""
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "this node has failed to answer")
