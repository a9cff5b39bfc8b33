"""Studies that have something to show, and how their pictures are read back."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
)

from pacs.archive import Incoming
from tests import make

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
FILM = np.stack([np.full((16, 24), grey, np.uint8) for grey in (0, 80, 160, 240)])
PDF = b"%PDF-1.7 of nobody"
VIDEO = "1.2.840.10008.1.2.4.102"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
SECRET = "Secret^Patient"


def as_it_is(made: Dataset) -> Dataset:
    """The data set with a window that shows 8 bits unchanged."""
    made.WindowCenter, made.WindowWidth, made.VOILUTFunction = "127.5", "255", "LINEAR_EXACT"
    return made


def image(name: str, pixels: NDArray[Any] = RAMP, number: int = 1, **attributes: Any) -> Dataset:  # noqa: ANN401 - attributes by keyword
    made = make.data_set(
        number, study_instance_uid=make.uid(name), pixels=pixels, patient_name=SECRET, **attributes
    )
    return as_it_is(made)


def state(of: Dataset) -> Dataset:
    """A presentation state that turns an image by 180 degrees and inverts it."""
    made = make.data_set(99, study_instance_uid=of.StudyInstanceUID, modality="PR")
    made.SOPClassUID = GrayscaleSoftcopyPresentationStateStorage
    made.SeriesInstanceUID, made.SOPInstanceUID = make.uid("states"), make.uid("state")
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(made, keyword)
    made.ImageRotation, made.ImageHorizontalFlip, made.PresentationLUTShape = 180, "N", "INVERSE"
    series, reference, window = Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPClassUID = of.SOPClassUID
    reference.ReferencedSOPInstanceUID = of.SOPInstanceUID
    series.SeriesInstanceUID = of.SeriesInstanceUID
    series.ReferencedImageSequence = Sequence([reference])
    made.ReferencedSeriesSequence = Sequence([series])
    made.SoftcopyVOILUTSequence = Sequence([as_it_is(window)])
    return made


def code(meaning: str) -> list[Dataset]:
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = "1", "99TEST", meaning
    return [made]


def report() -> Dataset:
    made = make.data_set(study_instance_uid=make.uid("report"), modality="SR", patient_name=SECRET)
    made.SOPClassUID = BasicTextSRStorage
    del made.PixelData
    made.ValueType, made.ConceptNameCodeSequence = "CONTAINER", code("Findings <b>")
    text, person, number, measured = Dataset(), Dataset(), Dataset(), Dataset()
    text.ValueType, text.ConceptNameCodeSequence = "TEXT", code("Remark")
    text.TextValue = "<script>alert(1)</script>"
    person.ValueType, person.PersonName = "PNAME", SECRET
    number.ValueType, number.ConceptNameCodeSequence = "NUM", code("Volume")
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "12.5", code("ml")
    number.MeasuredValueSequence = Sequence([measured])
    text.ContentSequence = Sequence([number])
    made.ContentSequence = Sequence([text, person])
    return made


def document() -> Dataset:
    made = make.data_set(study_instance_uid=make.uid("document"), modality="DOC")
    made.SOPClassUID = EncapsulatedPDFStorage
    del made.PixelData
    made.MIMETypeOfEncapsulatedDocument = "text/html"  # a lie
    made.EncapsulatedDocument = PDF
    return made


def video() -> Incoming:
    made = image("video", FILM)
    make.encapsulated(made, [b"\0\0\0\x18ftypisom", b"moov"])
    made.NumberOfFrames = 4
    return make.incoming(made, VIDEO)


def bombs() -> Iterator[tuple[str, Incoming]]:
    """Images whose pixels are not what they say, by name; each is kept, and none is drawn."""
    yield "no rows", make.incoming(image("no rows", Rows=0))
    yield "too many rows", make.incoming(image("too many rows", Rows=65535, Columns=65535))
    yield "too many frames", make.incoming(image("too many frames", NumberOfFrames=2**31 - 1))
    for name, frame in {
        "cut off": b"\xff\x4f\xff\x51\0",
        "tiny": b"\0\0",
        "noise": b"\xff" * 5000,
    }.items():
        made = make.encapsulated(image(name), [frame])
        yield name, make.incoming(made, JPEG_2000)
    huge = image("huge", Rows=65535, Columns=65535)
    codestream = b"\xff\x4f\xff\x51\0\x29\0\0" + (65535).to_bytes(4) * 2 + bytes(24)
    yield "huge", make.incoming(make.encapsulated(huge, [codestream + b"\0\1\7\1\1"]), JPEG_2000)
    bad_table = image("bad table")
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [0, 0, 99])
    item.add_new("LUTData", "OW", b"")
    bad_table.VOILUTSequence = Sequence([item])
    yield "bad table", make.incoming(bad_table)
    yield (
        "bad palette",
        make.incoming(image("bad palette", PhotometricInterpretation="PALETTE COLOR")),
    )
    strange = image(
        "no colour", PhotometricInterpretation="CMYK", SamplesPerPixel=4, Rows=8, Columns=8
    )
    yield "no colour", make.incoming(strange)


def path_of(made: Dataset, root: str = "/dicom-web") -> str:
    return (
        f"{root}/studies/{made.StudyInstanceUID}/series/{made.SeriesInstanceUID}"
        f"/instances/{made.SOPInstanceUID}"
    )


def pixels(answer: httpx.Response, media_type: str = "image/png") -> NDArray[Any]:
    """The picture in an answer, or in one part of it."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media_type
    return np.asarray(Image.open(io.BytesIO(answer.content)))
