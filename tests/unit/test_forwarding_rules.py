"""What can be a rule, and what is said of one that cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pacs.access import Action, Actor
from pacs.archive import Archive
from pacs.dicom.attributes import INDEXED
from pacs.errors import BadQuery, Exhausted, Forbidden, Missing
from pacs.forwarding import (
    CONDITIONS_MAX,
    RULES_MAX,
    VALUES_MAX,
    Forwarding,
    Rule,
    Trigger,
    meanings,
)
from pacs.index import forwards
from pacs.peers import Peer, Peers, Right
from tests import make

GOOD = Rule("ct-to-pacs", "PACS", Trigger.COMPLETE, {"Modality": ["CT"]})


@pytest.fixture
def forwarding(archive: Archive) -> Forwarding:
    peers = Peers(archive.index)
    rights = frozenset({Right.RECEIVE})
    peers.put(make.READER, Peer("PACS", "192.0.2.9", 104, rights=rights))
    peers.put(make.READER, Peer("ME", "127.0.0.1", 11112, rights=rights))
    peers.put(make.READER, Peer("SCANNER", "192.0.2.1", 104, rights=frozenset({Right.STORE})))
    return Forwarding(
        archive.index, archive, {"demo": archive}, is_us=lambda peer: peer.port == 11112
    )


def test_a_rule_is_new_once(forwarding: Forwarding) -> None:
    assert forwarding.put(make.READER, GOOD)
    assert not forwarding.put(make.READER, GOOD)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ""}, "a rule's name"),
        ({"name": "two words"}, "a rule's name"),
        ({"name": "a" * 65}, "a rule's name"),
        ({"project": "none"}, "there are: demo"),
        ({"project": "demo"}, "its trigger is received"),
        ({"peer": "ME"}, "forward to itself"),
        ({"peer": "SCANNER"}, "may not receive"),
    ],
)
def test_what_cannot_be_a_rule_is_refused(
    forwarding: Forwarding, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadQuery, match=said):
        forwarding.put(make.READER, replace(GOOD, **change))
    assert forwarding.rules() == []


def test_a_peer_must_be_listed_first(forwarding: Forwarding) -> None:
    with pytest.raises(Missing, match="add it first"):
        forwarding.put(make.READER, replace(GOOD, peer="OTHER"))


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ({"Colour": ["red"]}, "a condition is on one of .*Modality.*SourceApplicationEntityTitle"),
        ({"NumberOfStudyRelatedInstances": ["3"]}, "a condition is on one of"),
        ({"Modality": []}, "Modality needs 1 to 100 values"),
        ({"Modality": [""]}, "Modality would match everything"),
        ({"Modality": ["CT", "*"]}, "Modality would match everything"),
        ({"Modality": ["CT\\"]}, "Modality would match everything"),
        ({"Modality": ["CT"] * (VALUES_MAX + 1)}, "Modality needs 1 to 100 values"),
        ({"StudyDate": ["yesterday"]}, "StudyDate is not a DA value or range"),
        ({"StudyDate": ["-"]}, "StudyDate has a range without ends"),
        ({"StudyInstanceUID": ["1.2.*"]}, "StudyInstanceUID is not a list of UIDs"),
        ({"InstanceNumber": ["many"]}, "InstanceNumber is not a whole number"),
        ({"StudyDescription": ["*a" * 40]}, "more than 32 wildcards"),
        ({"StudyDescription": ["a\0b"]}, "a character that no value may hold"),
    ],
)
def test_a_condition_says_what_is_allowed(
    conditions: Mapping[str, Sequence[str]], said: str
) -> None:
    with pytest.raises(BadQuery, match=said):
        meanings(conditions)


def test_a_rule_has_only_so_many_conditions() -> None:
    with pytest.raises(BadQuery, match="at most"):
        meanings({f"Keyword{number}": ["1"] for number in range(CONDITIONS_MAX + 1)})


def test_every_indexed_attribute_can_be_a_condition() -> None:
    values = {"DA": "20240101", "TM": "10", "IS": "1", "US": "1", "UI": "1.2"}
    every = {a.keyword: [values.get(a.vr, "X")] for a in INDEXED.values() if a.matchable}
    (*_, last) = (meanings({keyword: given}) for keyword, given in every.items())
    assert len(every) > 25
    assert last


def test_no_more_rules_are_taken_than_a_node_can_ask(
    forwarding: Forwarding, archive: Archive
) -> None:
    with archive.index.write() as connection:
        for number in range(RULES_MAX):
            forwards.put(connection, replace(GOOD, name=f"rule-{number}"), 0)
    with pytest.raises(Exhausted):
        forwarding.put(make.READER, GOOD)
    assert len(forwarding.rules()) == RULES_MAX
    assert not forwarding.put(make.READER, replace(GOOD, name="rule-0", enabled=False))


def test_a_dry_run_is_a_search_and_needs_its_right(forwarding: Forwarding) -> None:
    storer = Actor("user", "storer", actions=frozenset({Action.STORE}))
    with pytest.raises(Forbidden):
        forwarding.test(storer, GOOD, 7)


def test_what_is_not_there_is_missing(forwarding: Forwarding) -> None:
    for ask in (
        lambda: forwarding.get("none"),
        lambda: forwarding.remove(make.READER, "none"),
        lambda: forwarding.retry(make.READER, delivery=7),
        lambda: forwarding.cancel(make.READER, delivery=7),
    ):
        with pytest.raises(Missing):
            ask()
    assert forwarding.retry(make.READER, peer="NOBODY") == 0
    with pytest.raises(BadQuery, match="waiting, sending, delivered, failed, cancelled"):
        forwarding.deliveries(state="lost")
