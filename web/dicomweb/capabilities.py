"""What this service can do, told by its own routes (PS3.18 8.9).

The answer to `OPTIONS /` and to `GET /conformance` is JSON, or WADL for who asks for that. It comes
from `/openapi.json`, which is made from the routes that run, so it promises neither more nor less.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from web.dicomweb.answers import json_answer
from web.dicomweb.door import IDENTIFIED, RESEARCH, At
from web.dicomweb.negotiation import JSON_OFFERS, Offer, accept_of, chosen

WADL: Final = "application/vnd.sun.wadl+xml"
WADL_NAMESPACE: Final = "http://wadl.dev.java.net/2009/02"

router = APIRouter()

_PARAMETER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Resource:
    """One path of the service, below its root, and what each method does there."""

    path: str
    methods: Mapping[str, str]


@router.options("/")
@router.get("/conformance")
def retrieve_capabilities(request: Request, door: At) -> Response:
    """Tell which resources there are, and what can be done with them."""
    offer = chosen(accept_of(request), (*reversed(JSON_OFFERS), Offer(WADL))).offer
    root = IDENTIFIED if request.path_params.get("project") is None else RESEARCH
    found = resources(request.app.openapi()["paths"], root)
    headers = {"Allow": "OPTIONS"} if request.method == "OPTIONS" else {}
    if offer.media_type == WADL:
        return Response("\n".join(_wadl(found, door.url)), headers=headers, media_type=WADL)
    content = {
        "service": door.url,
        "version": door.parts.version,
        "resources": [{"path": one.path, "methods": dict(one.methods)} for one in found],
    }
    return json_answer(request, content, offer.media_type, headers=headers)


def resources(described: Mapping[str, Mapping[str, Any]], root: str) -> list[Resource]:
    """The resources below a root, by path, from the paths of an OpenAPI document."""
    return [
        Resource(path.removeprefix(root), dict(sorted(_methods(operations))))
        for path, operations in sorted(described.items())
        if path.startswith(f"{root}/")
    ]


def _methods(operations: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each method of a path, and what it does there. HEAD works wherever GET does."""
    for method, operation in operations.items():
        said = str(operation.get("description", "")).partition("\n")[0]
        yield method.upper(), said
        if method == "get":
            yield "HEAD", said


def _wadl(found: Sequence[Resource], url: str) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield f'<application xmlns="{WADL_NAMESPACE}"><resources base={quoteattr(url)}>'
    for resource in found:
        yield f"<resource path={quoteattr(resource.path)}>"
        for name in _PARAMETER.findall(resource.path):
            yield f'<param name="{name}" style="template" required="true"/>'
        for method, said in resource.methods.items():
            yield f'<method name="{method}"><doc title={quoteattr(said)}/></method>'
        yield "</resource>"
    yield "</resources></application>"
