"""The HTTP door put together: every router on its path, and what holds for all answers."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web import (
    api,
    api_commitments,
    api_recycled,
    api_rules,
    api_worklist,
    dicomweb,
    errors,
    health,
    pages,
)
from web.bodies import ShortBodies
from web.dicomweb import wado_uri
from web.dicomweb.notifications import Notifications
from web.dicomweb.origin import Network, is_from_another_site, names_us
from web.openapi import DescribedApp
from web.parts import Parts

POLICY_VIOLATION: Final = 1008  # why a WebSocket is closed (RFC 6455 7.4.1)
SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))  # they change nothing (RFC 9110 9.2.1)


def create_app(parts: Parts) -> FastAPI:
    """The ASGI application of one node."""
    app = DescribedApp(
        title="Isocenter",
        version=parts.version,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.parts = parts
    app.state.notifications = Notifications(parts.workitems)
    errors.install(app)
    app.add_middleware(ShortBodies, path="/api/", limits=parts.limits)
    app.add_middleware(OwnPagesChange, trusted_proxies=parts.trusted_proxies)
    app.add_middleware(OwnNames, hosts=parts.hosts, trusted_proxies=parts.trusted_proxies)
    app.add_middleware(EveryAnswer)
    app.include_router(dicomweb.router, prefix=dicomweb.IDENTIFIED)
    app.include_router(dicomweb.router, prefix=dicomweb.RESEARCH)
    app.include_router(dicomweb.worklist, prefix=dicomweb.IDENTIFIED)
    app.include_router(wado_uri.router)
    for module in (api, api_commitments, api_recycled, api_rules, api_worklist, health, pages):
        app.include_router(module.router(parts))
    return app


class EveryAnswer:
    """What holds for every route: HEAD is answered as GET is, and nobody guesses content types.

    A route sees GET; the body it gives to a HEAD request is dropped. The original method stays in
    the scope as `asked_method`, for the routes that would stream much for nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        method = "GET" if is_head else scope["method"]
        asked = {**scope, "method": method, "asked_method": scope["method"]}
        await self._app(asked, receive, answer)


class OwnNames:
    """Who asks for a name that is not ours is told so (421, RFC 9110 15.5.20).

    A page of another site can have its name point at this machine for its reader's browser, which
    then takes our answers for that site's own and lets it read them. An address cannot be had so.
    """

    def __init__(
        self, app: ASGIApp, hosts: frozenset[str], trusted_proxies: Sequence[Network]
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] not in ("http", "websocket") or names_us(
            HTTPConnection(scope), self._hosts, self._trusted_proxies
        ):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        else:
            told = errors.problem(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this node does not answer to that name; if it is its name, set http.public_url",
                {"Connection": "close"},
            )
            await told(scope, receive, send)


class OwnPagesChange:
    """Pages of other sites change nothing here (403), whoever's browser they make ask.

    Without a log-in there is no token that such a page would lack, and a browser sends some
    requests for it without asking us first.
    """

    def __init__(self, app: ASGIApp, trusted_proxies: Sequence[Network]) -> None:
        self._app = app
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        is_change = scope["type"] == "http" and scope["method"] not in SAFE_METHODS
        if is_change and is_from_another_site(HTTPConnection(scope), self._trusted_proxies):
            told = errors.problem(
                HTTPStatus.FORBIDDEN,
                "a page of another site asks this; behind a proxy, see http.trusted_proxies",
                {"Connection": "close"},
            )
            await told(scope, receive, send)
            return
        await self._app(scope, receive, send)
