"""Data sets as pydicom's, read and written; only of bytes that `part10.scan` has walked.

pydicom understands values, but its reader recurses and inflates without a bound. So nothing
reaches it before the walk, which bounds depth and size.
"""

from __future__ import annotations

import io
import zlib
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from pacs.dicom.part10 import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    Buffer,
    inflate,
    preamble_and_meta,
)
from pacs.errors import BadObject

# What pydicom raises for values that do not fit their VR. One of unknown VR may hide sequences that
# the walk has passed over, deeper than pydicom's reader can follow: that is the RecursionError.
UNFIT: Final = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    OverflowError,
    NotImplementedError,
    RecursionError,
    BytesLengthException,
)


def read_data_set(data_set: Buffer, transfer_syntax_uid: str) -> Dataset:
    """A walked data set, as pydicom reads it, with a meta group that names its transfer syntax.

    A deflated one is inflated. Raises BadObject.
    """
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        data_set, transfer_syntax_uid = inflate(data_set), EXPLICIT_VR_LITTLE_ENDIAN
    return read_header(bytes(data_set), transfer_syntax_uid)


def read_header(header: bytes, transfer_syntax_uid: str) -> Dataset:
    """The same of a header that ends before the pixel data and is inflated already."""
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        transfer_syntax_uid = EXPLICIT_VR_LITTLE_ENDIAN
    if not header[4:6].isalpha():
        transfer_syntax_uid = IMPLICIT_VR_LITTLE_ENDIAN  # whatever was declared: see part10.scan
    meta = preamble_and_meta(
        sop_class_uid="1.2.840.10008.1.1",
        sop_instance_uid="2.25.0",
        transfer_syntax_uid=transfer_syntax_uid,
    )
    try:
        return dcmread(io.BytesIO(meta + header), force=True)
    except (*UNFIT, EOFError) as error:
        raise BadObject("the data set cannot be read") from error


def written(data_set: Dataset, transfer_syntax_uid: str) -> bytes:
    """A data set as bytes in a transfer syntax, without a meta group. Raises BadObject.

    Encapsulated pixel data must be in that syntax already; nothing is encoded here.
    """
    target = DicomBytesIO()
    target.is_implicit_VR = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    target.is_little_endian = transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN
    try:
        write_dataset(target, data_set)
    except UNFIT as error:
        raise BadObject("the data set cannot be written") from error
    if transfer_syntax_uid != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return target.getvalue()
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(target.getvalue()) + deflater.flush()
