"""The small JPEG encoder loses nothing, whatever the image."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1

from sample_dicom.instances import data_set, part10, pixels_of
from sample_dicom.jpeg_lossless import encode
from sample_dicom.studies import uid_of

sizes = st.integers(1, 9)


@settings(max_examples=50, deadline=None)
@given(rows=sizes, columns=sizes, bits_stored=st.sampled_from([12, 15]), data=st.data())
def test_a_decoder_gives_back_every_pixel(
    rows: int, columns: int, bits_stored: int, data: st.DataObject
) -> None:
    value = st.sampled_from([0, 1, (1 << bits_stored) - 1]) | st.integers(0, (1 << bits_stored) - 1)
    pixels = data.draw(st.lists(value, min_size=rows * columns, max_size=rows * columns))
    image = np.array(pixels, dtype=np.uint16).reshape(rows, columns)
    dataset = data_set(SOPClassUID=uid_of("class"), SOPInstanceUID=uid_of("instance"))
    dataset.update(pixels_of(image, bits_stored=bits_stored))
    dataset.PixelData = encapsulate([encode(image, bits_stored=bits_stored)])
    dataset["PixelData"].is_undefined_length = True
    decoded = dcmread(BytesIO(part10(dataset, JPEGLosslessSV1))).pixel_array
    assert (decoded == image).all()


def test_sixteen_bits_are_not_for_it() -> None:
    with pytest.raises(AssertionError):
        encode(np.zeros((1, 1), dtype=np.uint16), bits_stored=16)
