"""Decoding compressed pixel data in child processes that may break alone.

Codecs read hostile bytes in native code. So a `Decoder` keeps a few warm children; a frame goes
there through a socket and comes back as native samples. A child that crashes, hangs or grows is
killed and replaced, its request fails with a clear error, and the next one works. What needs no
codec (native syntaxes, the data set around the pixels) is done here, in the caller's process.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from queue import Empty, LifoQueue
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from pacs.decode import wire
from pacs.decode.explicit import Transcoder, element, implicit_element, swapped
from pacs.decode.image import BITS_ALLOCATED, ImagePixel
from pacs.decode.syntaxes import DECODABLE, DECODERS, NATIVE
from pacs.dicom.frames import frame_table
from pacs.dicom.part10 import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    PIXEL_DATA,
    Buffer,
    Scan,
    preamble_and_meta,
    read_part10,
    scan,
)
from pacs.errors import BadObject, Exhausted, Refused

__all__ = ["DECODABLE", "DECODERS", "Decoded", "Decoder", "ImagePixel"]

BATCH_BYTES_MAX: Final = (
    1 << 26
)  # decoded frames that one request to a child may hold, or one frame
ENCODED_BYTES_MAX: Final = 1 << 30  # a longer compressed frame is refused
DECODED_BYTES_MAX: Final = 1 << 31  # an object that would be larger when decoded is refused
MEMORY_BYTES_MAX: Final = 3 << 30  # address space of one child; beyond it, its allocations fail
REQUESTS_MAX: Final = 2_000  # after so many a child is replaced, so that a codec's leak stays small
WAIT_S_MAX: Final = 30.0  # how long a request waits for a free child before it is turned away

PHOTOMETRIC_INTERPRETATION: Final = 0x00280004

# What a child gets of our environment: enough to load libraries, none of our secrets.
_ENVIRONMENT: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Decoded:
    """Native frames, little endian, in the layout that `image` tells.

    Only `image.photometric_interpretation` can differ from what was asked with.
    """

    frames: list[bytes]
    image: ImagePixel


class Decoder:
    """A pool of decoding processes. Its methods are thread-safe; use it as a context, or close it.

    A child is started when it is first needed. `request_s_max` bounds the wall and the CPU time of
    one request, which holds at most BATCH_BYTES_MAX of decoded frames (or one larger frame).
    """

    def __init__(
        self,
        *,
        children_max: int = 2,
        request_s_max: float = 30.0,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
    ) -> None:
        assert children_max > 0, children_max
        self._request_s_max = request_s_max
        self._memory_bytes_max = memory_bytes_max
        self._closed = threading.Event()
        # Last in, first out: a quiet node keeps one warm child and never starts the others.
        self._free: LifoQueue[_Child | None] = LifoQueue()
        self._children_max = children_max
        for _ in range(children_max):
            self._free.put(None)

    def __enter__(self) -> Self:
        """Use the pool as a context."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every child."""
        self.close()

    def close(self) -> None:
        """End every child; one that is at work ends with its request."""
        self._closed.set()
        for _ in range(self._children_max):
            try:
                child = self._free.get_nowait()
            except Empty:
                return
            if child is not None:
                child.kill()

    def frames(
        self, image: ImagePixel, transfer_syntax_uid: str, encoded: Sequence[bytes]
    ) -> Decoded:
        """Decode whole frames, each joined from its fragments.

        Returns every frame as it would lie in Explicit VR Little Endian, `image.frame_bytes` long.
        Raises BadObject for frames that cannot be decoded, Exhausted when a limit of time or
        memory is reached, Refused for a transfer syntax that is not in DECODABLE.
        """
        if transfer_syntax_uid not in DECODABLE:
            raise Refused(
                "no decoder for this transfer syntax", transfer_syntax_uid=transfer_syntax_uid
            )
        if transfer_syntax_uid in NATIVE:
            return Decoded([_native(image, transfer_syntax_uid, raw) for raw in encoded], image)
        _check_sizes(image, encoded)
        frames: list[bytes] = []
        photometric_interpretation = image.photometric_interpretation
        per_batch = max(1, BATCH_BYTES_MAX // image.frame_bytes)
        for first in range(0, len(encoded), per_batch):
            batch = encoded[first : first + per_batch]
            with self._child() as child:
                decoded, photometric_interpretation = child.decode(
                    image, transfer_syntax_uid, batch
                )
            frames += decoded
        return Decoded(
            frames, replace(image, photometric_interpretation=photometric_interpretation)
        )

    def explicit_little_endian(self, part10: Buffer) -> bytes:
        """A Part 10 file as Explicit VR Little Endian: decompressed, never compressed anew.

        Values and their order stay; group lengths go, and Photometric Interpretation follows the
        decoded frames. Raises as `frames` does, and BadObject for a file that cannot be walked.
        """
        taken = read_part10(part10)
        if taken.transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN:
            return bytes(part10)
        walked = scan(taken.data_set, taken.transfer_syntax_uid)
        changed = dict(self._decoded_elements(walked, taken.transfer_syntax_uid))
        elements = dict(Transcoder(walked, taken.transfer_syntax_uid).elements()) | changed
        meta = preamble_and_meta(
            sop_class_uid=taken.sop_class_uid or walked.text("SOPClassUID"),
            sop_instance_uid=taken.sop_instance_uid or walked.text("SOPInstanceUID"),
            transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        )
        return meta + b"".join(elements[tag] for tag in sorted(elements))

    def implicit_little_endian(self, part10: Buffer) -> bytes:
        """The same as Implicit VR Little Endian, which every peer must take (PS3.5 10.1)."""
        taken = read_part10(self.explicit_little_endian(part10))
        walked = scan(taken.data_set, EXPLICIT_VR_LITTLE_ENDIAN)
        encoded = dict(
            Transcoder(walked, EXPLICIT_VR_LITTLE_ENDIAN, write=implicit_element).elements()
        )
        if PIXEL_DATA in walked.elements:
            raw = walked.value(PIXEL_DATA) or b""
            encoded[PIXEL_DATA] = implicit_element(PIXEL_DATA, "OW", raw)
        meta = preamble_and_meta(
            sop_class_uid=taken.sop_class_uid,
            sop_instance_uid=taken.sop_instance_uid,
            transfer_syntax_uid=IMPLICIT_VR_LITTLE_ENDIAN,
        )
        return meta + b"".join(encoded[tag] for tag in sorted(encoded))

    def _decoded_elements(
        self, walked: Scan, transfer_syntax_uid: str
    ) -> Iterator[tuple[int, bytes]]:
        """Pixel data in native form, and what changes with it."""
        pixel_data = walked.elements.get(PIXEL_DATA)
        if pixel_data is None:
            return
        if transfer_syntax_uid in NATIVE:
            yield PIXEL_DATA, _native_pixel_data(walked, transfer_syntax_uid)
            return
        decoded = self.frames(ImagePixel.of(walked), transfer_syntax_uid, _encoded_frames(walked))
        vr = "OB" if decoded.image.bits_allocated <= 8 else "OW"
        yield PIXEL_DATA, element(PIXEL_DATA, vr, _joined(decoded))
        interpretation = decoded.image.photometric_interpretation
        if interpretation != walked.text("PhotometricInterpretation"):
            yield (
                PHOTOMETRIC_INTERPRETATION,
                element(
                    PHOTOMETRIC_INTERPRETATION, "CS", interpretation.encode("ascii", "replace")
                ),
            )

    @contextmanager
    def _child(self) -> Iterator[_Child]:
        """A child for one request. One that did not end it well is killed, never used again."""
        assert not self._closed.is_set(), "this decoder is closed"
        try:
            child = self._free.get(timeout=WAIT_S_MAX)
        except Empty:
            raise Exhausted("every decoder is busy", children_max=self._children_max) from None
        try:
            if child is None:
                child = _Child(self._request_s_max, self._memory_bytes_max)
            yield child
        finally:
            if child is not None and (self._closed.is_set() or not child.sound):
                child.kill()
                child = None
            self._free.put(child)


class _Child:
    """One decoding process and the socket to it."""

    def __init__(self, request_s_max: float, memory_bytes_max: int) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = _started(theirs)
        self._request_s_max = request_s_max
        self._requests = 0
        self._answered = True
        limits = {"memory_bytes_max": memory_bytes_max, "cpu_s_max": int(request_s_max) + 1}
        wire.send(self._socket, limits)

    @property
    def sound(self) -> bool:
        """Whether this child may have another request."""
        return self._answered and self._requests < REQUESTS_MAX

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def decode(
        self, image: ImagePixel, transfer_syntax_uid: str, encoded: Sequence[bytes]
    ) -> tuple[list[bytes], str]:
        """Frames of one request and their photometric interpretation."""
        request: dict[str, object] = {
            "image": asdict(image),
            "transfer_syntax_uid": transfer_syntax_uid,
        }
        self._requests += 1
        self._answered = False
        answer, frames = self._ask(request, encoded, image.frame_bytes * len(encoded))
        if answer.get("failed") == wire.MEMORY:
            raise Exhausted("decoding needs more memory than a decoder may have")
        if "failed" in answer:
            self._answered = True
            sentence = str(answer.get("sentence", ""))
            raise BadObject(sentence, transfer_syntax_uid=transfer_syntax_uid)
        if [len(frame) for frame in frames] != [image.frame_bytes] * len(encoded):
            raise BadObject("a decoded frame has another size than its data set says")
        self._answered = True
        return frames, str(answer["photometric_interpretation"])

    def _ask(
        self, request: dict[str, object], encoded: Sequence[bytes], expected_bytes: int
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send and receive. A child that dies, hangs or talks nonsense is not asked again."""
        deadline = time.monotonic() + self._request_s_max
        self._socket.settimeout(self._request_s_max)
        try:
            wire.send(self._socket, request, encoded)
            return wire.receive(self._socket, parts_bytes_max=expected_bytes, deadline=deadline)
        except TimeoutError as error:
            raise Exhausted("decoding takes too long", request_s_max=self._request_s_max) from error
        except (OSError, EOFError, wire.Garbled) as error:
            raise BadObject("a compressed frame ended the process that decodes it") from error


def _started(connection: socket.socket) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "pacs.decode.child"],
            stdin=connection.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_environment(),
        )
    except OSError as error:
        raise Exhausted("a decoding process cannot be started") from error


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    path = os.pathsep.join(str(entry) for entry in sys.path if entry)
    return {**kept, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}


def _check_sizes(image: ImagePixel, encoded: Sequence[bytes]) -> None:
    """Refuse what would not fit, before a child sees it."""
    if image.frame_bytes * len(encoded) > DECODED_BYTES_MAX:
        raise BadObject(
            "the decoded object would be larger than this node decodes",
            decoded_bytes_max=DECODED_BYTES_MAX,
        )
    if sum(len(frame) for frame in encoded) > ENCODED_BYTES_MAX:
        raise BadObject(
            "the compressed frames are longer than this node decodes",
            encoded_bytes_max=ENCODED_BYTES_MAX,
        )


def _native(image: ImagePixel, transfer_syntax_uid: str, raw: bytes) -> bytes:
    if transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN:
        return raw
    return swapped(raw, _pixel_word_bytes(image.vr, image.bits_allocated))


def _native_pixel_data(walked: Scan, transfer_syntax_uid: str) -> bytes:
    """The pixel data element of a native data set, whatever its length and frames."""
    pixel_data = walked.elements[PIXEL_DATA]
    raw = walked.value(PIXEL_DATA) or b""
    vr = pixel_data.vr if pixel_data.vr == "OB" else "OW"
    if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        bits_allocated = int(walked.text("BitsAllocated") or 16)
        if bits_allocated not in BITS_ALLOCATED:
            raise BadObject("big endian pixel data of no known word", bits_allocated=bits_allocated)
        raw = swapped(raw, _pixel_word_bytes(vr, bits_allocated))
    return element(PIXEL_DATA, vr, raw)


def _pixel_word_bytes(vr: str, bits_allocated: int) -> int:
    """How many bytes big endian pixel data turn at a time (PS3.5 8.1.2)."""
    if bits_allocated > 8:
        return bits_allocated // 8
    return 2 if vr == "OW" else 1


def _encoded_frames(walked: Scan) -> list[bytes]:
    if walked.elements[PIXEL_DATA].fragments is None:
        raise BadObject("the pixel data are not encapsulated, as their transfer syntax demands")
    table = frame_table(walked)
    if not table.count:
        raise BadObject("the fragments of the pixel data cannot be told apart by frame")
    return [
        b"".join(bytes(walked.data[at : at + size]) for at, size in table.spans(number))
        for number in range(1, table.count + 1)
    ]


def _joined(decoded: Decoded) -> bytes:
    """Frames one after another; those of one bit a pixel follow without a gap (PS3.5 8.1.1)."""
    if decoded.image.frame_bits % 8 == 0:
        return b"".join(decoded.frames)
    bits = [
        np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")[: decoded.image.frame_bits]
        for frame in decoded.frames
    ]
    return np.packbits(np.concatenate(bits), bitorder="little").tobytes()
