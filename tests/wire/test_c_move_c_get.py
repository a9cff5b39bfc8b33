"""C-GET and C-MOVE over real sockets: what leaves, in which form, and every status."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import JPEG2000Lossless, generate_uid
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import AllStoragePresentationContexts
from sqlalchemy import text

from pacs.archive import Incoming, Scope
from pacs.dicom.part10 import preamble_and_meta, read_part10
from pacs.peers import Peer, Right
from tests import make
from tests.unit.dimse.scanner import CT, OPERATOR, Node, node
from tests.wire.q_r_peers import (
    PATIENT_GET,
    PATIENT_MOVE,
    STUDY_GET,
    STUDY_MOVE,
    Replies,
    counts,
    destination,
    identifier,
    requestor,
)

COMPRESSED = Path(__file__).parents[2] / "sample_dicom" / "compressed"
STUDY = make.uid("study")
PENDING, SUCCESS, SOME_FAILED, ALL_FAILED, CANCELLED = 0xFF00, 0x0000, 0xB000, 0xA702, 0xFE00
RECEIVER = [(CT, make.EXPLICIT)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("node")) as started:
        for made in make.study(3, series=2):
            started.archive.store(OPERATOR, make.incoming(made))
        yield started


def stored(running: Node, number: int) -> str:
    """Store a study of so many instances; its UID."""
    study = generate_uid()
    for made in make.study(number, study_instance_uid=study):
        running.archive.store(OPERATOR, make.incoming(made))
    return study


def sent_bytes(running: Node, study: str) -> dict[str, bytes]:
    """The data sets of a study as they are stored, by UID."""
    held = running.archive.retrieve(OPERATOR, Scope(study))
    return {one.sop_instance_uid: running.archive.data_set(one) for one in held}


def move(running: Node, asked: Dataset, model: str = STUDY_MOVE, to: str = "DEST") -> Replies:
    with requestor(running, model) as association:
        return list(association.send_c_move(asked, to, model))


def get(
    running: Node,
    asked: Dataset,
    model: str = STUDY_GET,
    receives: list[tuple[str, str]] = RECEIVER,
    answered: int = 0,
) -> tuple[Replies, dict[str, tuple[str, bytes]]]:
    """The responses, and what was received: syntax and data set by UID."""
    received: dict[str, tuple[str, bytes]] = {}

    def on_store(event: evt.Event) -> int:
        request = cast(C_STORE, event.request)
        assert request.DataSet is not None
        uid = str(request.AffectedSOPInstanceUID)
        received[uid] = (str(event.context.transfer_syntax), request.DataSet.getvalue())
        return answered

    with requestor(running, model, receives=receives, on_store=on_store) as association:
        return list(association.send_c_get(asked, model)), received


def final(replies: Replies) -> tuple[int, tuple[int | None, int, int, int]]:
    """Status and counts of the last response; those before were pending and added up."""
    for reply, _ in replies[:-1]:
        assert reply.Status == PENDING
    last = replies[-1][0]
    return last.Status, counts(last)


def failed_uids(replies: Replies) -> list[str]:
    last = replies[-1][1]
    assert last is not None
    uids = last.FailedSOPInstanceUIDList
    return [uids] if isinstance(uids, str) else list(uids)


# what is sent


@pytest.mark.parametrize(
    ("level", "keys", "number"),
    [
        ("PATIENT", {"PatientID": "P-1"}, 6),
        ("STUDY", {"PatientID": "P-1", "StudyInstanceUID": STUDY}, 6),
        (
            "SERIES",
            {
                "PatientID": "P-1",
                "StudyInstanceUID": STUDY,
                "SeriesInstanceUID": make.uid(STUDY, "series", 2),
            },
            3,
        ),
        (
            "IMAGE",
            {
                "PatientID": "P-1",
                "StudyInstanceUID": STUDY,
                "SeriesInstanceUID": make.uid(STUDY, "series", 2),
                "SOPInstanceUID": [
                    make.uid(make.uid(STUDY, "series", 2), number) for number in (1, 3)
                ],
            },
            2,
        ),
    ],
)
def test_every_level_is_retrieved_bit_for_bit(
    running: Node, level: str, keys: dict[str, str], number: int
) -> None:
    asked, whole = identifier(level, **keys), sent_bytes(running, STUDY)
    replies, received = get(running, asked, PATIENT_GET)
    assert final(replies) == (SUCCESS, (None, number, 0, 0))
    assert len(received) == number
    assert all(whole[uid] == data_set for uid, (_, data_set) in received.items())
    with destination(running) as taken:
        assert final(move(running, asked, PATIENT_MOVE)) == (SUCCESS, (None, number, 0, 0))
    assert {(uid, data_set) for uid, _, data_set in taken.received} == {
        (uid, data_set) for uid, (_, data_set) in received.items()
    }


def test_a_destination_learns_who_asked(running: Node) -> None:
    with destination(running) as taken:
        move(running, identifier(StudyInstanceUID=STUDY))
    told = {
        (str(one.MoveOriginatorApplicationEntityTitle).strip(), one.MoveOriginatorMessageID)
        for one in taken.requests
    }
    assert told == {("SCANNER", 1)}
    assert running.peers.get("DEST").last_association_at is not None


def test_a_large_study_goes_down_two_lines_and_nothing_twice(running: Node) -> None:
    study = stored(running, 30)
    with destination(running) as taken:
        assert final(move(running, identifier(StudyInstanceUID=study))) == (
            SUCCESS,
            (None, 30, 0, 0),
        )
    assert taken.associations == 2
    assert sorted(uid for uid, _, _ in taken.received) == sorted(sent_bytes(running, study))


def test_nothing_that_matches_is_a_success_without_operations(running: Node) -> None:
    asked = identifier(StudyInstanceUID="1.2.3")
    with destination(running) as taken:
        assert final(move(running, asked)) == (SUCCESS, (None, 0, 0, 0))
    assert taken.associations == 0
    assert final(get(running, asked)[0]) == (SUCCESS, (None, 0, 0, 0))


# transfer syntaxes


def compressed(running: Node, name: str) -> list[str]:
    """Store a compressed sample study under UIDs of its own; the study's UID and its syntax."""
    files = [file.read_bytes() for file in sorted((COMPRESSED / name).glob("*.dcm"))]
    for file in files:
        part10 = read_part10(file)
        incoming = Incoming(part10.data_set, part10.transfer_syntax_uid)
        study = running.archive.store(OPERATOR, incoming).study_instance_uid
    return [study, part10.transfer_syntax_uid]


