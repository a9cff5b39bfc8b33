"""Our side as a requestor that asks: our own node, and archives that answer wrongly."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from pacs.archive import Incoming, Scope
from pacs.dicom.attributes import Level
from pacs.dicom.part10 import read_part10
from pacs.dimse import query_scu, scu
from pacs.dimse.query_scu import Retrieval, find, get, move
from pacs.dimse.scu import Peer
from pacs.errors import BadQuery, Exhausted, Refused, Unreachable
from pacs.export import Folder
from tests import make
from tests.unit.dimse.hostile_archive import FIND_RSP, GET_RSP, PENDING, Archive, archive
from tests.unit.dimse.scanner import CT, OPERATOR, Node, instance, node
from tests.wire.q_r_peers import destination

STUDY = make.uid("study asked for")


@pytest.fixture(scope="module")
def holding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that holds two studies, one of them of three instances in two syntaxes."""
    with node(tmp_path_factory.mktemp("node")) as started:
        for number in range(1, 3):
            made = make.data_set(number, study_instance_uid=STUDY)
            started.archive.store(make.SCANNER, make.incoming(made))
        made = make.data_set(3, study_instance_uid=STUDY)
        started.archive.store(make.SCANNER, make.incoming(made, make.DEFLATED))
        started.archive.store(
            make.SCANNER, make.incoming(instance(patient_id="P-2", patient_name="Phantom^Two"))
        )
        yield started


def asking(of: Node) -> Peer:
    return Peer("127.0.0.1", of.port, calling_ae_title="SCANNER")


# what honest peers answer


def test_studies_are_found_by_any_key(holding: Node) -> None:
    keys = {"PatientName": "phantom^t*", "NumberOfStudyRelatedInstances": ""}
    found = find(asking(holding), Level.STUDY, keys)
    (row,) = found.rows
    assert row["PatientName"] == "Phantom^Two"
    assert row["NumberOfStudyRelatedInstances"] == "1"
    assert row["StudyInstanceUID"]
    assert not found.more


def test_a_question_ends_at_its_limit_and_says_that_more_exist(holding: Node) -> None:
    found = find(asking(holding), Level.STUDY, {}, matches_max=1)
    assert len(found.rows) == 1
    assert found.more
    exactly = find(asking(holding), Level.STUDY, {}, matches_max=2)
    assert len(exactly.rows) == 2
    assert not exactly.more


def test_what_a_peer_does_not_allow_is_refused_with_its_meaning(holding: Node) -> None:
    with pytest.raises(Refused, match="does not allow us"):
        find(Peer("127.0.0.1", holding.port, calling_ae_title="STRANGER"), Level.STUDY, {})
    with pytest.raises(Refused, match="does not accept the keys"):
        find(asking(holding), Level.SERIES, {})


@pytest.mark.parametrize("keys", [{"NoSuchAttribute": ""}, {"Rows": "many"}, {"PixelData": "1"}])
def test_a_key_that_cannot_be_asked_is_wrong_usage(keys: dict[str, str]) -> None:
    with pytest.raises(BadQuery):
        find(Peer("127.0.0.1", 1), Level.INSTANCE, keys)


def test_a_study_is_fetched_bit_for_bit_in_the_syntaxes_it_is_stored_in(
    holding: Node, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    found = get(
        asking(holding),
        Scope(STUDY),
        Folder(tmp_path / "out").keep,
        tell=lambda *far: told.append(far),
    )
    assert found == Retrieval(status=0, kept=3)
    assert found.is_whole
    assert told[-1] == (3, 3)
    files = [read_part10(path.read_bytes()) for path in (tmp_path / "out").rglob("*.dcm")]
    stored = holding.archive.retrieve(OPERATOR, Scope(STUDY))
    assert {(bytes(file.data_set), file.transfer_syntax_uid) for file in files} == {
        (holding.archive.data_set(one), one.transfer_syntax_uid) for one in stored
    }


def test_a_study_is_fetched_from_one_archive_into_another(holding: Node, tmp_path: Path) -> None:
    with node(tmp_path) as own:

        def keep(incoming: Incoming, expect: query_scu.Row) -> str:
            return own.archive.store(make.SCANNER, incoming, expect=expect).warning

        assert get(asking(holding), Scope(STUDY), keep).kept == 3
        assert get(asking(holding), Scope(STUDY), keep).is_whole
        assert len(own.instances(STUDY)) == 3


def test_a_long_instance_is_fetched_through_files_bit_for_bit(tmp_path: Path) -> None:
    made = instance()
    made.PixelData = os.urandom(20 << 20)
    folder = Folder(tmp_path / "out")
    with node(tmp_path) as far:
        far.archive.store(make.SCANNER, make.incoming(made))
        scope = Scope(made.StudyInstanceUID)
        assert get(asking(far), scope, folder.keep, spool=folder.path).is_whole
    (path,) = files_in(folder.path)
    assert read_part10(path.read_bytes()).data_set == make.data_set_bytes(made)


def test_one_instance_is_fetched_alone(holding: Node, tmp_path: Path) -> None:
    wanted = holding.instances(STUDY)[1]
    scope = Scope(STUDY, wanted.series_instance_uid, wanted.sop_instance_uid)
    assert get(asking(holding), scope, Folder(tmp_path / "out").keep).kept == 1


@pytest.mark.parametrize("scope", [Scope(""), Scope("../../x"), Scope("1.2", "", "1.2.3")])
def test_a_scope_that_names_nothing_is_wrong_usage(scope: Scope) -> None:
    with pytest.raises(BadQuery):
        get(Peer("127.0.0.1", 1), scope, lambda *_: "")


def test_a_study_is_moved_to_a_third(holding: Node) -> None:
    with destination(holding, takes=((CT, (make.EXPLICIT, make.DEFLATED)),)) as third:
        found = move(asking(holding), Scope(STUDY), third.ae_title)
        assert found.is_whole
        assert len(third.received) == 3
    refused = move(asking(holding), Scope(STUDY), "NOBODY")
    assert (refused.status, refused.is_whole) == (0xA801, False)
    assert "does not know the destination" in refused.reason


def test_a_peer_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="nobody listens"):
        find(Peer("127.0.0.1", 1), Level.STUDY, {})
    with pytest.raises(Unreachable, match="nobody listens"):
        get(Peer("127.0.0.1", 1), Scope("1.2"), Folder(tmp_path / "out").keep)


