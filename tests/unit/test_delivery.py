"""What a peer's answer means for a delivery: it has arrived, it never will, or it waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.delivery import Fate, Outcome, judged, verdict_of
from pacs.index.forwards import DELIVERED, REFUSED, WAITING


@pytest.mark.parametrize(
    ("status", "state", "trouble"),
    [
        (0x0000, DELIVERED, ""),
        (0xB000, DELIVERED, ""),
        (0xB006, DELIVERED, ""),
        (0xB007, DELIVERED, ""),
        (0x0111, DELIVERED, ""),
        (0xA700, WAITING, "peer_full"),
        (0xA7FF, WAITING, "peer_full"),
        (0x0213, WAITING, "peer_full"),
        (0x0110, WAITING, "not_now"),
        (0xFE00, WAITING, "not_now"),
        (0xA900, REFUSED, ""),
        (0xC000, REFUSED, ""),
        (0xCFFF, REFUSED, ""),
        (0x0122, REFUSED, ""),
        (0x0124, REFUSED, ""),
        (0x0117, REFUSED, ""),
        (0xFF00, REFUSED, ""),
    ],
)
def test_a_status_decides_what_becomes_of_a_delivery(status: int, state: str, trouble: str) -> None:
    verdict = judged(status)
    assert (verdict.state, verdict.trouble) == (state, trouble)


@given(st.integers(0, 0xFFFF))
def test_whatever_is_answered_what_did_not_arrive_has_words_and_what_waits_a_trouble(
    status: int,
) -> None:
    verdict = judged(status)
    assert bool(verdict.reason) == (verdict.state != DELIVERED)
    assert bool(verdict.trouble) == (verdict.state == WAITING)
    assert verdict.state == DELIVERED or f"{status:04X}" in verdict.reason


@pytest.mark.parametrize(
    ("fate", "state", "trouble"),
    [
        (Fate.IMPOSSIBLE, REFUSED, ""),
        (Fate.UNREAD, WAITING, "not_now"),
        (Fate.BROKEN, WAITING, "line_broke"),
        (Fate.LEFT, WAITING, "line_broke"),
        (Fate.UNSENT, WAITING, "unreachable"),
    ],
)
def test_what_was_not_answered_is_judged_by_how_far_it_came(
    fate: Fate, state: str, trouble: str
) -> None:
    verdict = verdict_of(Outcome("1.2", None, "why", fate))
    assert (verdict.state, verdict.reason, verdict.trouble) == (state, "why", trouble)