@pytest.mark.parametrize(
    "name",
    ["jpeg_2000", "jpeg_ls", "jpeg_lossless", "jpeg_baseline", "rle", "deflated", "big_endian"],
)
@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT])
def test_what_the_other_side_cannot_take_is_decompressed(
    running: Node, name: str, syntax: str
) -> None:
    study, stored_as = compressed(running, name)
    kinds = {held.sop_class_uid for held in running.instances(study)}
    replies, received = get(
        running,
        identifier(StudyInstanceUID=study),
        receives=[(sop_class_uid, syntax) for sop_class_uid in kinds],
    )
    assert final(replies)[0] == SUCCESS
    for uid, (received_as, data_set) in received.items():
        assert received_as == syntax != stored_as
        image = read_back(data_set, syntax)
        assert uid == image.SOPInstanceUID
        held = running.archive.retrieve(OPERATOR, Scope(study, sop_instance_uid=uid))[0]
        original = read_back(running.archive.data_set(held), stored_as)
        assert (image.pixel_array == original.pixel_array).all()


def read_back(data_set: bytes, transfer_syntax_uid: str) -> Dataset:
    meta = preamble_and_meta(
        sop_class_uid=CT, sop_instance_uid="1.2", transfer_syntax_uid=transfer_syntax_uid
    )
    return dcmread(BytesIO(meta + data_set))


def test_a_compressed_instance_leaves_as_it_is_to_who_takes_it(running: Node) -> None:
    study, syntax = compressed(running, "jpeg_2000")
    assert syntax == JPEG2000Lossless
    (kind,) = {held.sop_class_uid for held in running.instances(study)}
    with destination(running, takes=[(kind, (make.EXPLICIT, syntax))]) as taken:
        assert final(move(running, identifier(StudyInstanceUID=study)))[0] == SUCCESS
    assert {(uid, data_set) for uid, _, data_set in taken.received} == set(
        sent_bytes(running, study).items()
    )
    assert {received_as for _, received_as, _ in taken.received} == {syntax}


def test_what_cannot_be_decoded_fails_alone(running: Node) -> None:
    study, unknown = stored(running, 2), "1.2.826.0.1.99.4.9"
    odd = make.data_set(7, study_instance_uid=study)
    running.archive.store(OPERATOR, Incoming(make.data_set_bytes(odd), unknown))
    replies, received = get(running, identifier(StudyInstanceUID=study))
    assert final(replies) == (SOME_FAILED, (None, 2, 1, 0))
    assert failed_uids(replies) == [odd.SOPInstanceUID]
    assert len(received) == 2


