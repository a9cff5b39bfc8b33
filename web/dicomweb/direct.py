"""Routes whose handlers take what every DICOMweb request has, and nothing else.

FastAPI finds out at each request what a handler wants and how to make it, and that costs more than
most handlers do. Those here want the request, its door, the scope of its path and further words of
that path, so it is settled once, by their names. Everything else about a route is FastAPI's.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from inspect import signature
from typing import Any

from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from web.auth import actor_of
from web.dicomweb.door import door_of, scope_of


class DirectRoute(APIRoute):
    """A route whose handler is a plain function of `request`, `door`, `scope` and path parameters."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request: the handler, in a thread, with what its parameters are named."""
        handler: Callable[..., Response] = self.endpoint
        names = signature(handler).parameters.keys()
        takes_scope = "scope" in names
        words = names - {"request", "door", "scope"}

        async def answer(request: Request) -> Response:
            found = request.path_params
            given: dict[str, Any] = {name: found[name] for name in words if name in found}
            given["request"] = request
            given["door"] = await door_of(request, await actor_of(request))
            if takes_scope:
                given["scope"] = await scope_of(request)
            return await run_in_threadpool(handler, **given)

        return answer
