"""Events over WebSockets: what is heard, by whom, and what becomes of who does not listen."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from pacs.access import Action, Actor
from pacs.dicom.attribute_lists import element, first
from pacs.index import open_index
from pacs.workitems import GLOBAL, Workitems
from tests import make
from tests.contracts.workitems import ORDERER, PERFORMER, scheduled
from tests.unit.web.node import Served, serving
from web.dicomweb import notifications

ONE, LOCK = make.uid("one"), make.uid("lock")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as started:
        yield started


def listen(served: Served, ae_title: str = "W", **options: Any) -> Any:  # noqa: ANN401 - as the client takes them
    url = f"ws{served.dicom_web.removeprefix('http')}/ws/subscribers/{ae_title}"
    return connect(url, compression=None, **options)


def refusal(served: Served, **options: Any) -> int:  # noqa: ANN401 - as the client takes them
    """The HTTP status with which a socket is refused."""
    with pytest.raises(InvalidStatus) as refused, listen(served, **options):
        pass
    return int(refused.value.response.status_code)


def heard(client: ClientConnection) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(client.recv(timeout=20))
    return event


def drain(client: ClientConnection) -> None:
    while True:
        client.recv(timeout=20)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_watcher_hears_of_every_change(served: Served) -> None:
    kept = served.parts.workitems
    kept.subscribe(ORDERER, GLOBAL, "W")
    with listen(served) as client:
        kept.create(ORDERER, ONE, scheduled())
        kept.change_state(PERFORMER, ONE, "IN PROGRESS", LOCK)
        events = [heard(client), heard(client)]
    assert [first(event, "ProcedureStepState") for event in events] == ["SCHEDULED", "IN PROGRESS"]
    assert events[0] == {
        "00000002": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.34.6.1"]},
        "00000110": {"vr": "US", "Value": [1]},
        "00001000": {"vr": "UI", "Value": [ONE]},
        "00001002": {"vr": "US", "Value": [1]},
        "00404041": {"vr": "CS", "Value": ["READY"]},
        "00741000": {"vr": "CS", "Value": ["SCHEDULED"]},
    }
    assert events[1]["00000110"]["Value"] == [2]


def test_who_connects_first_hears_how_it_stands(served: Served) -> None:
    kept = served.parts.workitems
    kept.create(ORDERER, ONE, scheduled())
    kept.subscribe(ORDERER, ONE, "W")
    kept.change_state(PERFORMER, ONE, "IN PROGRESS", LOCK)
    with listen(served) as client:
        assert first(heard(client), "ProcedureStepState") == "IN PROGRESS"
        kept.update(PERFORMER, ONE, element("InputReadinessState", "UNAVAILABLE"), LOCK)
        assert first(heard(client), "InputReadinessState") == "UNAVAILABLE"


def test_a_change_made_by_another_process_is_heard(served: Served, tmp_path: Path) -> None:
    served.parts.workitems.subscribe(ORDERER, GLOBAL, "W")
    elsewhere = open_index(f"sqlite:///{tmp_path}/index.db")
    other = Workitems(elsewhere, served.archive.id, served.archive.name)
    with listen(served) as client:
        other.create(ORDERER, ONE, scheduled())
        assert heard(client)["00001000"]["Value"] == [ONE]
    elsewhere.close()


def test_each_hears_its_own_and_two_of_one_title_both(served: Served) -> None:
    kept = served.parts.workitems
    for name in "ab":
        kept.create(ORDERER, make.uid(name), scheduled())
    with listen(served, "A") as a, listen(served, "A") as also_a, listen(served, "B") as b:
        kept.subscribe(ORDERER, make.uid("a"), "A")
        kept.subscribe(ORDERER, make.uid("b"), "B")
        targets = [heard(client)["00001000"]["Value"][0] for client in (a, also_a, b)]
    assert targets == [make.uid("a"), make.uid("a"), make.uid("b")]


def test_nothing_is_lost_while_readers_come_and_go(served: Served) -> None:
    kept = served.parts.workitems
    kept.create(ORDERER, ONE, scheduled())
    kept.subscribe(ORDERER, ONE, "A")
    with listen(served, "A") as steady:
        heard(steady)
        for turn in range(10):
            with listen(served, "A") as passing:
                readiness = ("UNAVAILABLE", "READY")[turn % 2]
                kept.update(ORDERER, ONE, element("InputReadinessState", readiness))
                assert first(heard(passing), "InputReadinessState") in ("UNAVAILABLE", "READY")
        told = [first(heard(steady), "InputReadinessState") for _ in range(10)]
    assert told == ["UNAVAILABLE", "READY"] * 5


def test_a_reader_that_does_not_keep_up_is_cut_off_and_others_are_not(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "EVENTS_WAITING_MAX", 4)
    monkeypatch.setattr(notifications, "SEND_S", 0.5)
    kept = served.parts.workitems
    kept.create(ORDERER, ONE, scheduled())
    for ae_title in ("DEAF", "W"):
        kept.subscribe(ORDERER, ONE, ae_title)
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    line.connect(("127.0.0.1", int(served.url.rpartition(":")[2])))
    deafly = listen(served, "DEAF", sock=line, max_queue=1, close_timeout=0.1)
    with listen(served) as client, deafly as deaf:
        heard(client)
        for turn in range(20):
            progress = element("ProcedureStepProgress", turn)
            progress |= element("ProcedureStepProgressDescription", "x" * 900_000)
            kept.update(ORDERER, ONE, element("ProcedureStepProgressInformationSequence", progress))
            assert heard(client)["00001002"]["Value"] == [3]
        with pytest.raises(ConnectionClosed):
            drain(deaf)


def test_there_are_only_so_many_sockets(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "SOCKETS_MAX", 2)
    with listen(served), listen(served):
        with listen(served) as third, pytest.raises(ConnectionClosed) as closed:
            third.recv(timeout=20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == notifications.TRY_AGAIN_LATER

    def is_free() -> bool:
        with listen(served) as client:
            try:
                client.recv(timeout=0.2)
            except TimeoutError:
                return True
            except ConnectionClosed:
                return False
        return False

    until(is_free)


def test_a_page_of_another_site_may_not_listen(served: Served) -> None:
    assert refusal(served, origin="https://evil.example") == 403
    with listen(served, origin=served.url):
        pass


def test_who_may_not_watch_may_not_listen(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Workitems, _actor: Actor, ae_title: str) -> object:
        nobody = Actor("user", "nobody", actions=frozenset[Action]())
        return present(self, nobody, ae_title)

    present = Workitems.present
    monkeypatch.setattr(Workitems, "present", forbidden)
    assert refusal(served) == 403


def test_a_reader_that_talks_is_not_answered_and_goes_on(served: Served) -> None:
    kept = served.parts.workitems
    kept.subscribe(ORDERER, GLOBAL, "W")
    with listen(served) as client:
        for _ in range(20):
            client.send("hello")
        kept.create(ORDERER, ONE, scheduled())
        assert heard(client)["00001000"]["Value"] == [ONE]
