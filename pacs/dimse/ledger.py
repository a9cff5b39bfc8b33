"""Who holds an association, counted over all receivers of a port.

Several receivers may answer behind one port, each a process; the cap is the port's. They share an
unnamed file: a region for each receiver, a slot for each association it may hold, in each slot a
digest of the caller's address, zero while it is free. A lock of the file makes counting and taking
one step, and the system gives it back if its holder is killed. What a dead receiver held is freed
by its supervisor, or by the receiver that takes its place.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final

SLOT_BYTES: Final = 8
RECEIVERS_MAX: Final = 64  # behind one port; settings allow no more


class Ledger:
    """One receiver's view of the slots. `receiver` is its number, from 0; its region is its own."""

    def __init__(self, descriptor: int, *, slots_max: int, receiver: int = 0) -> None:
        self._descriptor = descriptor
        self._receiver = receiver
        self._slots_max = slots_max  # of one receiver: a single one may hold all of the port's
        self._lock = threading.Lock()
        self._map = mmap.mmap(descriptor, 0)
        self._slots = memoryview(self._map).cast("Q")

    @classmethod
    def alone(cls, slots_max: int) -> Ledger:
        """The ledger of a port with one receiver."""
        with tempfile.TemporaryFile() as file:
            return cls(make(file.fileno(), receivers=1, slots_max=slots_max), slots_max=slots_max)

    def take(self, address: str, *, in_all_max: int, per_address_max: int) -> int | None:
        """A slot for a caller at this address, None where the port or the address has too many."""
        key = _key(address)
        with self._held():
            taken = [held for held in self._slots.tolist() if held]
            if len(taken) >= in_all_max or taken.count(key) >= per_address_max:
                return None
            slot = next(n for n in self._own if not self._slots[n])
            self._slots[slot] = key
            return slot

    def give_back(self, slot: int) -> None:
        """Free a slot that `take` gave."""
        self._slots[slot] = 0

    def clear(self) -> None:
        """Free every slot of this receiver, which has just begun or has died."""
        with self._held():
            for slot in self._own:
                self._slots[slot] = 0

    @property
    def is_lightest(self) -> bool:
        """Whether no other receiver holds fewer associations than this one."""
        held = [bool(slot) for slot in self._slots.tolist()]
        starts = range(0, len(held), self._slots_max)
        counts = [sum(held[start : start + self._slots_max]) for start in starts]
        return counts[self._receiver] <= min(counts)

    @property
    def _own(self) -> range:
        start = self._receiver * self._slots_max
        return range(start, start + self._slots_max)

    @contextmanager
    def _held(self) -> Iterator[None]:
        # The file's lock belongs to the process, so threads need one of their own.
        with self._lock:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


def make(descriptor: int, *, receivers: int, slots_max: int) -> int:
    """Give an empty file the size of a ledger; a descriptor of it that lives on."""
    os.ftruncate(descriptor, receivers * slots_max * SLOT_BYTES)
    return os.dup(descriptor)


def _key(address: str) -> int:
    return int.from_bytes(blake2b(address.encode(), digest_size=SLOT_BYTES).digest(), "big") or 1
