"""The metadata of a series, made once and kept compressed, so that no viewer waits for a parser.

One object of the store holds the DICOM JSON of all instances of a series, in order, as the very
gzip bytes that a browser is sent. It is cut into blocks that can be inflated alone, so the line of
one instance costs no more than its block. The object says of which instances, by digest, it was
made; an answer that does not fit today's rows is made anew from the lines that still fit and the
files that are new. So it may be lost, late or made twice, and is never wrong.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pacs.archive import Archive, Instance
from pacs.dicom.json_model import JsonModel
from pacs.errors import BadObject, Corrupt, Missing, NodeError, Unavailable
from pacs.index import catalog, series_metadata
from pacs.index.series_metadata import Outline

PREFIX: Final = b"isocenter series metadata\n"  # how such an object begins, unlike any other
FORM: Final = 1  # of what stands in it; another one is made anew
BLOCK_INSTANCES: Final = 32  # more compress a little better, and cost more to find one in
GZIP_LEVEL: Final = 6
PIECE_BYTES: Final = 1 << 20  # of an array that is inflated for who cannot read gzip
GZIP: Final = 16 + zlib.MAX_WBITS
RACES_MAX: Final = 3  # a series that loses instances so often while it is read is given up
DUE_S_MAX: Final = 0.5  # of one turn of `make_due`; what is left waits for the next
MAKERS: Final = 16  # series made at once by one process; those that share a number wait

log = logging.getLogger(__name__)

_making: Final = tuple(threading.Lock() for _ in range(MAKERS))


@dataclass(frozen=True, slots=True)
class SeriesMetadata:
    """DICOM JSON of the instances of a series (PS3.18 F.2), one line each in an array.

    A BulkDataURI is relative to the series: `instances/UID/bulkdata/PATH`. `gzipped` is the whole
    array; `blocks` says where in it the blocks begin, and `digests` of which instances it tells.
    """

    study_instance_uid: str
    series_instance_uid: str
    digests: tuple[str, ...]
    blocks: tuple[int, ...]
    gzipped: bytes

    def fits(self, outline: Outline) -> bool:
        """Whether it tells of these instances, as they are now."""
        if self.digests == outline.digests:
            return True
        return len(outline.digests) == 1 and outline.digests[0] in self.digests

    def lines(self) -> Iterator[bytes]:
        """The DICOM JSON of each instance, in order."""
        for number in range(len(self.blocks)):
            yield from self._block(number)

    def array(self) -> Iterator[bytes]:
        """The whole array as it reads when inflated, in pieces."""
        inflater = zlib.decompressobj(GZIP)
        piece = inflater.decompress(self.gzipped, PIECE_BYTES)
        while piece:
            yield piece
            piece = inflater.decompress(inflater.unconsumed_tail, PIECE_BYTES)

    def line(self, digest: str) -> bytes:
        """The DICOM JSON of the instance that is kept under a digest."""
        block, place = divmod(self.digests.index(digest), BLOCK_INSTANCES)
        return self._block(block)[place]

    def _block(self, number: int) -> list[bytes]:
        ends = (*self.blocks[1:], len(self.gzipped))
        part = memoryview(self.gzipped)[self.blocks[number] : ends[number]]
        text = zlib.decompressobj(-zlib.MAX_WBITS).decompress(part)
        return [line.removesuffix(b",") for line in text.split(b"\n") if line[:1] == b"{"]

    def packed(self) -> bytes:
        """As an object of the store, unlike any other that tells the same."""
        facts = {
            "made_at": time.time(),
            "form": FORM,
            "receipt": uuid.uuid4().hex,
            "study_instance_uid": self.study_instance_uid,
            "series_instance_uid": self.series_instance_uid,
        }
        table = {"digests": self.digests, "blocks": self.blocks}
        heads = [
            json.dumps(part, separators=(",", ":")).encode() + b"\n" for part in (facts, table)
        ]
        return b"".join((PREFIX, *heads, self.gzipped))

    @classmethod
    def unpack(cls, packed: bytes) -> SeriesMetadata:
        """What `packed` gave. Raises ValueError for another form."""
        facts, table, gzipped = packed.removeprefix(PREFIX).split(b"\n", 2)
        said, places = json.loads(facts), json.loads(table)
        if said.get("form") != FORM:
            raise ValueError("another release made it")
        return cls(
            said["study_instance_uid"],
            said["series_instance_uid"],
            tuple(places["digests"]),
            tuple(places["blocks"]),
            gzipped,
        )

    @classmethod
    def of(cls, outline: Outline, lines: Iterable[bytes]) -> SeriesMetadata:
        """Compress the lines of a series; only one block of them is ever in memory."""
        squeeze = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP)
        gzipped = bytearray(squeeze.compress(b"[\n") + squeeze.flush(zlib.Z_FULL_FLUSH))
        blocks: list[int] = []
        for number, line in enumerate(lines):
            if number % BLOCK_INSTANCES == 0:
                gzipped += squeeze.flush(zlib.Z_FULL_FLUSH)
                blocks.append(len(gzipped))
            gzipped += squeeze.compress(b",\n" * bool(number) + line)
        gzipped += squeeze.compress(b"\n]\n") + squeeze.flush()
        return cls(
            outline.study_instance_uid,
            outline.series_instance_uid,
            outline.digests,
            tuple(blocks),
            bytes(gzipped),
        )


def made_at(head: bytes) -> float:
    """When an object that begins like this was made. Raises ValueError."""
    return float(json.loads(head.removeprefix(PREFIX).split(b"\n", 1)[0])["made_at"])


def metadata_of(archive: Archive, outline: Outline) -> SeriesMetadata:
    """The metadata of a series as the archive holds it now, or later than the outline was read.

    What is kept is one read of the store. Otherwise it is made, and kept if the archive can.
    Raises Missing if the series is gone, Corrupt, Unreachable.
    """
    kept = _kept(archive, outline)
    if kept is not None and kept.fits(outline):
        return kept
    with _making[outline.series_id % MAKERS]:
        return _made(archive, outline)


def _kept(archive: Archive, outline: Outline) -> SeriesMetadata | None:
    """What the store keeps of a series. What is lost or broken can be made again, so it is none."""
    if not outline.kept:
        return None
    try:
        packed = b"".join(archive.objects.read(outline.kept))
        if hashlib.sha256(packed).hexdigest() != outline.kept:
            raise Corrupt(digest=outline.kept)
        return SeriesMetadata.unpack(packed)
    except (Missing, Corrupt, ValueError, LookupError) as error:
        log.warning("the metadata of a series are made anew: %s", type(error).__name__)
        return None


def _made(archive: Archive, outline: Outline) -> SeriesMetadata:
    """Make the metadata of the whole series as it is now, unless somebody else just did."""
    for _ in range(RACES_MAX):
        with archive.index.read() as connection:
            found = series_metadata.outlines(connection, archive.id, outline.scope)
            rows = catalog.instances_of(connection, archive.id, outline.scope)
        if not found:
            break
        (outline,) = found
        kept = _kept(archive, outline)
        if kept is not None and kept.fits(outline):
            return kept
        known = dict(zip(kept.digests, kept.lines(), strict=True)) if kept else {}
        try:
            made = SeriesMetadata.of(outline, _lines(archive, map(Instance.of, rows), known))
        except Missing:
            continue  # an instance was deleted meanwhile
        _keep(archive, outline, made)
        return made
    raise Missing("there is no such series here")


def _lines(
    archive: Archive, instances: Iterable[Instance], known: Mapping[str, bytes]
) -> Iterator[bytes]:
    for instance in instances:
        yield known.get(instance.digest) or _line(archive, instance)


def _line(archive: Archive, instance: Instance) -> bytes:
    """One instance as JSON. Of one that cannot be read, its UIDs: the others are still of use."""
    try:
        model = archive.metadata(instance, f"instances/{instance.sop_instance_uid}/")
        return _as_json(model)
    except (BadObject, ValueError):
        uids = {
            "00080016": instance.sop_class_uid,
            "00080018": instance.sop_instance_uid,
            "0020000D": instance.study_instance_uid,
            "0020000E": instance.series_instance_uid,
        }
        return _as_json({tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()})


def _as_json(model: JsonModel) -> bytes:
    """Strict JSON in UTF-8, on one line."""
    text = json.dumps(model, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode(errors="replace")


def _keep(archive: Archive, outline: Outline, made: SeriesMetadata) -> None:
    """Keep what was made. It can be made again, so an archive that is full still answers."""
    try:
        digest = archive.objects.put((made.packed(),)).digest
        with archive.index.write() as connection:
            former = series_metadata.keep(connection, archive.id, outline.series_id, digest)
        if former:
            archive.objects.delete(former)
    except Unavailable as error:
        log.warning("the metadata of a series are not kept: %s", error)


def make_due(archive: Archive, *, seconds_max: float = DUE_S_MAX) -> int:
    """Make the metadata of studies that became complete, for so long; how many were done.

    One that cannot be read is left to who asks for it. Raises Unavailable.
    """
    until = time.monotonic() + seconds_max
    with archive.index.read() as connection:
        due = series_metadata.due(connection, archive.id)
    for done, study in enumerate(due):
        with archive.index.read() as connection:
            scope = catalog.Scope(study.StudyInstanceUID)
            outlines = series_metadata.outlines(connection, archive.id, scope)
        if not _make_all(archive, outlines, until):
            return done
        with archive.index.write() as connection:
            series_metadata.done(connection, study)
    return len(due)


def _make_all(archive: Archive, outlines: Sequence[Outline], until: float) -> bool:
    """Whether all of them are made; False if the time was over before."""
    for outline in outlines:
        if time.monotonic() > until:
            return False
        try:
            metadata_of(archive, outline)
        except Unavailable:
            raise
        except NodeError as error:
            log.warning("the metadata of a series cannot be made: %s", error)
    return True


def enter_again(archive: Archive, digest: str) -> None:
    """Name an object that `rebuild` found, or forget it if it does not tell of the series as it is.

    Raises Unavailable.
    """
    try:
        found = SeriesMetadata.unpack(b"".join(archive.objects.read(digest)))
    except (ValueError, LookupError):
        return archive.objects.delete(digest)
    scope = catalog.Scope(found.study_instance_uid, found.series_instance_uid)
    former = digest
    with archive.index.write() as connection:
        for outline in series_metadata.outlines(connection, archive.id, scope):
            if outline.digests == found.digests:
                former = series_metadata.keep(connection, archive.id, outline.series_id, digest)
    if former:
        archive.objects.delete(former)
    return None
