"""What an instance without frames holds, in the form that browsers know: PDF, video, or a report.

PDF and video leave as they are. Nothing here is trusted to be what it says: an answer is told to be
of one media type and to run nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pacs.archive import Instance
from pacs.dicom.frames import Span
from pacs.dicom.part10 import PIXEL_DATA
from pacs.errors import BadObject
from web.dicomweb import reports
from web.dicomweb.door import Door
from web.dicomweb.ranges import Body

ENCAPSULATED_PDF: Final = "1.2.840.10008.5.1.4.1.1.104.1"
STRUCTURED_REPORT_ROOT: Final = "1.2.840.10008.5.1.4.1.1.88."
ENCAPSULATED_DOCUMENT: Final = 0x00420011
FRAGMENTS_MAX: Final = 100_000  # of one video; one of more is refused

# A page that was made from an instance runs no script and loads nothing.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"
}

_VIDEO: Final = {
    **{
        f"1.2.840.10008.1.2.4.{n}{suffix}": "video/mpeg"
        for n in (100, 101)
        for suffix in ("", ".1")
    },
    **{
        f"1.2.840.10008.1.2.4.{n}{suffix}": "video/mp4"
        for n in range(102, 109)
        for suffix in ("", ".1")
    },
}
_ITEM: Final = b"\xfe\xff\x00\xe0"


@dataclass(frozen=True, slots=True)
class Original:
    """A document and its media type; `content_type` may add parameters to that."""

    media_type: str
    content_type: str
    body: Body


def of(door: Door, instance: Instance, *, with_patient: bool = False) -> Original | None:
    """The document in an instance, None if it holds none that can be shown."""
    if instance.sop_class_uid == ENCAPSULATED_PDF:
        pdf = "application/pdf"
        return Original(pdf, pdf, Body.of(door.archive.bulk(instance, ENCAPSULATED_DOCUMENT)))
    if instance.transfer_syntax_uid in _VIDEO and instance.table.pixel_tag == PIXEL_DATA:
        kind = _VIDEO[instance.transfer_syntax_uid]
        return Original(kind, kind, _film(door, instance))
    if instance.sop_class_uid.startswith(STRUCTURED_REPORT_ROOT):
        page = reports.html(door.archive.metadata(instance), with_patient=with_patient)
        return Original("text/html", "text/html; charset=utf-8", Body.of(page.encode()))
    return None


def _film(door: Door, instance: Instance) -> Body:
    """The fragments of a video one after another."""
    spans = list(_fragments(door, instance))

    def read(start: int, stop: int) -> Iterator[bytes]:
        at = 0
        for offset, length in spans:
            first, last = max(start - at, 0), min(stop - at, length)
            if first < last:
                yield from door.archive.chunks(instance, offset + first, last - first)
            at += length

    return Body(sum(length for _, length in spans), read)


def _fragments(door: Door, instance: Instance) -> Iterator[Span]:
    """Where the fragments of a video lie in its file, without the offset table (PS3.5 A.4)."""
    at = instance.data_set_offset + instance.table.header_bytes + 12
    for number in range(FRAGMENTS_MAX):
        head = door.archive.read(instance, at, 8)
        if len(head) < 8 or head[:4] != _ITEM:
            return
        (length,) = struct.unpack("<I", head[4:])
        if at + 8 + length > instance.size_bytes:
            raise BadObject("encapsulated pixel data is cut off or broken")
        if number and length:
            yield at + 8, length
        at += 8 + length
    raise BadObject("a video has too many fragments", fragments_max=FRAGMENTS_MAX)
