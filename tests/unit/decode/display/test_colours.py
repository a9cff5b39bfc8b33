"""Colours come out as the RGB they stand for, however they are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from pacs.decode import Decoder
from pacs.errors import BadObject
from tests import make
from tests.unit.decode.drawing import picture

RGB = np.random.default_rng(7).integers(0, 256, (6, 8, 3)).astype(np.uint8)


def colour(samples: NDArray[Any], interpretation: str = "RGB", **attributes: Any) -> Dataset:  # noqa: ANN401 - attributes by keyword
    made = make.data_set(pixels=np.zeros(samples.shape[:2], samples.dtype), **attributes)
    made.SamplesPerPixel, made.PhotometricInterpretation = 3, interpretation
    made.PlanarConfiguration = attributes.get("PlanarConfiguration", 0)
    made.PixelData = samples.tobytes()
    return made


def test_rgb_is_shown_as_it_is(drawer: Decoder) -> None:
    assert np.array_equal(picture(drawer, colour(RGB)), RGB)


def test_planes_are_put_together(drawer: Decoder) -> None:
    made = colour(RGB, PlanarConfiguration=1)
    made.PixelData = RGB.transpose(2, 0, 1).tobytes()
    assert np.array_equal(picture(drawer, made), RGB)


def test_deeper_samples_show_their_upper_bits(drawer: Decoder) -> None:
    deep = RGB.astype("<u2") * 16
    made = colour(deep, BitsStored=12, HighBit=11)
    assert np.array_equal(picture(drawer, made), RGB)


def test_luminance_and_chrominance_become_rgb(drawer: Decoder) -> None:
    """The matrix of PS3.3 C.7.6.3.1.2, within the rounding of 8 bits."""
    y, cb, cr = (RGB[..., n].astype(float) for n in range(3))
    expected = np.stack(
        [
            y + 1.402 * (cr - 128),
            y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
            y + 1.772 * (cb - 128),
        ],
        axis=-1,
    ).clip(0, 255)
    found = picture(drawer, colour(RGB, "YBR_FULL"))
    assert np.abs(found - expected).max() <= 1


def test_shared_chrominance_belongs_to_two_pixels(drawer: Decoder) -> None:
    made = colour(RGB[:1, :2], "YBR_FULL_422")
    made.PixelData = bytes([50, 200, 128, 128])
    assert picture(drawer, made).tolist() == [[[50] * 3, [200] * 3]]


def palette(interpretation: str = "PALETTE COLOR") -> Dataset:
    made = make.data_set(pixels=np.array([[0, 1], [2, 9]], np.uint8))
    made.PhotometricInterpretation = interpretation
    for primary in ("Red", "Green", "Blue"):
        setattr(made, f"{primary}PaletteColorLookupTableDescriptor", [3, 1, 16])
    return made


def test_a_palette_clips_at_its_ends(drawer: Decoder) -> None:
    made = palette()
    for primary, entries in {"Red": [1, 2, 3], "Green": [4, 5, 6], "Blue": [7, 8, 255]}.items():
        words = (np.array(entries, "<u2") << 8).tobytes()
        setattr(made, f"{primary}PaletteColorLookupTableData", words)
    assert picture(drawer, made).tolist() == [[[1, 4, 7]] * 2, [[2, 5, 8], [3, 6, 255]]]


def test_a_segmented_palette_is_written_out(drawer: Decoder) -> None:
    """Discrete, linear and indirect segments (PS3.3 C.7.9.2)."""
    made = palette()
    made.PixelData = bytes(range(4))
    for primary in ("Red", "Green", "Blue"):
        setattr(made, f"{primary}PaletteColorLookupTableDescriptor", [4, 0, 16])
        words = np.array([0, 1, 0x1000, 1, 2, 0x3000, 2, 1, 0, 0], "<u2")
        setattr(made, f"Segmented{primary}PaletteColorLookupTableData", words.tobytes())
    expected = [[0x10] * 3, [0x20] * 3, [0x30] * 3, [0x10] * 3]
    assert picture(drawer, made).reshape(4, 3).tolist() == expected


@pytest.mark.parametrize("words", [[1, 5, 9], [0, 9, 1], [2, 1, 0, 0], [7, 7], [0, 0] * 500, []])
def test_a_broken_segmented_palette_is_refused(drawer: Decoder, words: list[int]) -> None:
    made = palette()
    for primary in ("Red", "Green", "Blue"):
        data = np.array(words, "<u2").tobytes()
        setattr(made, f"Segmented{primary}PaletteColorLookupTableData", data)
    with pytest.raises(BadObject):
        picture(drawer, made)


@pytest.mark.parametrize("interpretation", ["CMYK", "HSV", "", "YBR_PARTIAL_420"])
def test_colour_spaces_that_nobody_draws_are_refused(drawer: Decoder, interpretation: str) -> None:
    with pytest.raises(BadObject):
        picture(drawer, colour(RGB, interpretation))