def test_more_kinds_than_contexts_take_more_associations(running: Node) -> None:
    study = generate_uid()
    classes = [str(one.abstract_syntax) for one in AllStoragePresentationContexts[:70]]
    for number, sop_class_uid in enumerate(classes):
        made = make.data_set(number, study_instance_uid=study, SOPClassUID=sop_class_uid)
        running.archive.store(OPERATOR, make.incoming(made))
    takes = [(sop_class_uid, (make.EXPLICIT,)) for sop_class_uid in classes]
    with destination(running, takes=takes) as taken:
        replies = move(running, identifier(StudyInstanceUID=study))
    assert final(replies) == (SUCCESS, (None, 70, 0, 0))
    assert len({uid for uid, _, _ in taken.received}) == 70
    assert taken.associations == 3  # two for the first 64 kinds, one for the rest


# statuses


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (identifier("", StudyInstanceUID="1.2"), 0xA900),
        (identifier("PATIENT", PatientID="P-1"), 0xA900),
        (identifier(), 0xA900),
        (identifier(StudyInstanceUID="*"), 0xA900),
        (identifier("SERIES", SeriesInstanceUID="1.2"), 0xA900),
        (identifier(StudyInstanceUID="1.2", StudyDate="-"), 0xC000),
    ],
)
def test_a_request_that_names_nothing_in_particular_is_refused(
    running: Node, asked: Dataset, status: int
) -> None:
    with destination(running):
        assert move(running, asked)[-1][0].Status == status
    assert get(running, asked)[0][-1][0].Status == status


def test_a_patient_is_named_by_one_patient_id(running: Node) -> None:
    for asked in (identifier("PATIENT", PatientID="P*"), identifier("PATIENT", PatientID="*")):
        assert get(running, asked, PATIENT_GET)[0][-1][0].Status == 0xA900


def test_only_a_listed_peer_that_may_receive_is_a_destination(running: Node) -> None:
    asked = identifier(StudyInstanceUID=STUDY)
    assert move(running, asked, to="NOBODY")[-1][0].Status == 0xA801
    with destination(running, rights=frozenset({Right.STORE, Right.QUERY})) as taken:
        assert move(running, asked)[-1][0].Status == 0xA801
    assert taken.associations == 0


def test_a_peer_without_the_right_to_retrieve_is_refused(running: Node) -> None:
    rights = frozenset({Right.QUERY})
    running.peers.put(OPERATOR, Peer("READER", "127.0.0.1", 104, rights=rights))
    asked = identifier(StudyInstanceUID=STUDY)
    with destination(running), requestor(running, STUDY_MOVE, ae_title="READER") as association:
        assert [
            reply.Status for reply, _ in association.send_c_move(asked, "DEST", STUDY_MOVE)
        ] == [0x0124]
    with requestor(running, STUDY_GET, ae_title="READER", receives=RECEIVER) as association:
        assert [reply.Status for reply, _ in association.send_c_get(asked, STUDY_GET)] == [0x0124]


def test_matches_that_cannot_be_counted_are_said_so(tmp_path: Path) -> None:
    with node(tmp_path) as broken:
        with broken.archive.index.write() as connection:
            connection.execute(text("ALTER TABLE studies RENAME TO gone"))
        replies, _ = get(broken, identifier(StudyInstanceUID=STUDY))
    assert [reply.Status for reply, _ in replies] == [0xA701]


def test_a_destination_that_does_not_answer_fails_everything(running: Node) -> None:
    with destination(running):
        pass  # and is gone again
    replies = move(running, identifier(StudyInstanceUID=STUDY))
    assert final(replies) == (ALL_FAILED, (None, 0, 6, 0))
    assert sorted(failed_uids(replies)) == sorted(sent_bytes(running, STUDY))
    assert running.peers.get("DEST").last_error


def test_a_requestor_that_is_no_scp_gets_nothing(running: Node) -> None:
    with requestor(running, STUDY_GET) as association:
        replies = list(association.send_c_get(identifier(StudyInstanceUID=STUDY), STUDY_GET))
    assert final(replies) == (ALL_FAILED, (None, 0, 6, 0))


def test_warnings_and_failures_are_counted_apart(running: Node) -> None:
    study = stored(running, 6)
    first, second, *_ = sorted(sent_bytes(running, study))
    answers = {first: 0xA700, second: 0xB007}

    def judge(event: evt.Event) -> int:
        return answers.get(str(cast(C_STORE, event.request).AffectedSOPInstanceUID), 0)

    with destination(running, judge=judge):
        replies = move(running, identifier(StudyInstanceUID=study))
    assert final(replies) == (SOME_FAILED, (None, 4, 1, 1))
    assert failed_uids(replies) == [first]
    replies, _ = get(running, identifier(StudyInstanceUID=study), answered=0xB000)
    assert final(replies) == (SOME_FAILED, (None, 0, 0, 6))


