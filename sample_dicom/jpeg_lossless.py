"""A JPEG Lossless encoder that is small, not good: process 14, first-order prediction.

Each pixel is told as its difference from the one to its left (ITU-T T.81, annex H). All categories
of difference get Huffman codes of five bits, which any decoder must accept and which need no
statistics of the image.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

_CODE_BITS = 5
_CATEGORIES = bytes(range(16))  # how many bits a difference takes
BITS_STORED_MAX = 15  # differences of 16 bits would have to wrap around; an assertion stops them
_PREDICT_FROM_THE_LEFT = 1


def encode(image: NDArray[np.uint16], *, bits_stored: int) -> bytes:
    """The code stream of an image in grey: (rows, columns), values of at most bits_stored."""
    assert bits_stored <= BITS_STORED_MAX, "differences of 16 bits are not for this encoder"
    rows, columns = image.shape
    codes_per_length = bytes(len(_CATEGORIES) * (bits == _CODE_BITS) for bits in range(1, 17))
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xC3, struct.pack(">BHHBBBB", bits_stored, rows, columns, 1, 1, 0x11, 0)),
            _segment(0xC4, b"\0" + codes_per_length + _CATEGORIES),
            _segment(0xDA, bytes((1, 1, 0, _PREDICT_FROM_THE_LEFT, 0, 0))),
            _entropy_coded("".join(map(_code, _differences(image, 1 << (bits_stored - 1))))),
            b"\xff\xd9",
        )
    )


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def _differences(image: NDArray[np.uint16], first_prediction: int) -> list[int]:
    """Pixel less prediction: the left neighbour, in the first column the upper one (H.1.2.1)."""
    pixels = image.astype(np.int64)
    predictions = np.empty_like(pixels)
    predictions[:, 1:] = pixels[:, :-1]
    predictions[1:, 0] = pixels[:-1, 0]
    predictions[0, 0] = first_prediction
    differences: list[int] = (pixels - predictions).ravel().tolist()
    return differences


def _code(difference: int) -> str:
    """The category's code, then the difference in as many bits; one less if negative (F.1.2.1)."""
    bits = abs(difference).bit_length()
    low = difference if difference >= 0 else difference + (1 << bits) - 1
    return f"{bits:0{_CODE_BITS}b}" + (f"{low:0{bits}b}" if bits else "")


def _entropy_coded(bits: str) -> bytes:
    """Bits as bytes, filled up with ones; a zero follows each 0xFF (F.1.2.3)."""
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
