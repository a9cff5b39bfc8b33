"""Forwarding on every database: nothing is entered twice or lost, whoever reads the feed with us."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from pacs.archive import Archive, upkeep
from pacs.forwarding import Forwarding, Rule, Trigger
from pacs.index import Index, audit, forwards, jobs
from pacs.index.schema import deliveries
from pacs.index.schema import jobs as jobs_table
from pacs.peers import Peer, Peers, Right
from pacs.store.files import FileStore
from pacs.workflow import ModelRef, Plan, Workflow
from tests import make

SWEEPERS = 4


@pytest.fixture
def archive(file_store: FileStore, index: Index) -> Archive:
    """An archive on each kind of database, with the peer PACS."""
    peers = Peers(index)
    for title in ("PACS", "SCANNER"):
        rights = frozenset({Right.RECEIVE})
        peers.put(make.READER, Peer(title, "192.0.2.9", 104, rights=rights))
    return Archive("main", file_store, index)


@pytest.fixture
def forwarding(archive: Archive) -> Forwarding:
    return Forwarding(archive.index, archive, {}, is_us=lambda _: False)


def rule(
    forwarding: Forwarding,
    trigger: Trigger = Trigger.RECEIVED,
    conditions: Mapping[str, Sequence[str]] | None = None,
    *,
    name: str = "one",
    peer: str = "PACS",
) -> None:
    forwarding.put(make.READER, Rule(name, peer, trigger, conditions or {}))


def store(archive: Archive, number: int, **attributes: object) -> None:
    made = make.data_set(number, **attributes)  # type: ignore[arg-type] # a test names what it likes
    archive.store(make.SCANNER, make.incoming(made))


def entered(archive: Archive) -> int:
    with archive.index.read() as connection:
        return connection.execute(select(func.count()).select_from(deliveries)).scalar_one()


def at_once(act: Callable[[], object], times: int = SWEEPERS) -> None:
    """Several at the same moment; whatever one raises is raised."""
    start = threading.Barrier(times)

    def one(_: int) -> None:
        start.wait()
        act()

    with ThreadPoolExecutor(times) as pool:
        list(pool.map(one, range(times)))


def test_what_is_received_is_entered_once_under_one_job_a_study(
    archive: Archive, forwarding: Forwarding
) -> None:
    rule(forwarding)
    for number in range(3):
        store(archive, number)
    store(archive, 9, study_instance_uid=make.uid("other"))
    assert forwarding.sweep() > 0
    assert sorted(one.waiting for one in forwarding.deliveries()) == [1, 3]
    store(archive, 4)
    forwarding.sweep()
    assert sorted(one.waiting for one in forwarding.deliveries()) == [1, 4]
    assert forwarding.sweep() == 0


def test_what_ai_makes_goes_by_rules_for_results_alone(
    archive: Archive, forwarding: Forwarding
) -> None:
    rule(forwarding, name="images")
    rule(forwarding, Trigger.COMPLETE, name="whole")
    rule(forwarding, Trigger.RESULT, {"Modality": ["SR"]}, name="reports")
    workflow = Workflow(
        archive.index,
        archive,
        Plan((ModelRef("lung", "1", "0" * 64),)),
        quiet_s=1e-9,
        consequences=[forwarding.on_complete],
    )
    store(archive, 1)
    workflow.complete_quiet_studies()
    with archive.index.write() as connection:
        job = jobs.claim(connection, ["infer"])
    assert job is not None
    outputs = [
        make.incoming(
            make.data_set(number, modality=modality, series_instance_uid=make.uid(number))
        )
        for number, modality in ((101, "SR"), (102, "SEG"))
    ]
    archive.keep_result(make.READER, job, outputs, model="lung", state="succeeded", record={})
    forwarding.sweep()
    with archive.index.read() as connection:
        rows = connection.execute(
            select(deliveries.c.rule, deliveries.c.sop_instance_uid).order_by(deliveries.c.id)
        ).all()
    assert sorted(row.rule for row in rows) == ["reports", "whole"]
    assert forwarding.sweep() == 0


def test_a_rule_holds_for_what_comes_after_it(archive: Archive, forwarding: Forwarding) -> None:
    store(archive, 1)
    rule(forwarding)
    assert forwarding.sweep() == 0
    store(archive, 2)
    forwarding.sweep()
    assert entered(archive) == 1


def test_a_rule_that_rested_does_not_make_good_for_what_it_missed(
    archive: Archive, forwarding: Forwarding
) -> None:
    rule(forwarding, name="other", conditions={"Modality": ["MR"]})
    forwarding.put(make.READER, Rule("one", "PACS", Trigger.RECEIVED, enabled=False))
    store(archive, 1)
    rule(forwarding)
    store(archive, 2)
    forwarding.sweep()
    assert entered(archive) == 1


def test_sweepers_that_race_enter_everything_once(archive: Archive, forwarding: Forwarding) -> None:
    rule(forwarding)
    for study in range(5):
        for number in range(4):
            store(archive, number, study_instance_uid=make.uid("race", study))
    at_once(forwarding.sweep)
    assert entered(archive) == 20
    assert len(forwarding.deliveries()) == 5
    with archive.index.read() as connection:
        assert forwards.position(connection) == audit.newest(connection)


def test_of_sweepers_that_read_the_same_rows_one_goes_on(index: Index) -> None:
    went_on: list[bool] = []

    def move() -> None:
        with index.write() as connection:
            went_on.append(forwards.move(connection, 0, 10))

    at_once(move)
    assert sorted(went_on) == [False] * (SWEEPERS - 1) + [True]


def test_sweepers_lose_nothing_while_others_store(archive: Archive, forwarding: Forwarding) -> None:
    rule(forwarding)
    number, lock = [0], threading.Lock()

    def store_or_sweep() -> None:
        for _ in range(6):
            with lock:
                number[0] += 1
                mine = number[0]
            store(archive, mine, study_instance_uid=make.uid("race", mine % 3))
            forwarding.sweep()

    at_once(store_or_sweep)
    forwarding.sweep()
    assert entered(archive) == 6 * SWEEPERS


def test_a_sweep_that_fails_has_moved_nothing(archive: Archive, forwarding: Forwarding) -> None:
    rule(forwarding)
    store(archive, 1)

    def fail() -> None:
        with archive.index.write() as connection:
            assert forwards.move(connection, 0, 1_000)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    forwarding.sweep()
    assert entered(archive) == 1


def test_completion_and_sweep_at_once_enter_an_instance_once(
    archive: Archive, forwarding: Forwarding
) -> None:
    rule(forwarding)
    rule(forwarding, Trigger.COMPLETE, name="two")
    workflow = Workflow(
        archive.index, archive, Plan(), quiet_s=1e-9, consequences=[forwarding.on_complete]
    )
    for number in range(8):
        store(archive, number)

    turns = iter([forwarding.sweep, workflow.complete_quiet_studies] * 2)
    lock = threading.Lock()

    def act() -> None:
        with lock:
            mine = next(turns)
        mine()

    at_once(act)
    assert entered(archive) == 8


def test_what_a_study_lacks_follows_with_its_next_generation(
    archive: Archive, forwarding: Forwarding
) -> None:
    rule(forwarding, Trigger.COMPLETE)
    workflow = Workflow(
        archive.index, archive, Plan(), quiet_s=1e-9, consequences=[forwarding.on_complete]
    )
    store(archive, 1)
    workflow.complete_quiet_studies()
    store(archive, 2)
    workflow.complete_quiet_studies()
    (one,) = forwarding.deliveries()
    assert (one.waiting, one.job.state) == (2, jobs.QUEUED), "no later generation supersedes it"


def test_a_generation_that_comes_again_meets_no_job_that_has_ended(
    archive: Archive, forwarding: Forwarding
) -> None:
    rule(forwarding, Trigger.COMPLETE)
    workflow = Workflow(
        archive.index, archive, Plan(), quiet_s=1e-9, consequences=[forwarding.on_complete]
    )
    store(archive, 1)
    workflow.complete_quiet_studies()
    with archive.index.write() as connection:
        job = jobs.claim(connection, ["forward"])
        assert job is not None
        jobs.finish(connection, job, jobs.SUCCEEDED)
    upkeep.rebuild(archive, make.READER)
    store(archive, 2)
    workflow.complete_quiet_studies()
    waiting, ended = forwarding.deliveries()
    assert (waiting.job.state, waiting.waiting) == (jobs.QUEUED, 1)
    assert ended.job.state == jobs.SUCCEEDED


def test_nothing_goes_back_to_who_sent_it(archive: Archive, forwarding: Forwarding) -> None:
    rule(forwarding, peer="SCANNER")
    store(archive, 1)
    archive.store(make.READER, make.incoming(make.data_set(2)))
    forwarding.sweep()
    assert entered(archive) == 1


@pytest.mark.parametrize(
    ("conditions", "number"),
    [
        ({"Modality": ["CT"]}, 2),
        ({"Modality": ["CT", "MR"]}, 3),
        ({"Modality": [r"CT\MR"]}, 3),
        ({"Modality": ["CT"], "StudyDescription": ["Abdomen*"]}, 1),
        ({"StudyDate": ["20240101-20241231"]}, 3),
        ({"StudyDate": ["-20231231"]}, 0),
        ({"PatientName": ["phantom*"]}, 3),
        ({"InstanceNumber": ["2"]}, 1),
        ({"ModalitiesInStudy": ["MR"]}, 1),
        ({"SOPClassUID": ["1.2.840.10008.5.1.4.1.1.2"]}, 3),
        ({"SourceApplicationEntityTitle": ["SCAN*"]}, 3),
        ({"SourceApplicationEntityTitle": ["OTHER"]}, 0),
    ],
)
def test_conditions_match_as_queries_do(
    archive: Archive,
    forwarding: Forwarding,
    conditions: Mapping[str, Sequence[str]],
    number: int,
) -> None:
    rule(forwarding, conditions=conditions)
    store(archive, 1)
    store(archive, 2, study_instance_uid=make.uid("b"), StudyDescription="Abdomen and pelvis")
    store(archive, 3, study_instance_uid=make.uid("c"), modality="MR")
    forwarding.sweep()
    assert entered(archive) == number


def test_a_dry_run_names_what_a_rule_would_choose_and_sends_nothing(
    archive: Archive, forwarding: Forwarding
) -> None:
    store(archive, 1)
    store(archive, 2)
    store(archive, 3, study_instance_uid=make.uid("mr"), modality="MR")
    tried = Rule("dry", "PACS", Trigger.COMPLETE, {"Modality": ["CT"]})
    (found,) = forwarding.test(make.READER, tried, 1)
    assert (found.study_instance_uid, found.instances) == (make.uid("study"), 2)
    assert forwarding.test(make.READER, tried, 1e-9) == []
    assert forwarding.rules() == []
    assert entered(archive) == 0


def test_a_rule_is_kept_as_it_was_given(forwarding: Forwarding, index: Index) -> None:
    rule(forwarding, conditions={"Modality": ["CT", "MR"]})
    held = forwarding.get("one")
    assert held.conditions == {"Modality": ("CT", "MR")}
    assert held.created_at is not None
    rule(forwarding, Trigger.COMPLETE)
    assert forwarding.get("one").trigger is Trigger.COMPLETE
    assert forwarding.get("one").since == held.since
    forwarding.remove(make.READER, "one")
    assert forwarding.rules() == []
    with index.read() as connection:
        assert audit.verify(connection) == ()


# lanes


def enqueue(index: Index, key: str, lane: str, archive: Archive) -> None:
    with index.write() as connection:
        jobs.enqueue(
            connection,
            key=key,
            kind="forward",
            archive_id=archive.id,
            study_instance_uid="1.2",
            generation=0,
            payload={},
            lane=lane,
        )


def claim(index: Index, *, lease_s: float = 60.0) -> str:
    with index.write() as connection:
        job = jobs.claim(connection, ["forward"], lease_s=lease_s)
    return "" if job is None else job.key


def test_of_a_lane_one_job_runs_at_a_time_and_others_pass(archive: Archive) -> None:
    index = archive.index
    for key, lane in (("a1", "A"), ("a2", "A"), ("b1", "B"), ("free", "")):
        enqueue(index, key, lane, archive)
    assert [claim(index) for _ in range(4)] == ["a1", "b1", "free", ""]
    with index.read() as connection:
        assert not jobs.is_any_due(connection, ["forward"])


def test_a_lane_whose_worker_fell_silent_goes_on_with_the_same_job(archive: Archive) -> None:
    for key in ("a1", "a2"):
        enqueue(archive.index, key, "A", archive)
    assert claim(archive.index, lease_s=-1) == "a1"
    assert [claim(archive.index) for _ in range(2)] == ["a1", ""]


def test_workers_that_race_for_a_lane_get_one_job(archive: Archive) -> None:
    for round_number in range(5):
        lane = f"L{round_number}"
        for number in range(4):
            enqueue(archive.index, f"{lane}/{number}", lane, archive)
        got: list[str] = []
        at_once(lambda: got.append(claim(archive.index)))  # noqa: B023 - called in this round
        assert [key for key in got if key.startswith(lane)] == [f"{lane}/0"], got


def test_a_lane_is_held_and_woken(archive: Archive) -> None:
    index = archive.index
    for key, lane in (("a1", "A"), ("b1", "B")):
        enqueue(index, key, lane, archive)
    with index.write() as connection:
        jobs.hold(connection, "A", 60)
    assert [claim(index) for _ in range(2)] == ["b1", ""]
    with index.write() as connection:
        jobs.wake(connection, "A", reason_codes=())
    assert claim(index) == "a1"


def test_a_job_that_gets_on_has_its_patience_anew(archive: Archive) -> None:
    enqueue(archive.index, "a1", "A", archive)
    for _ in range(3):
        with archive.index.write() as connection:
            job = jobs.claim(connection, ["forward"], lease_s=-1)
    assert job is not None
    assert (job.attempts, job.faults) == (3, 2)
    with archive.index.write() as connection:
        assert jobs.gets_on(connection, job).attempts == 1
        row = connection.execute(select(jobs_table.c.attempts, jobs_table.c.faults)).one()
    assert tuple(row) == (1, 0)
