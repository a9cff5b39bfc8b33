"""Who is recognised as which peer, and what is kept of it, on every database."""

from __future__ import annotations

import pytest

from pacs import peers as module
from pacs.access import Action, Actor
from pacs.errors import BadQuery, Exhausted, Forbidden, Missing, Unreachable
from pacs.index import Index, audit
from pacs.peers import Peer, Peers, Right, UnknownCallers, certifies, rights_of

OPERATOR = Actor("operator", "test")


def answers(_: Peer) -> None:
    """A peer that is there."""


CT = Peer("CT 1", "127.0.0.1", 104, rights=frozenset({Right.STORE, Right.QUERY}))


@pytest.fixture
def peers(sqlite_index: Index) -> Peers:
    kept = Peers(sqlite_index)
    kept.put(OPERATOR, CT)
    return kept


def test_a_peer_is_kept_as_it_was_put_on_every_database(index: Index) -> None:
    kept = Peers(index)
    second = Peer("A", "pacs.example.org", 11112, tls=True, rights=frozenset(Right))
    assert kept.put(OPERATOR, CT)
    assert kept.put(OPERATOR, second)
    assert kept.list() == [second, CT]
    assert kept.get(" CT 1 ") == CT
    kept.remove(OPERATOR, "A")
    assert kept.list() == [CT]


def test_what_was_heard_of_a_peer_outlives_its_change(index: Index) -> None:
    kept = Peers(index)
    kept.put(OPERATOR, CT)
    kept.note(CT.ae_title)
    kept.note(CT.ae_title, "it is busy")
    assert not kept.put(OPERATOR, Peer("CT 1", "10.0.0.1", 4242))
    now = kept.get("CT 1")
    assert (now.host, now.port, now.rights) == ("10.0.0.1", 4242, frozenset())
    assert now.last_error == "it is busy"
    assert now.last_association_at is not None
    assert now.last_error_at is not None
    assert now.last_error_at >= now.last_association_at


def test_every_change_of_a_peer_stands_in_the_audit_trail(
    peers: Peers, sqlite_index: Index
) -> None:
    peers.remove(OPERATOR, CT.ae_title)
    with sqlite_index.read() as connection:
        rows = list(connection.exec_driver_sql("SELECT event FROM audit ORDER BY seq"))
        assert audit.verify(connection) == ()
    events = [event for (event,) in rows]
    assert '"action":"put peer"' in events[-2]
    assert '"rights":["query","store"]' in events[-2]
    assert '"action":"remove peer"' in events[-1]


def test_a_peer_that_is_not_there_is_missing(peers: Peers) -> None:
    with pytest.raises(Missing):
        peers.get("OTHER")
    with pytest.raises(Missing):
        peers.remove(OPERATOR, "OTHER")


@pytest.mark.parametrize(
    "peer",
    [
        Peer("", "host", 104),
        Peer("SEVENTEEN LETTERS", "host", 104),
        Peer("BACK\\SLASH", "host", 104),
        Peer("UMLÄUT", "host", 104),
        Peer("NEW\nLINE", "host", 104),
        Peer(" PADDED", "host", 104),
        Peer("AET", "two words", 104),
        Peer("AET", "http://host/", 104),
        Peer("AET", "a..b", 104),
        Peer("AET", "h" * 300, 104),
        Peer("AET", "host", 0),
        Peer("AET", "host", 65_536),
        Peer("AET", "*", -1),
        Peer("AET", "*", 0, rights=frozenset({Right.RECEIVE})),
    ],
    ids=str,
)
def test_what_cannot_be_a_peer_is_refused(peers: Peers, peer: Peer) -> None:
    with pytest.raises(BadQuery):
        peers.put(OPERATOR, peer)
    assert peers.list() == [CT]


@pytest.mark.parametrize("host", ["::1", "fe80::1%eth0", "ct-1.radiology.example.org", "10.0.0.1"])
def test_names_and_addresses_are_hosts(peers: Peers, host: str) -> None:
    assert peers.put(OPERATOR, Peer("AET", host, 104))


