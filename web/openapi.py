"""`/openapi.json`: what FastAPI knows of the routes, joined with what `web/contract.py` says.

Every operation has a summary, typed parameters, the media types of its answers and every status it
can end with; errors are problem documents (RFC 9457). HEAD works wherever GET does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI

from web.contract import OPERATIONS, PATH, QUERY, Operation
from web.dicomweb.door import IDENTIFIED, RESEARCH
from web.dicomweb.media_types import DICOM_JSON, JSON
from web.errors import PROBLEM_JSON

# What any operation may end with: a bad parameter, no right to it, a bug of ours, something away.
ALWAYS: Final = (400, 403, 500, 503)
METHODS: Final = ("get", "put", "post", "patch", "delete", "options")

PROBLEM: Final = {
    "type": "object",
    "description": "A problem document (RFC 9457). Further members are facts without patient data.",
    "required": ["title", "status", "detail"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
DATA_SET: Final = {
    "type": "object",
    "description": "The DICOM JSON model of a data set (PS3.18 annex F).",
    "propertyNames": {"pattern": "^[0-9A-Fa-f]{8}$"},
    "additionalProperties": {
        "type": "object",
        "required": ["vr"],
        "properties": {
            "vr": {"type": "string", "pattern": "^[A-Z]{2}$"},
            "Value": {"type": "array"},
            "InlineBinary": {"type": "string"},
            "BulkDataURI": {"type": "string"},
        },
    },
}

_SCOPE: Final = re.compile(r"/studies/\{study\}(/series/\{series\}(/instances/\{instance\})?)?")
_NAME: Final = re.compile(r"\{(\w+)\}")
_ALIASES: Final = {"limit_of_changes": "limit", "offset_of_changes": "offset"}


class DescribedApp(FastAPI):
    """An application that describes itself whole."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = completed(super().openapi())
        return self.openapi_schema


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with what it lacks; it is changed in place."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= {"Problem": PROBLEM, "DataSet": DATA_SET}
    document["components"]["parameters"] = {
        name: {"name": _ALIASES.get(name, name), "in": "query", "required": False, **schema}
        for name, schema in QUERY.items()
    }
    for path, operations in document["paths"].items():
        for method in METHODS & operations.keys():
            known = OPERATIONS.get(place_of(method, path), Operation({}))
            _complete(operations[method], path, known)
    return document


def place_of(method: str, path: str) -> str:
    """How `web/contract.py` names an operation."""
    below = path.removeprefix(RESEARCH).removeprefix(IDENTIFIED)
    below = below.removeprefix("/research/{project}")
    return f"{method.upper()} {_SCOPE.sub('{scope}', below)}"


def _complete(operation: dict[str, Any], path: str, known: Operation) -> None:
    description = str(operation.get("description", ""))
    operation["summary"] = description.partition("\n")[0].partition(". ")[0].rstrip(".")
    operation["parameters"] = list(_parameters(operation, path, known))
    if known.body:
        content = {name: {"schema": _content_schema(name)} for name in known.body}
        operation["requestBody"] = {"required": False, "content": content}
    responses = operation["responses"]
    responses.pop("422", None)  # a request that does not fit is a 400 here
    if known.answers:
        _answered(responses, known)
    for status in _problems(path, known):
        responses.setdefault(str(int(status)), _problem(status))
    operation["responses"] = dict(sorted(responses.items()))


def _parameters(
    operation: Mapping[str, Any], path: str, known: Operation
) -> Iterator[dict[str, Any]]:
    told = operation.get("parameters", ())
    for name in _NAME.findall(path):
        said: Mapping[str, Any] = {one["name"]: one for one in told}.get(name, {})
        schema = PATH.get(name) or {"schema": said.get("schema")}
        yield {"name": name, "in": "path", "required": True, **schema}
    # A part of some of a route's paths is none of a query, whatever its signature says.
    yield from (one for one in told if one["in"] == "query" and one["name"] not in PATH)
    yield from ({"$ref": f"#/components/parameters/{name}"} for name in known.query)


def _answered(responses: dict[str, Any], known: Operation) -> None:
    """The successes as the contract has them. What FastAPI knows of their schemas stays."""
    told = {code: responses.pop(code) for code in list(responses) if code.startswith("2")}
    schemas = {name: said for one in told.values() for name, said in one.get("content", {}).items()}
    for status, media_types in known.answers.items():
        content = {
            name: schemas[name]
            if schemas.get(name, {}).get("schema")
            else {"schema": _answer_schema(name)}
            for name in media_types
        }
        described = {"description": HTTPStatus(status).phrase}
        responses[str(status)] = described | ({"content": content} if content else {})


def _content_schema(media_type: str) -> dict[str, Any]:
    """What a body of a media type must be."""
    if media_type in (DICOM_JSON, JSON):
        return {"type": "array", "items": {"$ref": "#/components/schemas/DataSet"}}
    return {"type": "string", "format": "binary"}


def _answer_schema(media_type: str) -> dict[str, Any]:
    """What an answer of a media type is; what JSON holds is said by the standard's own tables."""
    if media_type == PROBLEM_JSON:
        return {"$ref": "#/components/schemas/Problem"}
    return {} if media_type in (DICOM_JSON, JSON) else {"type": "string", "format": "binary"}


def _problems(path: str, known: Operation) -> Iterator[int]:
    yield from ALWAYS
    yield from known.problems
    if "{" in path:
        yield 404


def _problem(status: int) -> dict[str, Any]:
    content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": HTTPStatus(status).phrase, "content": content}
