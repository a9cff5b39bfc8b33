"""Senders that are not the limit: every PDU of every slice is built before the clock starts.

Each association has a process of its own and sends one slice, waits for its answer, and sends the
next, as scanners do. Slices are synthetic CT of 0.5 MB with new UIDs, since an archive may answer
a duplicate without storing it.
"""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection
from typing import Final, Self

import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid

from bench import wire
from bench.figures import percentile
from pacs.dicom.data_sets import written
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN
from pacs.dimse import messages
from pacs.errors import Broken, Unreachable

CT_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
ROWS = COLUMNS = 512
ANSWER_S: Final = 60.0  # a receiver that has not answered by then is broken

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Slice:
    """One instance to send."""

    sop_instance_uid: str
    data_set: bytes


def ct_slices(count: int) -> Iterator[Slice]:
    """A new series of a new study: 512 × 512 slices of 16 bits, each with other pixels."""
    grey = np.random.default_rng(0).integers(-1000, 1000, ROWS * COLUMNS, np.int16)
    made = _ct_series()
    for number in range(1, count + 1):
        made.SOPInstanceUID = generate_uid()
        made.InstanceNumber = number
        made.ImagePositionPatient = [-180, -180, number]
        made.PixelData = np.roll(grey, number * 7919).tobytes()
        made["PixelData"].VR = "OW"
        yield Slice(str(made.SOPInstanceUID), written(made, EXPLICIT_VR_LITTLE_ENDIAN))


def _ct_series() -> Dataset:
    made = Dataset()
    made.SOPClassUID = CT_IMAGE_STORAGE
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.StudyDate, made.StudyTime = "20260102", "101112"
    made.AccessionNumber, made.StudyID = "BENCH", "1"
    made.Modality, made.Manufacturer = "CT", "Isocenter Phantoms"
    made.ReferringPhysicianName = "Phantom^Referrer"
    made.StudyDescription, made.SeriesDescription = "CT chest", "Axial 1.0"
    made.PatientName, made.PatientID = "Phantom^Load", generate_uid()[-16:]
    made.PatientBirthDate, made.PatientSex = "19700101", "O"
    made.SliceThickness, made.KVP = 1, 120
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.FrameOfReferenceUID = generate_uid()
    made.SeriesNumber = 1
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns, made.PixelSpacing = ROWS, COLUMNS, [0.7, 0.7]
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.RescaleIntercept, made.RescaleSlope = 0, 1
    return made


class Association:
    """The requesting side of one association, with just what sending slices needs.

    With `quickack` each segment is acknowledged at once. Common senders delay that by up to 40 ms,
    and a receiver whose answer leaves in two small segments waits for it each time.
    """

    def __init__(self, address: Address, called: str, *, quickack: bool) -> None:
        self._quickack = quickack
        self._socket = socket.create_connection(address, timeout=ANSWER_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(
            wire.associate_request(called, "BENCH", CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)
        )
        kind, body = wire.read_pdu(self)
        if kind != messages.ASSOCIATE_AC or not wire.accepts(body):
            self._socket.close()
            raise Unreachable("the receiver took no association", kind=kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._socket:
            self._socket.sendall(wire.pdu(messages.RELEASE_RQ, bytes(4)))
            wire.read_pdu(self)

    def read(self, size: int) -> bytes:
        """So many bytes, or fewer at the connection's end."""
        found = b""
        while len(found) < size:
            if self._quickack:
                wire.acknowledge_at_once(self._socket)
            chunk = self._socket.recv(size - len(found))
            if not chunk:
                break
            found += chunk
        return found

    def store(self, prepared: bytes) -> int:
        """Send a prepared C-STORE; the status of its answer. Raises Unreachable."""
        self._socket.sendall(prepared)
        kind, body = wire.read_pdu(self)
        if kind != messages.P_DATA:
            raise Unreachable("the receiver ended the association", kind=kind)
        (pdv,) = messages.pdvs(memoryview(body))
        status = messages.number(messages.read_command(bytes(pdv.fragment)), messages.STATUS)
        assert status is not None, "a C-STORE response has a status (PS3.7 9.3.1.2)"
        return status


def store_request(slice_: Slice, message_id: int) -> bytes:
    """Every PDU of one C-STORE."""
    command = messages.write_command(
        [
            (messages.AFFECTED_CLASS, CT_IMAGE_STORAGE),
            (messages.COMMAND_FIELD, messages.C_STORE_RQ),
            (messages.MESSAGE_ID, message_id),
            (messages.PRIORITY, messages.MEDIUM),
            (messages.DATA_SET_TYPE, messages.WITH_DATA_SET),
            (messages.AFFECTED_INSTANCE, slice_.sop_instance_uid),
        ]
    )
    command_pdu = wire.p_data(1, messages.COMMAND | messages.LAST, command)
    data_pdus = (
        wire.p_data(1, messages.LAST if is_last else 0, fragment)
        for fragment, is_last in wire.fragments(slice_.data_set)
    )
    return b"".join(chain([command_pdu], data_pdus))


@dataclass(frozen=True, slots=True)
class Sent:
    """What one sender, or all of them together, saw. Moments are those of the monotonic clock."""

    began_s: float
    ended_s: float
    took_s: tuple[float, ...]  # from the first byte of each slice to its answer

    @property
    def instances_per_s(self) -> float:
        """From the first byte of the first sender to the last answer of the last one."""
        return len(self.took_s) / (self.ended_s - self.began_s)

    def answer_ms(self, share: float) -> float:
        """The time within which a share of the answers came, 0 to 1."""
        return percentile(self.took_s, share) * 1000


def send(address: Address, called: str, count: int, *, associations: int, quickack: bool) -> Sent:
    """Send new slices, shared among associations. Raises Broken unless each was stored."""
    fresh = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes = []
        for _ in range(associations):
            ours, theirs = fresh.Pipe()
            arguments = (theirs, address, called, count // associations, quickack)
            process = fresh.Process(target=_sender, args=arguments, daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join)
            pipes.append(stack.enter_context(ours))
        for pipe in pipes:
            _told(pipe)
        for pipe in pipes:
            pipe.send("go")
        return _together([_told(pipe) for pipe in pipes])


def _told(pipe: Connection) -> Sent:
    try:
        told: Sent = pipe.recv()
    except EOFError:
        raise Broken("a sender failed; see above") from None
    return told


def _together(sent: list[Sent]) -> Sent:
    return Sent(
        min(one.began_s for one in sent),
        max(one.ended_s for one in sent),
        tuple(chain.from_iterable(one.took_s for one in sent)),
    )


def _sender(pipe: Connection, address: Address, called: str, count: int, quickack: bool) -> None:
    """The main function of a sender's process."""
    prepared = [store_request(one, number) for number, one in enumerate(ct_slices(count), 1)]
    with Association(address, called, quickack=quickack) as association:
        pipe.send("ready")
        pipe.recv()
        pipe.send(_timed(association, prepared))


def _timed(association: Association, prepared: list[bytes]) -> Sent:
    took_s = []
    began_s = time.monotonic()
    for request in prepared:
        at = time.monotonic()
        status = association.store(request)
        took_s.append(time.monotonic() - at)
        if status:
            raise Broken("a slice was refused, and a fast refusal is no throughput", status=status)
    return Sent(began_s, time.monotonic(), tuple(took_s))