def test_damaged_bytes_never_leave(tmp_path: Path) -> None:
    with node(tmp_path) as damaged, destination(damaged) as taken:
        study = stored(damaged, 3)
        first, *_ = damaged.instances(study)
        (file,) = tmp_path.rglob(f"*{first.digest[4:]}*")
        file.chmod(0o600)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        replies = move(damaged, identifier(StudyInstanceUID=study))
    assert final(replies) == (SOME_FAILED, (None, 2, 1, 0))
    assert failed_uids(replies) == [first.sop_instance_uid]
    assert first.sop_instance_uid not in {uid for uid, _, _ in taken.received}


# time and trouble


def slow(seconds: float) -> Callable[[evt.Event], int]:
    def judge(_event: evt.Event) -> int:
        time.sleep(seconds)
        return 0

    return judge


def test_the_requestor_hears_every_second_how_far_it_is(running: Node) -> None:
    study = stored(running, 2)
    with destination(running, judge=slow(1.2)), requestor(running, STUDY_MOVE) as association:
        asked, heard = identifier(StudyInstanceUID=study), [time.monotonic()]
        for reply, _ in association.send_c_move(asked, "DEST", STUDY_MOVE):
            heard.append(time.monotonic())
            remaining, *rest = counts(reply)
            assert (remaining or 0) + sum(rest) == 2
    assert max(later - earlier for earlier, later in pairwise(heard)) < 1.0
    assert len(heard) > 4


def cancelled(
    replies: Iterator[tuple[Dataset, Dataset | None]], association: Association, model: str
) -> Replies:
    """The responses to a request that is cancelled at its first one."""
    heard: Replies = []
    for reply in replies:
        if not heard:
            association.send_c_cancel(1, query_model=model)
        heard.append(reply)
    return heard


def test_a_cancelled_move_says_what_was_not_started(running: Node) -> None:
    study = stored(running, 10)
    with (
        destination(running, judge=slow(0.3)) as taken,
        requestor(running, STUDY_MOVE) as association,
    ):
        asked = identifier(StudyInstanceUID=study)
        replies = association.send_c_move(asked, "DEST", STUDY_MOVE)
        last, _ = cancelled(replies, association, STUDY_MOVE)[-1]
    remaining, completed, failed, warning = counts(last)
    assert last.Status == CANCELLED
    assert (completed, failed, warning) == (len(taken.received), 0, 0)
    assert remaining == 10 - completed > 0


def test_a_cancelled_get_says_what_was_not_started(running: Node) -> None:
    study, received = stored(running, 10), []

    def on_store(event: evt.Event) -> int:
        received.append(event)
        time.sleep(0.3)
        return 0

    asked = identifier(StudyInstanceUID=study)
    with requestor(running, STUDY_GET, receives=RECEIVER, on_store=on_store) as association:
        replies = association.send_c_get(asked, STUDY_GET)
        last, _ = cancelled(replies, association, STUDY_GET)[-1]
    remaining, completed, failed, warning = counts(last)
    assert last.Status == CANCELLED
    assert (completed, failed, warning) == (len(received), 0, 0)
    assert remaining == 10 - completed > 0


def breaking(times: int) -> Callable[[evt.Event], int]:
    """A destination that aborts its association at the third instance, so many times."""
    left, seen = [times], [0]

    def judge(event: evt.Event) -> int:
        seen[0] += 1
        if seen[0] >= 3 and left[0]:
            left[0] -= 1
            event.assoc.abort()
        return 0

    return judge


def test_a_line_that_breaks_is_opened_once_again(running: Node) -> None:
    study = stored(running, 6)
    with destination(running, judge=breaking(1)) as taken:
        replies = move(running, identifier(StudyInstanceUID=study))
    assert final(replies) == (SUCCESS, (None, 6, 0, 0))
    assert taken.associations == 2


def test_no_instance_is_sent_more_than_twice(running: Node) -> None:
    study = stored(running, 6)
    with destination(running, judge=breaking(99)) as taken:
        replies = move(running, identifier(StudyInstanceUID=study))
    status, (_, completed, failed, _) = final(replies)
    assert (status, completed, failed) == (SOME_FAILED, 2, 4)
    assert taken.associations == 2
    assert len(taken.requests) == 4  # two that were taken, and one that was tried twice


def test_a_requestor_that_leaves_ends_its_retrieval(running: Node) -> None:
    study = stored(running, 10)
    with destination(running, judge=slow(0.2)) as taken:
        with requestor(running, STUDY_MOVE) as association:
            next(association.send_c_move(identifier(StudyInstanceUID=study), "DEST", STUDY_MOVE))
            association.abort()
        until = time.monotonic() + 5
        while running.receiver.associations and time.monotonic() < until:
            time.sleep(0.02)
        assert running.receiver.associations == 0
    assert len(taken.received) < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "retrieval"]