def test_one_peer_too_many_is_refused_and_not_kept(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PEERS_MAX", 1)
    with pytest.raises(Exhausted):
        peers.put(OPERATOR, Peer("AET", "host", 104))
    assert not peers.put(OPERATOR, CT)
    assert peers.list() == [CT]


def test_a_peer_may_do_what_its_rights_say(peers: Peers) -> None:
    actor = peers.actor("CT 1  ", "127.0.0.1", "MODALITY_2")
    assert (actor.kind, actor.name, actor.address) == ("peer", "CT 1", "127.0.0.1")
    assert actor.implementation == "MODALITY_2"
    assert actor.actions == {Action.STORE, Action.SEARCH}
    assert peers.get("CT 1").last_association_at is not None


@pytest.mark.parametrize(
    ("right", "actions"),
    [
        (Right.STORE, {Action.STORE}),
        (Right.QUERY, {Action.SEARCH}),
        (Right.RETRIEVE, {Action.RETRIEVE}),
        (Right.COMMIT, {Action.VERIFY}),
        (Right.RECEIVE, set()),
    ],
)
def test_each_right_gives_its_own_actions(peers: Peers, right: Right, actions: set[Action]) -> None:
    peers.put(OPERATOR, Peer("AET", "127.0.0.1", 104, rights=frozenset({right})))
    assert peers.actor("AET", "127.0.0.1", "").actions == actions


def test_no_peer_may_delete(peers: Peers) -> None:
    peers.put(OPERATOR, Peer("AET", "127.0.0.1", 104, rights=frozenset(Right)))
    assert Action.DELETE not in peers.actor("AET", "127.0.0.1", "").actions


@pytest.mark.parametrize(("setting", "actions"), [("store", {Action.STORE}), ("echo", set())])
def test_an_unknown_caller_gets_what_the_setting_gives_and_never_a_query(
    sqlite_index: Index, setting: UnknownCallers, actions: set[Action]
) -> None:
    strangers = Peers(sqlite_index, unknown_callers=setting)
    assert strangers.actor("ANY", "10.9.8.7", "").actions == actions


def test_an_unknown_caller_may_be_refused(sqlite_index: Index) -> None:
    with pytest.raises(Forbidden):
        Peers(sqlite_index, unknown_callers="refuse").actor("ANY", "10.9.8.7", "")


def test_a_listed_title_from_elsewhere_is_refused_and_told_to_the_operator(peers: Peers) -> None:
    with pytest.raises(Forbidden):
        peers.actor("CT 1", "10.9.8.7", "")
    assert "10.9.8.7, which is not its host" in peers.get("CT 1").last_error
    assert peers.get("CT 1").last_association_at is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "*", ""])
@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_a_peer_is_recognised_at_its_host(peers: Peers, host: str, address: str) -> None:
    peers.put(OPERATOR, Peer("AET", host, 104))
    assert peers.actor("AET", address, "").name == "AET"


def test_a_host_that_cannot_be_resolved_is_a_reason_to_wait(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError

    peers.put(OPERATOR, Peer("AET", "ct-1.example.org", 104))
    monkeypatch.setattr("pacs.peers.socket.getaddrinfo", fails)
    with pytest.raises(Unreachable):
        peers.actor("AET", "127.0.0.1", "")


@pytest.mark.parametrize(
    ("host", "names", "is_peer"),
    [
        ("ct.example.org", {"CT 1"}, True),
        ("ct.example.org", {"CT.Example.org"}, True),
        ("::1", {"0:0:0:0:0:0:0:1"}, True),
        ("*", {"CT 1"}, True),
        ("ct.example.org", {"*.example.org"}, False),
        ("ct.example.org", {"ct 1"}, False),
        ("*", {"*"}, False),
        ("", {""}, False),
    ],
)
def test_a_certificate_names_a_peer_by_its_title_or_its_host(
    host: str, names: set[str], is_peer: bool
) -> None:
    assert certifies(names, Peer("CT 1", host, 104)) is is_peer


@pytest.mark.parametrize("names", [{"CT 1"}, {"127.0.0.1", "ct.example.org"}])
def test_a_certificate_counts_for_more_than_an_address(peers: Peers, names: set[str]) -> None:
    assert peers.actor("CT 1", "10.9.8.7", "", names).name == "CT 1"


@pytest.mark.parametrize("names", [set(), {"CT"}, {"ct.example.org"}])
def test_a_certificate_of_another_name_is_refused_even_from_the_right_address(
    peers: Peers, names: set[str]
) -> None:
    with pytest.raises(Forbidden):
        peers.actor("CT 1", "127.0.0.1", "", names)
    assert "a certificate of another name" in peers.get("CT 1").last_error


def test_the_same_news_is_written_once_and_other_news_at_once(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers.note("CT 1", "it is busy")
    first = peers.get("CT 1").last_error_at
    peers.note("CT 1", "it is busy")
    assert peers.get("CT 1").last_error_at == first
    peers.note("CT 1", "the line broke")
    assert peers.get("CT 1").last_error == "the line broke"
    monkeypatch.setattr(module, "NOTE_EVERY_S", 0.0)
    peers.note("CT 1", "it is busy")
    assert peers.get("CT 1").last_error == "it is busy"


def test_an_echo_is_noted_as_an_association_or_as_an_error(peers: Peers) -> None:
    def busy(_: Peer) -> None:
        raise Unreachable("refused: it is busy")

    assert not peers.echo("CT 1", busy).is_answered
    assert peers.get("CT 1").last_error == "refused: it is busy"
    answer = peers.echo("CT 1", answers)
    assert (answer.is_answered, answer.reason) == (True, "")
    assert peers.get("CT 1").last_association_at is not None


def test_a_peer_without_a_host_cannot_be_called(peers: Peers) -> None:
    peers.put(OPERATOR, Peer("AET", "*", 0))
    with pytest.raises(BadQuery):
        peers.echo("AET", answers)


def test_rights_are_read_from_words() -> None:
    assert rights_of(["store", "query", "store"]) == {Right.STORE, Right.QUERY}
    with pytest.raises(BadQuery, match="receive"):
        rights_of(["store", "delete"])
