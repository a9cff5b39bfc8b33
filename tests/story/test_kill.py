"""Any process may die at any moment: what was acknowledged is there, whole, once.

Senders remember each instance that was answered with success, and send the others again, as real
ones do. Meanwhile every role is killed at moments drawn from a seed, and once the supervisor.
The environment scales it up: ISOCENTER_STORY_KILLS rounds of ISOCENTER_STORY_INSTANCES each.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import pytest

import sample_dicom
from pacs.dicom.part10 import read_part10
from sample_dicom.studies import CT_CHEST
from tests import make
from tests.story.running import StartedNode, by_tag, started_node, wait_for

ROUNDS: Final = int(os.environ.get("ISOCENTER_STORY_KILLS", "3"))
INSTANCES: Final = int(os.environ.get("ISOCENTER_STORY_INSTANCES", "200"))
SENDERS: Final = 4  # each with a study of its own; one of them sends by STOW-RS
VICTIMS: Final = ("dimse", "web", "worker", "supervisor")
BATCH: Final = 20  # instances of one association
PATIENCE_S: Final = 60.0 + INSTANCES / 10
CHEST: Final = Path(sample_dicom.__file__).parent / CT_CHEST.folder

pytestmark = pytest.mark.timeout(60 + 2 * PATIENCE_S)


@dataclass
class Sender:
    """One modality: it sends its study until every instance was acknowledged."""

    node: StartedNode
    study: str
    files: dict[Path, str]  # the SOP Instance UID in each
    by_stow: bool
    acknowledged: set[Path] = field(default_factory=set)
    attempts: int = 0

    def run(self, stop: threading.Event) -> None:
        while (left := sorted(set(self.files) - self.acknowledged)) and not stop.is_set():
            self.attempts += 1
            for batch in (left[at : at + BATCH] for at in range(0, len(left), BATCH)):
                for path in self._stow(batch) if self.by_stow else self._c_store(batch):
                    self.acknowledged.add(path)
            stop.wait(0.1)

    def _c_store(self, paths: list[Path]) -> Iterator[Path]:
        for outcome in self.node.send(paths):
            assert outcome.status in (0, None), (hex(outcome.status or 0), outcome.comment)
            if outcome.status == 0:
                yield Path(outcome.label)

    def _stow(self, paths: list[Path]) -> Iterator[Path]:
        for path in paths:
            with suppress(httpx.TransportError):
                answer = httpx.post(
                    f"{self.node.dicom_web()}/studies",
                    content=path.read_bytes(),
                    headers={"Content-Type": "application/dicom"},
                    timeout=10,
                )
                assert answer.status_code in (200, 503), answer.text
                if answer.status_code == 200:
                    yield path


def _sender(node: StartedNode, folder: Path, seed: int, number: int) -> Sender:
    study = make.uid("kill", seed, number)
    files = {}
    for one in range(1, INSTANCES // SENDERS + 1):
        made = make.data_set(one, study_instance_uid=study, patient_id=f"K-{seed}-{number}")
        path = folder / f"{number}-{one:05}.dcm"
        path.write_bytes(make.part10_bytes(made))
        files[path] = str(made.SOPInstanceUID)
    return Sender(node, study, files, by_stow=number == 0)


@contextmanager
def _sending(senders: list[Sender]) -> Iterator[Callable[[], int]]:
    """The senders at work, each in a thread of its own; how many instances they have kept so far.

    Whoever leaves before they are done stops them; whoever stays until the end finds all done.
    """
    stop = threading.Event()
    threads = [threading.Thread(target=sender.run, args=(stop,)) for sender in senders]
    for thread in threads:
        thread.start()
    try:
        yield lambda: sum(len(sender.acknowledged) for sender in senders)
        for thread in threads:
            thread.join(PATIENCE_S)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture(params=range(1, ROUNDS + 1))
def killed_node(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[StartedNode, int]]:
    """A node for one round; every third stands on PostgreSQL and S3."""
    seed, settings = request.param, {}
    if seed % 3 == 0:
        settings = {n: request.getfixturevalue(f"{n}_url") for n in ("s3", "postgresql")}
        settings = {"store": settings["s3"], "index": settings["postgresql"]}
    with started_node(tmp_path, **settings) as node:
        yield node, seed


def test_whoever_is_killed_nothing_acknowledged_is_lost_or_doubled(
    killed_node: tuple[StartedNode, int], tmp_path: Path
) -> None:
    node, seed = killed_node
    folder = tmp_path / "sent"
    folder.mkdir()
    senders = [_sender(node, folder, seed, number) for number in range(SENDERS)]
    dice = random.Random(seed)
    moments = sorted(dice.sample(range(INSTANCES // 20, INSTANCES * 9 // 10), len(VICTIMS)))
    with _sending(senders) as count:
        for moment, victim in zip(moments, dice.sample(VICTIMS, len(VICTIMS)), strict=True):
            _wait_until(count, moment)
            _kill(node, victim)
    assert count() == INSTANCES

    for sender in senders:
        (run,) = node.wait_for_results(sender.study)
        assert run["state"] in ("skipped", "failed"), run  # no lungs in these
        _check_all_held_once(node, sender)
    node.stop()
    checked = node.command("fsck", "--json")
    assert json.loads(checked.stdout)["clean"], checked.stdout


def _wait_until(count: Callable[[], int], moment: int) -> None:
    wait_for(f"instance {moment}", lambda: count() >= moment, seconds=PATIENCE_S)


def _kill(node: StartedNode, victim: str) -> None:
    if victim == "supervisor":
        node.kill()
        node.start()
        return
    os.kill(wait_for(victim, lambda: node.roles().get(victim, 0)), signal.SIGKILL)


def _check_all_held_once(node: StartedNode, sender: Sender) -> None:
    rows = node.json(f"/dicom-web/studies/{sender.study}/instances", limit="5000")
    received = [row for row in rows if row["00080060"]["Value"] == ["CT"]]
    assert sorted(by_tag(received, "00080018")) == sorted(sender.files.values())
    series = f"/dicom-web/studies/{sender.study}/series/{make.uid(sender.study, 'series')}"
    for path, sop_instance_uid in sender.files.items():
        sent = read_part10(path.read_bytes()).data_set
        assert node.data_set(f"{series}/instances/{sop_instance_uid}") == sent, path.name


def _put_to_sleep(node: StartedNode, role: str) -> None:
    """Stop a role, but not inside a transaction, where it would hold SQLite's one lock."""
    pid = node.roles()[role]
    while True:
        os.kill(pid, signal.SIGSTOP)
        with suppress(sqlite3.OperationalError):
            with closing(sqlite3.connect(node.data / "index.db", timeout=0.2)) as index:
                index.execute("BEGIN IMMEDIATE")
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.02)


