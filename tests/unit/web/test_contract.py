"""`/openapi.json` describes every route, and what runs keeps to it, whatever it is sent.

ISOCENTER_CONTRACT_EXAMPLES requests of each operation are tried (3); a larger number looks deeper.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance
from starlette.routing import BaseRoute
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from pacs.archive import Scope
from tests import make
from tests.contracts.workitems import scheduled
from tests.unit.web.node import TESTER, parts_in
from web.app import create_app
from web.contract import OPERATIONS, PATH, QUERY
from web.openapi import METHODS, place_of

EXAMPLES: Final = int(os.environ.get("ISOCENTER_CONTRACT_EXAMPLES", "3"))
CHECKS: Final = [not_a_server_error, status_code_conformance, content_type_conformance]
DICOM_WEB: Final = ("/dicom-web", "/research/", "/wado")

HELD, WORKITEM = make.study(1)[0], make.uid("workitem")
KNOWN: Final = {
    "project": "demo",
    "study": HELD.StudyInstanceUID,
    "series": HELD.SeriesInstanceUID,
    "instance": HELD.SOPInstanceUID,
    "study_instance_uid": HELD.StudyInstanceUID,
    "frames": "1",
    "path": "7FE00010",
    "workitem": WORKITEM,
    "deletion": 1,
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """A node that holds something of everything."""
    folder = tmp_path_factory.mktemp("contract")
    with parts_in(folder, f"file://{folder}") as parts:
        for archive in (parts.identified, parts.projects["demo"]):
            archive.recycle_s = 3600.0
            for made in (*make.study(1), *make.study(1, study_instance_uid="1.2.3")):
                archive.store(TESTER, make.incoming(made))
            archive.delete(TESTER, Scope("1.2.3"))
        parts.workitems.create(TESTER, WORKITEM, scheduled())
        yield create_app(replace(parts, hosts=frozenset({"testserver"})))


def described(app: FastAPI) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each method and path of the document, with its operation."""
    for path, operations in app.openapi()["paths"].items():
        yield from ((method, path, said) for method, said in operations.items())


def routes_of(found: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each method and path that is served and meant for programs."""
    for route in found:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes_of(inner.routes, prefix + route.include_context.prefix)  # type: ignore[attr-defined]  # FastAPI's own
        elif isinstance(route, APIRoute) and route.include_in_schema:
            path = route.path_format
            yield from ((method.lower(), prefix + path) for method in route.methods or ())


def test_every_route_is_described(app: FastAPI) -> None:
    told = {(method, path) for method, path, _ in described(app)}
    served = set(routes_of(app.routes))
    assert len(served) > 80
    assert served == told


def test_every_operation_says_what_it_takes_and_gives(app: FastAPI) -> None:
    parameters = app.openapi()["components"]["parameters"]
    for method, path, said in described(app):
        where = f"{method} {path}"
        assert method in METHODS, where
        assert said["summary"], where
        assert len(said["summary"]) < 100, where
        every = [
            parameters[one["$ref"].rpartition("/")[2]] if "$ref" in one else one
            for one in said["parameters"]
        ]
        assert all(one["schema"] and one["name"] for one in every), where
        named = [(one["name"], one["in"]) for one in every]
        assert len(set(named)) == len(named), where
        in_path = {one["name"] for one in every if one["in"] == "path"}
        assert in_path == set(PATH) & in_path | {n for n in in_path if f"{{{n}}}" in path}, where
        assert all(f"{{{name}}}" in path for name in in_path), where
        assert path.count("{") == len(in_path), where
        assert {"400", "403", "500", "503"} <= set(said["responses"]), where
        assert min(said["responses"]) < "300", where


def test_every_operation_of_dicomweb_stands_in_the_contract(app: FastAPI) -> None:
    places = {place_of(m, path) for m, path, _ in described(app) if path.startswith(DICOM_WEB)}
    assert places <= OPERATIONS.keys()


def test_the_contract_names_only_parameters_that_it_describes() -> None:
    assert {name for one in OPERATIONS.values() for name in one.query} <= QUERY.keys()


def test_errors_are_problem_documents(app: FastAPI) -> None:
    for method, path, said in described(app):
        for status, answer in said["responses"].items():
            if status >= "400":
                assert "application/problem+json" in answer["content"], f"{method} {path} {status}"


@schemathesis.serializer("application/dicom", "multipart/related")
def as_octets(_context: object, value: object) -> bytes:
    """A body that claims to be DICOM and hardly ever is."""
    return value if isinstance(value, bytes) else str(value).encode()


def test_what_runs_keeps_to_what_is_written(app: FastAPI) -> None:
    async def answering(scope: AsgiScope, receive: Receive, send: Send) -> None:
        with suppress(Exception):  # a bug is answered with 500 and then raised for the server's log
            await app(scope, receive, send)

    schema = schemathesis.openapi.from_asgi("/openapi.json", answering)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) > 80
    failures: list[str] = []
    # What deletes comes last, so that there is something to be asked for.
    for operation in sorted(operations, key=lambda one: one.method.lower() == "delete"):
        try:
            _ask(operation)
        except (AssertionError, BaseExceptionGroup) as error:
            failures.append(f"{operation.method.upper()} {operation.path}: {error}")
    assert not failures, "\n\n".join(failures)


def _ask(operation: Any) -> None:  # noqa: ANN401 - schemathesis' own
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), is_known=st.booleans())
    def ask(case: Any, is_known: bool) -> None:  # noqa: ANN401 - as above
        if is_known:
            names = case.path_parameters or {}
            case.path_parameters = {**names, **{n: KNOWN[n] for n in names if n in KNOWN}}
        case.validate_response(case.call(), checks=CHECKS)

    ask()
