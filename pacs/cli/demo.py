"""`isocenter demo`: synthetic studies through the whole node, told step by step.

It is a client like any other: it sends by C-STORE, and reads results by `/api` and DICOMweb.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import httpx
import typer

from inference.words import in_words
from pacs.cli.serve import addresses, stop_on_signals, wait_until_ready
from pacs.cli.shared import configured, out, progress, say
from pacs.config import Config
from pacs.dicom.data_sets import read_data_set
from pacs.dicom.part10 import read_part10
from pacs.dimse import scu
from pacs.dimse.scu import Peer
from pacs.errors import Missing, Unreachable
from pacs.node import ROLES, compose
from pacs.node.doors import open_doors
from pacs.node.supervise import Supervisor
from sample_dicom.studies import STUDIES, Study

SAMPLES: Final = Path(__file__).parents[2] / "sample_dicom"
PROJECT: Final = "demo"
QUIET_S: Final = 2.0  # the demo's studies arrive at once; nobody wants to wait
RESULTS_S_MAX: Final = 300.0  # the slowest machine has its results by then, or something is wrong
POLL_S: Final = 0.5
ANSWER_S: Final = 60.0  # how long the demo waits for one answer of the node
STEPS: Final = ("queued", "fetched", "prepared", "inferred", "written")
ENDED: Final = frozenset({"succeeded", "failed", "skipped"})


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the results.")] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="Keep what was received in this folder.")
    ] = None,
) -> None:
    """Send the sample studies through a node of its own and tell what happens."""
    stop = stop_on_signals()
    with ExitStack() as stack:
        folder = data or Path(stack.enter_context(TemporaryDirectory(prefix="isocenter-demo-")))
        settings = configured(folder, None, **{"study.quiet_s": QUIET_S, "log_level": "warning"})
        config, doors = open_doors(settings, ROLES, or_any=True)
        compose(config).close()
        supervisor = Supervisor(config, ROLES, doors)
        watcher = threading.Thread(target=supervisor.run, args=(stop,))
        watcher.start()
        stack.callback(watcher.join)
        stack.callback(stop.set)
        wait_until_ready(config, list(ROLES), stop)
        missing = _tour(config, stop)
        _tell_addresses(config)
        if not once:
            say("Serving until Ctrl-C.")
            stop.wait()
    if missing:
        raise Missing(f"{len(missing)} studies have no result: {', '.join(missing)}")


def _tour(config: Config, stop: threading.Event) -> list[str]:
    """Send, wait, tell; the titles of studies whose results are missing."""
    out.print(f"Sending {len(STUDIES)} synthetic studies by C-STORE …")
    sent = [(study, _send(study, config)) for study in STUDIES]
    web = _Web(config)
    missing = []
    for number, (study, sending) in enumerate(sent, start=1):
        runs = _wait_for_results(web, study, stop)
        out.print(f"\n[bold]{number}. {study.title}[/bold]")
        for line in (*sending.told(), *_told(web, study, runs)):
            out.print(f"   {line}", markup=False)
        if sending.refused or not runs or any(run["state"] == "failed" for run in runs):
            missing.append(study.title)
    return missing


@dataclass(frozen=True, slots=True)
class _Sending:
    """How the C-STORE of one study went."""

    stored: int
    refused: int
    took_s: float

    def told(self) -> list[str]:
        rate = self.stored / max(self.took_s, 1e-6)
        line = f"received       {self.stored} instances in {self.took_s:.2f} s ({rate:.0f}/s)"
        return [line + (f", {self.refused} refused" if self.refused else "")]


def _send(study: Study, config: Config) -> _Sending:
    sources = list(scu.find([SAMPLES / study.folder]))
    peer = Peer(config.bind, config.dimse.port, config.dimse.aet, "DEMO")
    began = time.perf_counter()
    with progress(f"  {study.title}", len(sources)) as tell:
        outcomes = []
        for outcome in scu.send(sources, peer):
            outcomes.append(outcome)
            tell(len(outcomes), len(sources))
    stored = sum(outcome.is_stored for outcome in outcomes)
    return _Sending(stored, len(outcomes) - stored, time.perf_counter() - began)


class _Web:
    """The node's HTTP door, as any client sees it."""

    def __init__(self, config: Config) -> None:
        self.base = f"http://{config.bind}:{config.http.port}"

    def get(self, path: str, accept: str) -> bytes:
        """The body at a path; empty for 204. Raises Missing, Unreachable."""
        try:
            answer = httpx.get(self.base + path, headers={"Accept": accept}, timeout=ANSWER_S)
        except httpx.TransportError as error:
            raise Unreachable("the node does not answer") from error
        if answer.is_error:
            raise Missing(f"the node answered {answer.status_code}")
        return answer.content

    def json(self, path: str) -> Any:  # noqa: ANN401 - JSON of any shape
        """The JSON at a path; an empty list for 204."""
        return json.loads(self.get(path, "application/json") or b"[]")


def _wait_for_results(web: _Web, study: Study, stop: threading.Event) -> list[dict[str, Any]]:
    """The study's runs once all have ended and its release has; what there is, if time runs out."""
    deadline = time.monotonic() + RESULTS_S_MAX
    runs: list[dict[str, Any]] = []
    while time.monotonic() < deadline and not stop.wait(POLL_S):
        runs = web.json(f"/api/studies/{study.study_instance_uid}/results")["results"]
        released = _release_of(web, study)
        if runs and all(run["state"] in ENDED for run in runs) and released.get("state") in ENDED:
            return runs
    return [run for run in runs if run["state"] in ENDED]


def _release_of(web: _Web, study: Study) -> Mapping[str, Any]:
    listed = web.json(f"/api/jobs?study={study.study_instance_uid}")["jobs"]
    return next((job for job in listed if job["kind"] == "release"), {})


def _told(web: _Web, study: Study, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    released = _release_of(web, study)
    lines = [f"de-identified  {released.get('reason') or released.get('state', 'not yet')}"]
    for run in runs:
        lines += _told_run(web, run)
    return lines


def _told_run(web: _Web, run: Mapping[str, Any]) -> list[str]:
    name = f"{run['model']} {run['model_version']}"
    if run["state"] != "succeeded":
        return [f"AI             {name}: {run['state']}: {run['reason']['sentence']}"]
    lines = [f"AI             {name} on {run['provider']}; not verified by a physician"]
    steps = ", ".join(f"{step} {run['timings_ms'][step]:.0f} ms" for step in STEPS)
    lines.append(f"steps          {steps}")
    for made in run["objects"]:
        content = web.get(made["url"], "application/dicom; transfer-syntax=*")
        lines.append(f"{made['kind']:<14} {len(content)} bytes by WADO-RS")
        if made["kind"] == "SR":
            file = read_part10(content)
            report = read_data_set(file.data_set, file.transfer_syntax_uid)
            lines += [f"  {line}" for line in in_words(report)]
    return lines


def _tell_addresses(config: Config) -> None:
    research = f"http://{config.bind}:{config.http.port}/research/{PROJECT}/dicom-web"
    out.print("")
    for line in (*addresses(config, list(ROLES)), f"Research  {research}"):
        out.print(f"  {line}", markup=False)
