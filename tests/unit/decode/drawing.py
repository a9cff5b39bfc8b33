"""Pictures of synthetic data sets, drawn in a real decoding process and read back as numbers."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from pacs.decode import Decoder, Rendering
from pacs.decode.rendering import PNG
from pacs.dicom.frames import frame_table
from pacs.dicom.part10 import scan
from tests import make


def source(
    made: Dataset, transfer_syntax_uid: str = make.EXPLICIT, frame: int = 1
) -> tuple[Rendering, bytes, bytes]:
    """A data set as a request for one PNG, its header, and the frame as it is stored."""
    walked = scan(make.data_set_bytes(made, transfer_syntax_uid), transfer_syntax_uid)
    table = frame_table(walked)
    raw = b"".join(bytes(walked.data[at : at + size]) for at, size in table.spans(frame))
    asked = Rendering(
        media_type=PNG,
        transfer_syntax_uid=transfer_syntax_uid,
        pixel_tag=table.pixel_tag,
        pixel_vr="OB" if table.pixel_vr == "OB" else "OW",
        frame_numbers=(frame,),
    )
    header = bytes(walked.data[: table.header_bytes])
    return asked, header, table.native_frame(frame, raw) if table.frame_bits else raw


def picture(
    decoder: Decoder,
    made: Dataset,
    transfer_syntax_uid: str = make.EXPLICIT,
    *,
    frame: int = 1,
    state: Dataset | None = None,
    **changes: Any,  # noqa: ANN401 - fields of a Rendering
) -> NDArray[np.uint8]:
    """The grey levels or colours of one frame."""
    asked, header, raw = source(made, transfer_syntax_uid, frame)
    encoded = make.data_set_bytes(state) if state is not None else None
    (png,) = decoder.rendered(replace(asked, **changes), header, [raw], encoded)
    return np.asarray(Image.open(io.BytesIO(png)))
