"""Decoding, encoding and rendering pixel data in child processes that may break alone.

Codecs read hostile bytes in native code. So a `Decoder` keeps a few warm children; a frame goes
there through a socket and comes back as native samples, compressed anew, or as a picture. A child
that crashes, hangs or grows is killed and replaced, its request fails with a clear error, and the
next one works. What needs no codec (native syntaxes, the data set around the pixels) is done here,
in the caller's process.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from queue import Empty, LifoQueue
from types import TracebackType
from typing import Final, Self

import numpy as np

from pacs.decode.explicit import Transcoder, element, encapsulated, implicit_element, swapped
from pacs.decode.image import BITS_ALLOCATED, ImagePixel
from pacs.decode.pool import Child, Overtaxed
from pacs.decode.rendering import GIF, Rendering
from pacs.decode.syntaxes import DECODABLE, DECODERS, ENCODABLE, ENCODERS, NATIVE
from pacs.dicom.frames import frame_table
from pacs.dicom.part10 import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
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

__all__ = [
    "DECODABLE",
    "DECODERS",
    "ENCODABLE",
    "ENCODERS",
    "Decoded",
    "Decoder",
    "ImagePixel",
    "Overtaxed",
    "Rendering",
]

BATCH_BYTES_MAX: Final = (
    1 << 26
)  # decoded frames that one request to a child may hold, or one frame
ENCODED_BYTES_MAX: Final = 1 << 30  # a longer compressed frame is refused
DECODED_BYTES_MAX: Final = 1 << 31  # an object that would be larger when decoded is refused
MEMORY_BYTES_MAX: Final = 3 << 30  # address space of one child; beyond it, its allocations fail
WAIT_S_MAX: Final = 30.0  # how long a request waits for a free child before it is turned away

ENCODED_OVERHEAD_BYTES_MAX: Final = 1 << 16  # what a frame's headers may add to twice its size
PICTURE_BYTES_MAX: Final = 1 << 27  # a longer rendered picture is not believed

PHOTOMETRIC_INTERPRETATION: Final = 0x00280004
PLANAR_CONFIGURATION: Final = 0x00280006


@dataclass(frozen=True, slots=True)
class Decoded:
    """Frames in the layout that `image` tells: native and little endian, or compressed anew.

    Of native ones only `image.photometric_interpretation` can differ from what was asked with.
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
        self._free: LifoQueue[Child | None] = LifoQueue()
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
        interpretation = image.photometric_interpretation
        request = {
            "task": "decode",
            "image": asdict(image),
            "transfer_syntax_uid": transfer_syntax_uid,
        }
        for batch in _batches(image, encoded):
            with self._child() as child:
                answer, decoded = child.ask(request, batch, image.frame_bytes * len(batch))
                if [len(frame) for frame in decoded] != [image.frame_bytes] * len(batch):
                    child.distrust()
                    raise BadObject("a decoded frame has another size than its data set says")
            frames += decoded
            interpretation = str(answer.get("photometric_interpretation"))
        return Decoded(frames, replace(image, photometric_interpretation=interpretation))

    def encoded(
        self, image: ImagePixel, transfer_syntax_uid: str, native: Sequence[bytes]
    ) -> Decoded:
        """Native frames, little endian, compressed without loss.

        The image that comes back tells what the data set must say of them. Raises BadObject for
        frames that this syntax cannot hold or not hold without loss, Exhausted at a limit, Refused
        for a transfer syntax that is not in ENCODERS.
        """
        if transfer_syntax_uid not in ENCODERS:
            raise Refused(
                "no encoder for this transfer syntax", transfer_syntax_uid=transfer_syntax_uid
            )
        if any(len(frame) != image.frame_bytes for frame in native):
            raise BadObject("a frame has another size than its data set says")
        _check_sizes(image, native)
        frames: list[bytes] = []
        request = {
            "task": "encode",
            "image": asdict(image),
            "transfer_syntax_uid": transfer_syntax_uid,
        }
        for batch in _batches(image, native):
            bytes_max = (2 * image.frame_bytes + ENCODED_OVERHEAD_BYTES_MAX) * len(batch)
            with self._child() as child:
                _, encoded = child.ask(request, batch, bytes_max)
                if len(encoded) != len(batch):
                    child.distrust()
                    raise BadObject("a frame was lost while it was encoded")
            frames += encoded
        return Decoded(frames, image.encoded_as(transfer_syntax_uid))

    def rendered(
        self, asked: Rendering, header: bytes, frames: Sequence[bytes], state: bytes | None = None
    ) -> list[bytes]:
        """Pictures of frames of one image: one each, or all in one where the form can move.

        `header` is the data set up to its pixel data, inflated; frames lie as they are stored.
        `state` is the data set of a presentation state in Explicit VR Little Endian. Raises
        BadObject for what cannot be rendered, Exhausted at a limit, Refused for a transfer syntax
        that is not in DECODABLE.
        """
        if asked.transfer_syntax_uid not in DECODABLE:
            raise Refused(
                "no decoder for this transfer syntax",
                transfer_syntax_uid=asked.transfer_syntax_uid,
            )
        asked = replace(asked, has_state=state is not None)
        parts = [header, *([state] if state is not None else []), *frames]
        expected = 1 if asked.media_type == GIF else len(frames)
        with self._child() as child:
            request = {"task": "render", **asked.request()}
            _, pictures = child.ask(request, parts, PICTURE_BYTES_MAX * expected)
            if len(pictures) != expected:
                child.distrust()
                raise BadObject("a picture was lost while it was drawn")
        return pictures

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

    def transcoded(self, part10: Buffer, transfer_syntax_uid: str) -> bytes:
        """A Part 10 file in any transfer syntax of ENCODABLE, every pixel as it was.

        Raises as `explicit_little_endian` does, and BadObject where `encoded` does.
        """
        if read_part10(part10).transfer_syntax_uid == transfer_syntax_uid:
            return bytes(part10)
        native = self.explicit_little_endian(part10)
        if transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN:
            return native
        taken = read_part10(native)
        meta = preamble_and_meta(
            sop_class_uid=taken.sop_class_uid,
            sop_instance_uid=taken.sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
        )
        if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            return meta + deflater.compress(taken.data_set) + deflater.flush()
        walked = scan(taken.data_set, EXPLICIT_VR_LITTLE_ENDIAN)
        elements = dict(Transcoder(walked, EXPLICIT_VR_LITTLE_ENDIAN).elements())
        elements |= self._encoded_elements(walked, transfer_syntax_uid)
        return meta + b"".join(elements[tag] for tag in sorted(elements))

    def _encoded_elements(self, walked: Scan, transfer_syntax_uid: str) -> dict[int, bytes]:
        """Encapsulated pixel data, and what changes with it."""
        table = frame_table(walked)
        if table.pixel_tag != PIXEL_DATA or not table.count:
            raise BadObject("there are no frames that could be compressed")
        native = [
            table.native_frame(number, bytes(walked.data[at : at + size]))
            for number in range(1, table.count + 1)
            for at, size in table.spans(number)
        ]
        made = self.encoded(ImagePixel.of(walked), transfer_syntax_uid, native)
        changed = {PIXEL_DATA: encapsulated(made.frames)}
        interpretation = made.image.photometric_interpretation.encode("ascii", "replace")
        changed[PHOTOMETRIC_INTERPRETATION] = element(
            PHOTOMETRIC_INTERPRETATION, "CS", interpretation
        )
        if PLANAR_CONFIGURATION in walked.elements:
            planar = made.image.planar_configuration.to_bytes(2, "little")
            changed[PLANAR_CONFIGURATION] = element(PLANAR_CONFIGURATION, "US", planar)
        return changed

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
    def _child(self) -> Iterator[Child]:
        """A child for one request. One that did not end it well is killed, never used again."""
        assert not self._closed.is_set(), "this decoder is closed"
        try:
            child = self._free.get(timeout=WAIT_S_MAX)
        except Empty:
            raise Exhausted("every decoder is busy", children_max=self._children_max) from None
        try:
            if child is None:
                child = Child(self._request_s_max, self._memory_bytes_max)
            yield child
        finally:
            if child is not None and (self._closed.is_set() or not child.sound):
                child.kill()
                child = None
            self._free.put(child)


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


def _batches(image: ImagePixel, frames: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    per_batch = max(1, BATCH_BYTES_MAX // image.frame_bytes)
    return (frames[first : first + per_batch] for first in range(0, len(frames), per_batch))


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
