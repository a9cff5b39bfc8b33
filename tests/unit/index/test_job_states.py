"""The queue against a model of it: whatever workers do in whatever order, the rules hold."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from sqlalchemy import update

from pacs.errors import Conflict
from pacs.index import Index, catalog, jobs, open_index
from pacs.index.jobs import ENDED, FAILED, FAULTS_MAX, QUEUED, RUNNING, SUPERSEDED, Job
from pacs.index.schema import jobs as jobs_table

PATIENCE = 4  # attempts of each job, one more than it may have faults


@dataclass
class Model:
    """What we believe of one job."""

    generation: int
    state: str = QUEUED
    attempts: int = 0
    faults: int = 0
    is_silent: bool = False
    holder: int = 0  # the token that may change it
    tokens: list[int] = field(default_factory=list)


class Queue(RuleBasedStateMachine):
    """Enqueuers, workers, sleepers and the sweep, one step at a time."""

    held = Bundle("held")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.index: Index = open_index(f"sqlite:///{self.folder.name}/index.db")
        with self.index.write() as connection:
            self.archive_id = catalog.archive_id(connection, "main")
        self.models: dict[str, Model] = {}

    def teardown(self) -> None:
        if hasattr(self, "index"):
            self.index.close()
            self.folder.cleanup()

    @rule(number=st.integers(0, 5), generation=st.integers(1, 3))
    def enqueue(self, number: int, generation: int) -> None:
        key = f"job {number}"
        with self.index.write() as connection:
            is_new = jobs.enqueue(
                connection,
                key=key,
                kind="infer",
                archive_id=self.archive_id,
                study_instance_uid="1.2",
                generation=generation,
                payload={},
                attempts_max=PATIENCE,
            )
        assert is_new == (key not in self.models)
        self.models.setdefault(key, Model(generation))

    @rule(target=held, lease_s=st.sampled_from([-1.0, 60.0]))
    def claim(self, lease_s: float) -> object:
        with self.index.write() as connection:
            job = jobs.claim(connection, ["infer"], lease_s=lease_s)
        free = [key for key, model in self.models.items() if self.is_free(model)]
        if job is None:
            assert not free
            return multiple()
        assert job.key in free
        model = self.models[job.key]
        assert job.token not in model.tokens
        model.faults += model.state == RUNNING
        model.state, model.holder, model.is_silent = RUNNING, job.token, lease_s < 0
        model.attempts += 1
        model.tokens.append(job.token)
        assert (job.attempts, job.faults) == (model.attempts, model.faults)
        return job

    @staticmethod
    def is_free(model: Model) -> bool:
        abandoned = model.is_silent and model.faults < FAULTS_MAX - 1
        return model.state == QUEUED or (model.state == RUNNING and abandoned)

    def holds(self, job: Job) -> bool:
        model = self.models[job.key]
        return model.state == RUNNING and model.holder == job.token

    @rule(job=held)
    def renew(self, job: Job) -> None:
        expected = self.holds(job)
        try:
            with self.index.write() as connection:
                jobs.renew(connection, job)
            assert expected
            self.models[job.key].is_silent = False
        except Conflict:
            assert not expected

    @rule(job=consumes(held), state=st.sampled_from(sorted(ENDED)))
    def finish(self, job: Job, state: str) -> None:
        expected = self.holds(job)
        try:
            with self.index.write() as connection:
                jobs.finish(connection, job, state)
            assert expected
            self.models[job.key].state = state
        except Conflict:
            assert not expected

    @rule(job=consumes(held), is_fault=st.booleans())
    def give_back(self, job: Job, is_fault: bool) -> None:
        expected = self.holds(job)
        try:
            with self.index.write() as connection:
                again = jobs.give_back(
                    connection, job, reason_code="x", reason="X.", is_fault=is_fault
                )
                connection.execute(update(jobs_table).values(not_before=0.0))
            assert expected
            model = self.models[job.key]
            model.faults += is_fault
            assert again == (model.faults < FAULTS_MAX and model.attempts < PATIENCE)
            model.state = QUEUED if again else FAILED
        except Conflict:
            assert not expected

    @rule()
    def sweep(self) -> None:
        lost = [
            model
            for model in self.models.values()
            if model.state == RUNNING and model.is_silent and model.faults >= FAULTS_MAX - 1
        ]
        with self.index.write() as connection:
            assert jobs.fail_silent(connection) == len(lost)
        for model in lost:
            model.state = FAILED

    @rule(before=st.integers(1, 4))
    def supersede(self, before: int) -> None:
        replaced = [
            model
            for model in self.models.values()
            if model.state == QUEUED and model.generation < before
        ]
        with self.index.write() as connection:
            number = jobs.supersede(connection, self.archive_id, "1.2", before)
        assert number == len(replaced)
        for model in replaced:
            model.state = SUPERSEDED

    @invariant()
    def rows_and_model_agree(self) -> None:
        if not hasattr(self, "models"):
            return
        with self.index.read() as connection:
            rows = jobs.listed(connection, limit=100, cursor=0)
        assert {row.key: (row.state, row.attempts) for row in rows} == {
            key: (model.state, model.attempts) for key, model in self.models.items()
        }


Queue.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestQueue = Queue.TestCase