def _infers(node: StartedNode) -> bool:
    jobs = node.jobs(CT_CHEST.study_instance_uid)
    return any(job["kind"] == "infer" and job["state"] == "running" for job in jobs)


def _check_one_result(node: StartedNode) -> None:
    study = CT_CHEST.study_instance_uid
    (run,) = node.wait_for_results(study)
    assert run["state"] == "succeeded"
    rows = node.json(f"/dicom-web/studies/{study}/series")
    counts = dict(zip(by_tag(rows, "00080060"), by_tag(rows, "00201209"), strict=True))
    assert (len(rows), counts) == (3, {"CT": len(list(CHEST.iterdir())), "SEG": 1, "SR": 1})


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, StartedNode]]:
    """Two nodes whose worker was hit while it ran the model: one killed, one put to sleep.

    Both jobs are taken over once their leases have run out, by another worker.
    """
    with ExitStack() as stack:
        nodes = {}
        for name, blow in (("killed", _kill), ("asleep", _put_to_sleep)):
            folder = tmp_path_factory.mktemp(name)
            node = nodes[name] = stack.enter_context(started_node(folder))
            node.send([CHEST])
            wait_for("the model to run", partial(_infers, node))
            blow(node, "worker")
        nodes["asleep"].start("--roles", "worker")
        yield nodes


def test_a_worker_killed_while_it_infers_leads_to_one_result(
    interrupted: dict[str, StartedNode],
) -> None:
    node = interrupted["killed"]
    _check_one_result(node)
    (job,) = [job for job in node.jobs(CT_CHEST.study_instance_uid) if job["kind"] == "infer"]
    assert job["attempts"] == 2
    node.stop()
    assert node.command("fsck").returncode == 0


def test_a_worker_that_wakes_up_after_its_lease_keeps_nothing(
    interrupted: dict[str, StartedNode],
) -> None:
    node = interrupted["asleep"]
    _check_one_result(node)
    os.kill(node.roles()["worker"], signal.SIGCONT)
    wait_for("the fence", lambda: "is no longer ours" in node.said())
    _check_one_result(node)
    node.stop()
    assert node.command("fsck").returncode == 0