# what others answer to a C-FIND


def asked(script: Callable[[Archive], None], matches_max: int = 100) -> query_scu.Matches:
    before = threading.active_count()
    with archive(script) as peer:
        try:
            return find(peer, Level.INSTANCE, {}, matches_max=matches_max)
        finally:
            assert threading.active_count() <= before + 5


def without_status(archive: Archive) -> None:
    archive.reply(FIND_RSP, None)


def to_another_question(archive: Archive) -> None:
    archive.match(message_id=archive.message_id + 1)


def of_another_kind(archive: Archive) -> None:
    archive.reply(GET_RSP, PENDING)


def vast(archive: Archive) -> None:
    archive.reply(FIND_RSP, PENDING, bytes(2 << 20))


def then_gone(archive: Archive) -> None:
    archive.match()
    archive.socket.close()


def with_an_abort(archive: Archive) -> None:
    archive.match()
    archive.pdu(7, bytes(4))


def with_an_instance(archive: Archive) -> None:
    archive.store(b"", "1.2.3", archive.classes[1])


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (without_status, "has no status"),
        (to_another_question, "nothing that was asked"),
        (of_another_kind, "nothing that was asked"),
        (vast, "too long"),
        (then_gone, "line broke"),
        (with_an_abort, "aborted"),
        (with_an_instance, "ended before the answer"),
    ],
)
def test_an_answer_that_is_none_ends_the_question(
    script: Callable[[Archive], None], reason: str
) -> None:
    with pytest.raises(Unreachable, match=reason):
        asked(script)


def test_a_peer_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scu, "ANSWER_S", 0.3)
    with pytest.raises(Unreachable):
        asked(lambda _: None)


@pytest.mark.parametrize(
    ("status", "error"),
    [(0xA700, Exhausted), (0xA900, Refused), (0xC000, Refused), (0x0122, Refused)],
)
def test_a_failure_is_told_with_its_status(status: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"{status:04X}"):
        asked(lambda archive: archive.reply(FIND_RSP, status))


def test_answers_without_end_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_scu, "CANCEL_S", 0.2)

    def endless(archive: Archive) -> None:
        while True:
            archive.match()

    found = asked(endless)
    assert len(found.rows) == 100
    assert found.more


def test_a_flood_of_answers_is_read_at_our_own_pace() -> None:
    def flood(archive: Archive) -> None:
        for number in range(3_000):
            archive.match(f"1.2.{number}")
        archive.reply(FIND_RSP, 0)

    found = asked(flood, matches_max=5_000)
    assert [row["SOPInstanceUID"] for row in found.rows] == [f"1.2.{n}" for n in range(3_000)]


def test_answers_that_do_not_parse_are_counted_and_the_others_stand() -> None:
    def odd(archive: Archive) -> None:
        for identifier in (b"\xff" * 500, b"", make.nested(300), bytes(7)):
            archive.reply(FIND_RSP, PENDING, identifier)
        archive.match()
        archive.reply(FIND_RSP, 0)

    found = asked(odd)
    assert [row["SOPInstanceUID"] for row in found.rows] == ["1.2.3"]
    assert found.unreadable == 4
    assert not found.more


