"""Whether the node lives, whether it can serve, and its figures for Prometheus.

`/livez` says only that this process answers. `/readyz` asks the index and the store, as a store
or a query would. `/metrics` counts rows; no label holds a UID, a name or an address.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import JSONResponse, PlainTextResponse, Response

from pacs.errors import NodeError
from web.parts import Parts

JOB_PREFIX: Final = "jobs_"  # how Workflow.counts names the jobs of a state

log = logging.getLogger(__name__)


def router(parts: Parts) -> APIRouter:
    """The routes of health; they need no log-in."""
    health = Health(parts)
    routes = APIRouter(tags=["Health"])
    routes.add_api_route("/livez", health.live, response_class=PlainTextResponse)
    routes.add_api_route("/readyz", health.ready, response_class=JSONResponse)
    routes.add_api_route("/metrics", health.metrics, response_class=PlainTextResponse)
    return routes


class Health:
    """The node as a supervisor and a monitor see it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def live(self) -> str:
        """This process answers; nothing else is asked."""
        return "ok\n"

    def ready(self) -> Response:
        """200 if index and store answer, else 503, with what each said."""
        checks: dict[str, Callable[[], None]] = {
            "index": self._parts.identified.index.check,
            "store": self._parts.identified.objects.check,
        }
        said = {name: _answer(name, check) for name, check in checks.items()}
        ready = all(answer == "ok" for answer in said.values())
        return JSONResponse(
            {"ready": ready, **said},
            status_code=200 if ready else 503,
            headers={"Cache-Control": "no-store"},
        )

    def metrics(self) -> Response:
        """Instances, studies and jobs by state, in Prometheus' text format."""
        counted = self._parts.workflow.counts()
        registry = CollectorRegistry()
        held = Gauge("isocenter_held", "What the archive holds", ["level"], registry=registry)
        jobs = Gauge("isocenter_jobs", "Jobs in each state", ["state"], registry=registry)
        release = Gauge("isocenter_build_info", "This release", ["version"], registry=registry)
        release.labels(self._parts.version).set(1)
        for name, count in counted.items():
            if name.startswith(JOB_PREFIX):
                jobs.labels(name.removeprefix(JOB_PREFIX)).set(count)
            else:
                held.labels(name).set(count)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _answer(name: str, check: Callable[[], None]) -> str:
    try:
        check()
    except NodeError as error:
        log.warning("not ready: the %s says: %s", name, error)
        return error.message
    return "ok"
