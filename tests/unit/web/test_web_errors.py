"""Every error of the door is a problem document, and none of them tells what it must not."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import httpx
import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pacs import errors as tree
from pacs.access import Actor
from web import auth, errors

CANARY = "Canary^Patient"


def raising(error: Exception) -> FastAPI:
    app = FastAPI()
    errors.install(app)

    @app.get("/")
    def fail(number: int = 0) -> None:
        assert number == 0
        raise error

    @app.delete("/")
    def delete() -> None: ...

    return app


def ask(app: FastAPI, method: str = "GET", path: str = "/") -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path)

    return asyncio.run(request())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (tree.Refused(), 400),
        (tree.BadQuery(), 400),
        (tree.BadObject(), 422),
        (tree.Mismatch(), 422),
        (tree.Forbidden(), 403),
        (tree.Missing(), 404),
        (tree.Conflict(), 409),
        (errors.TooLong(), 413),
        (tree.Exhausted(), 503),
        (tree.Unreachable(), 503),
        (tree.Corrupt(), 500),
        (tree.BadModel(), 500),
        (tree.NodeError(), 500),
        (HTTPException(406, "other forms are available"), 406),
        (ValueError(CANARY), 500),
    ],
)
def test_an_error_becomes_a_problem_document(error: Exception, status: int) -> None:
    answer = ask(raising(error))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (answer.json()["status"], answer.json()["title"]) == (status, HTTPStatus(status).phrase)
    assert answer.json()["detail"]
    assert CANARY not in answer.text


def test_every_error_of_the_tree_has_a_status() -> None:
    kinds = [kind for kind in vars(tree).values() if isinstance(kind, type)]
    assert all(errors.status_of(kind()) for kind in kinds if issubclass(kind, tree.NodeError))


def test_facts_are_told_but_those_of_broken_parts_are_the_operators() -> None:
    assert ask(raising(tree.Missing("no frame", frames=3))).json()["frames"] == 3
    assert "digest" not in ask(raising(tree.Corrupt(digest="abc"))).json()


def test_who_meets_something_unavailable_is_told_to_come_back() -> None:
    assert int(ask(raising(tree.Unreachable())).headers["retry-after"]) > 0


def test_an_invalid_parameter_is_named_and_its_value_is_not() -> None:
    answer = ask(raising(ValueError()), path=f"/?number={CANARY}")
    assert answer.status_code == 400
    assert "number" in answer.json()["detail"]
    assert CANARY not in answer.text


def test_a_wrong_method_is_told_all_that_are_right() -> None:
    answer = ask(raising(ValueError()), method="PUT")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD")


def actor(*headers: tuple[bytes, bytes], client: tuple[str, int] | None = None) -> Actor:
    scope = {"type": "http", "headers": list(headers), "client": client}
    return asyncio.run(auth.actor_of(Request(scope)))


def test_in_local_mode_everybody_is_the_local_user() -> None:
    found = actor((b"user-agent", b"OHIF/3"), client=("192.0.2.7", 4711))
    assert (found.kind, found.name) == ("user", "local")
    assert (found.address, found.implementation) == ("192.0.2.7", "OHIF/3")


def test_a_user_agent_is_cut_and_printable() -> None:
    assert actor((b"user-agent", b"a\x07\x1b" + b"b" * 100)).implementation == "a" + "b" * 61
    assert actor().implementation == ""
