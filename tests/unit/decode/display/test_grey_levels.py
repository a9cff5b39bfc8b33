"""Grey levels are those of the formulas of PS3.3 C.11, at every pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence

from pacs.decode import Decoder
from pacs.decode.display.grey import Grey, Rescale, Window, grey_levels
from pacs.errors import BadObject
from tests import make
from tests.unit.decode.drawing import picture

VALUES = (np.arange(4096, dtype=np.int16) - 1024).reshape(64, 64)


def levels(shown: NDArray[Any]) -> NDArray[np.uint8]:
    """Fractions of the whole range as grey levels."""
    return np.asarray(np.floor(np.clip(shown, 0, 1) * 255 + 0.5), np.uint8)


Formula = Callable[[NDArray[Any], float, float], NDArray[Any]]


def linear(x: NDArray[Any], center: float, width: float) -> NDArray[Any]:
    return (x - (center - 0.5)) / (width - 1) + 0.5


WINDOWS: dict[str, Formula] = {
    "LINEAR": linear,
    "LINEAR_EXACT": lambda x, center, width: (x - center) / width + 0.5,
    "SIGMOID": lambda x, center, width: 1 / (1 + np.exp(-4 * (x - center) / width)),
}


@pytest.mark.parametrize("function", WINDOWS)
def test_a_window_has_the_grey_levels_of_its_formula(drawer: Decoder, function: str) -> None:
    made = make.data_set(
        pixels=VALUES, RescaleSlope="2", RescaleIntercept="-100", VOILUTFunction=function
    )
    made.WindowCenter, made.WindowWidth = "500", "1500"
    expected = levels(WINDOWS[function](2.0 * VALUES - 100, 500, 1500))
    assert np.array_equal(picture(drawer, made), expected)


def test_a_window_asked_for_goes_before_that_of_the_image(drawer: Decoder) -> None:
    made = make.data_set(pixels=VALUES, WindowCenter="0", WindowWidth="10")
    found = picture(drawer, made, window=(300.0, 700.0, "LINEAR"))
    assert np.array_equal(found, levels(linear(VALUES.astype(float), 300, 700)))


def test_without_a_window_the_least_value_is_black_and_the_greatest_white(drawer: Decoder) -> None:
    found = picture(drawer, make.data_set(pixels=VALUES, RescaleSlope="-1", RescaleIntercept="7"))
    assert np.array_equal(found, levels((3071 - VALUES.astype(float)) / 4095))


def test_an_image_of_one_value_is_black(drawer: Decoder) -> None:
    assert not picture(drawer, make.data_set(pixels=np.full((8, 8), 500, np.int16))).any()


def test_monochrome_1_is_the_inverse(drawer: Decoder) -> None:
    two = make.data_set(pixels=VALUES, WindowCenter="500", WindowWidth="1000")
    one = make.data_set(
        pixels=VALUES,
        WindowCenter="500",
        WindowWidth="1000",
        PhotometricInterpretation="MONOCHROME1",
        PresentationLUTShape="INVERSE",  # DX images say it twice, and mean it once
    )
    expected = levels(1 - np.clip(linear(VALUES.astype(float), 500, 1000), 0, 1))
    assert np.array_equal(picture(drawer, one), expected)
    assert not np.array_equal(picture(drawer, two), expected)


def test_padding_is_black_and_does_not_widen_the_window(drawer: Decoder) -> None:
    pixels = np.array([[-2000, 0], [50, 100]], np.int16)
    made = make.data_set(
        pixels=pixels, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=-2000
    )
    made.PixelPaddingRangeLimit = -1500
    assert picture(drawer, made).tolist() == [[0, 255], [128, 0]]


@pytest.mark.parametrize("bits_stored", [10, 12, 16])
@pytest.mark.parametrize("is_signed", [False, True])
def test_bits_beyond_those_stored_do_not_count(
    drawer: Decoder, bits_stored: int, is_signed: bool
) -> None:
    words = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    made = make.data_set(pixels=words, BitsStored=bits_stored, HighBit=bits_stored - 1)
    made.PixelRepresentation = int(is_signed)
    made.WindowCenter, made.WindowWidth = "0", "3000"
    stored = (words & ((1 << bits_stored) - 1)).astype(float)
    if is_signed:
        stored[stored >= 1 << (bits_stored - 1)] -= 1 << bits_stored
    assert np.array_equal(picture(drawer, made), levels(linear(stored, 0, 3000)))


def test_a_high_bit_above_the_stored_bits_shifts_them(drawer: Decoder) -> None:
    made = make.data_set(pixels=np.array([[0, 16], [32, 48]], np.uint16), BitsStored=12)
    made.HighBit = 15
    made.WindowCenter, made.WindowWidth, made.VOILUTFunction = "1.5", "3", "LINEAR_EXACT"
    assert picture(drawer, made).tolist() == [[0, 85], [170, 255]]


def lut(first: int, entries: list[int], bits: int = 16) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return item


def test_lookup_tables_clip_at_their_ends(drawer: Decoder) -> None:
    made = make.data_set(pixels=np.array([[0, 10], [11, 99]], np.uint16))
    made.ModalityLUTSequence = Sequence([lut(10, [5, 6, 7])])
    made.VOILUTSequence = Sequence([lut(5, [0, 30000, 65535])])
    assert picture(drawer, made).tolist() == [[0, 0], [round(30000 / 65535 * 255), 255]]


def test_a_lookup_table_that_is_cut_off_is_refused(drawer: Decoder) -> None:
    item = lut(0, [1, 2, 3])
    item.LUTDescriptor = [4000, 0, 16]
    made = make.data_set(pixels=VALUES, VOILUTSequence=Sequence([item]))
    with pytest.raises(BadObject, match="cut off"):
        picture(drawer, made)


def test_each_frame_of_an_enhanced_image_has_its_own_window(drawer: Decoder) -> None:
    def group(center: float, slope: float) -> Dataset:
        voi, pixel_value, found = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = center, 100, "LINEAR_EXACT"
        pixel_value.RescaleSlope, pixel_value.RescaleIntercept = slope, 0
        found.FrameVOILUTSequence = Sequence([voi])
        found.PixelValueTransformationSequence = Sequence([pixel_value])
        return found

    frames = np.stack([np.arange(100, dtype=np.int16).reshape(10, 10)] * 3)
    made = make.data_set(pixels=frames)
    made.SharedFunctionalGroupsSequence = Sequence([group(50, 1)])
    own = group(50, 2)
    del own.FrameVOILUTSequence
    made.PerFrameFunctionalGroupsSequence = Sequence([group(80, 1), own])
    for frame, center, slope in ((1, 80, 1), (2, 50, 2), (3, 50, 1)):
        expected = levels((slope * frames[0] - center) / 100 + 0.5)
        assert np.array_equal(picture(drawer, made, frame=frame), expected)


@pytest.mark.parametrize("syntax", [make.IMPLICIT, make.BIG_ENDIAN, make.DEFLATED, make.EXPLICIT])
def test_every_native_syntax_shows_the_same(drawer: Decoder, syntax: str) -> None:
    made = make.data_set(pixels=VALUES, WindowCenter="500", WindowWidth="1000")
    made.PixelPaddingValue = -1024
    expected = levels(linear(VALUES.astype(float), 500, 1000))
    expected[VALUES == -1024] = 0
    assert np.array_equal(picture(drawer, made, syntax), expected)


def test_thirty_two_bits_are_computed_without_a_table(drawer: Decoder) -> None:
    pixels = np.array([[0, 1 << 20], [1 << 30, (1 << 31) - 1]], np.uint32)
    found = picture(drawer, make.data_set(pixels=pixels))
    assert np.array_equal(found, levels(pixels / ((1 << 31) - 1)))


def test_float_pixels_show_from_least_to_greatest(drawer: Decoder) -> None:
    made = make.data_set(pixels=np.zeros((2, 2), np.uint32))
    del made.PixelData, made.BitsStored, made.HighBit
    made.FloatPixelData = np.array([[0.5, 1.0], [np.nan, 2.5]], "<f4").tobytes()
    assert picture(drawer, made).tolist() == [[0, 64], [0, 255]]


@pytest.mark.parametrize("slope", ["NaN", "inf", "1e999", "what"])
def test_a_slope_that_is_no_number_counts_as_absent(drawer: Decoder, slope: str) -> None:
    made = make.data_set(pixels=VALUES, RescaleIntercept="0")
    made.add_new("RescaleSlope", "LO", slope)
    expected = levels((VALUES.astype(float) + 1024) / 4095)
    assert np.array_equal(picture(drawer, made), expected)


@settings(max_examples=60, deadline=None)
@given(
    slope=st.floats(allow_nan=False, allow_infinity=False),
    intercept=st.floats(allow_nan=False, allow_infinity=False),
    center=st.floats(allow_nan=False, allow_infinity=False),
    width=st.floats(min_value=0, allow_nan=False, allow_infinity=False),
    function=st.sampled_from(sorted(WINDOWS)),
)
def test_whatever_the_numbers_are_there_is_a_grey_level(
    slope: float, intercept: float, center: float, width: float, function: str
) -> None:
    words = np.array([[0, 1], [32768, 65535]], np.uint16)
    for voi in (Window(center, width, function), None):
        grey = Grey(modality=Rescale(slope, intercept), voi=voi)
        with np.errstate(all="ignore"):
            found = grey_levels(grey, words, 16, is_signed=True)
        assert found.shape == words.shape
        assert found.dtype == np.uint8
