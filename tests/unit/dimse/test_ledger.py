"""The ledger of a port: its receivers never hold more associations together than it may have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from pacs.dimse import ledger
from pacs.dimse.ledger import Ledger

SLOTS: Final = 4
LOCK_AND_WAIT: Final = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def descriptor() -> Iterator[int]:
    """The file of two receivers."""
    with tempfile.TemporaryFile() as file:
        made = ledger.make(file.fileno(), receivers=2, slots_max=SLOTS)
    yield made
    os.close(made)


@pytest.fixture
def pair(descriptor: int) -> tuple[Ledger, Ledger]:
    """What each of two receivers sees."""
    return (
        Ledger(descriptor, slots_max=SLOTS, receiver=0),
        Ledger(descriptor, slots_max=SLOTS, receiver=1),
    )


def _take(book: Ledger, address: str = "192.0.2.1", per_address_max: int = SLOTS) -> int | None:
    return book.take(address, in_all_max=SLOTS, per_address_max=per_address_max)


def test_the_cap_holds_for_both_receivers_together(pair: tuple[Ledger, Ledger]) -> None:
    one, other = pair
    slots = [_take(book) for book in (one, other, one, other)]
    assert None not in slots
    assert _take(one) is None
    assert slots[1] is not None
    other.give_back(slots[1])
    assert _take(one) is not None


def test_one_receiver_may_hold_all_there_is(pair: tuple[Ledger, Ledger]) -> None:
    assert None not in [_take(pair[1]) for _ in range(SLOTS)]
    assert _take(pair[0]) is None


def test_an_address_is_counted_over_both(pair: tuple[Ledger, Ledger]) -> None:
    one, other = pair
    assert _take(one, per_address_max=1) is not None
    assert _take(other, per_address_max=1) is None
    assert _take(other, "192.0.2.2", per_address_max=1) is not None


def test_the_receiver_with_fewer_associations_is_the_lightest(pair: tuple[Ledger, Ledger]) -> None:
    one, other = pair
    assert one.is_lightest
    assert other.is_lightest
    _take(one)
    assert (one.is_lightest, other.is_lightest) == (False, True)


def test_what_a_dead_receiver_held_is_freed(pair: tuple[Ledger, Ledger]) -> None:
    one, other = pair
    for _ in range(SLOTS - 1):
        _take(one)
    _take(other)
    one.clear()
    assert _take(other) is not None
    assert one.is_lightest


def test_racing_callers_never_get_more_than_there_is(pair: tuple[Ledger, Ledger]) -> None:
    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(lambda n: _take(pair[n % 2]), range(64)))
    assert sum(slot is not None for slot in taken) == SLOTS


def test_a_receiver_killed_with_the_lock_in_hand_holds_up_nobody(
    descriptor: int, pair: tuple[Ledger, Ledger]
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCK_AND_WAIT, str(descriptor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[descriptor],
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        holder.send_signal(signal.SIGKILL)
    assert _take(pair[0]) is not None