# what others answer to a C-GET


def fetched(folder: Path, script: Callable[[Archive], None]) -> Retrieval:
    """A study fetched from an archive that plays the script once it has said what it has."""

    def says_nothing(archive: Archive) -> None:
        archive.reply(FIND_RSP, 0)

    with archive(says_nothing, says_nothing, script) as peer:
        return get(peer, Scope(STUDY), Folder(folder).keep)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def with_uids(**uids: str) -> Dataset:
    return make.data_set(7, study_instance_uid=STUDY, **uids)  # type: ignore[arg-type]  # UIDs alone


@pytest.mark.parametrize(
    ("data_set", "announced"),
    [
        (instance(), None),  # of another study
        (with_uids(), "1.2.3.4"),
        (with_uids(sop_instance_uid="../../../x"), None),
        (with_uids(sop_instance_uid="/etc/x"), None),
        (with_uids(series_instance_uid="../x"), None),
        (with_uids(sop_instance_uid="1" * 65), None),
        (with_uids(), ""),
    ],
)
def test_what_was_not_asked_for_is_refused_and_leaves_nothing(
    tmp_path: Path, data_set: Dataset, announced: str | None
) -> None:
    statuses = []

    def smuggle(archive: Archive) -> None:
        uid = data_set.SOPInstanceUID if announced is None else announced
        statuses.append(archive.store(make.data_set_bytes(data_set), uid, CT))
        archive.reply(GET_RSP, 0, counts=(0, 1, 0, 0))

    found = fetched(tmp_path / "deep" / "out", smuggle)
    assert statuses == [0xA900]
    assert (found.kept, found.refusals, found.is_whole) == (0, 1, False)
    assert files_in(tmp_path) == []


def test_bytes_that_are_no_instance_are_refused_and_the_next_is_kept(tmp_path: Path) -> None:
    statuses = []

    def mixed(archive: Archive) -> None:
        good = make.data_set(7, study_instance_uid=STUDY)
        raw = make.data_set_bytes(good)
        for content in (os.urandom(9_000), make.nested(300), raw[:-9], raw):
            statuses.append(archive.store(content, good.SOPInstanceUID, CT))
        other = next(n for n, uid in archive.classes.items() if n > 1 and uid != CT)
        statuses.append(archive.store(raw, good.SOPInstanceUID, CT, context_id=other))
        archive.reply(GET_RSP, 0, counts=(0, 5, 0, 0))

    found = fetched(tmp_path / "out", mixed)
    assert statuses == [0xC000, 0xC000, 0xC000, 0x0000, 0x0110]
    assert (found.kept, found.refusals) == (1, 4)
    assert [path.name for path in files_in(tmp_path)] == ["IM000001.dcm"]


def test_a_peer_that_vanishes_leaves_what_came_and_no_half_file(tmp_path: Path) -> None:
    def vanish(archive: Archive) -> None:
        good = make.data_set(7, study_instance_uid=STUDY)
        raw = make.data_set_bytes(good)
        archive.store(raw, good.SOPInstanceUID, CT)
        archive.value(3, 3, b"")
        archive.socket.close()

    found = fetched(tmp_path / "out", vanish)
    assert (found.status, found.kept, found.is_whole) == (None, 1, False)
    assert found.reason
    assert len(files_in(tmp_path)) == 1


def test_a_peer_that_gets_no_further_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_scu, "STALL_S", 0.2)

    def stall(archive: Archive) -> None:
        while True:
            archive.reply(GET_RSP, PENDING, counts=(9, 0, 0, 0))

    found = fetched(tmp_path / "out", stall)
    assert found.reason == "it makes no progress"


def test_more_instances_than_one_fetch_may_bring_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_scu, "INSTANCES_MAX", 2)
    statuses = []

    def many(archive: Archive) -> None:
        for number in range(4):
            made = make.data_set(number, study_instance_uid=STUDY)
            raw = make.data_set_bytes(made)
            statuses.append(archive.store(raw, made.SOPInstanceUID, CT))
        archive.reply(GET_RSP, 0, counts=(0, 4, 0, 0))

    assert fetched(tmp_path / "out", many).kept == 2
    assert statuses == [0, 0, 0xA700, 0xA700]


def test_a_full_folder_is_told_to_the_peer(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    statuses = []

    def send(archive: Archive) -> None:
        (folder / "ST000001").write_bytes(b"")  # in the way of the folder that is wanted
        made = make.data_set(1, study_instance_uid=STUDY)
        statuses.append(archive.store(make.data_set_bytes(made), made.SOPInstanceUID, CT))
        archive.reply(GET_RSP, 0xA702, counts=(0, 0, 1, 0))

    found = fetched(folder, send)
    assert statuses == [0xA700]
    assert (found.failed, found.refused[0][1]) == (1, "the folder takes no more")
