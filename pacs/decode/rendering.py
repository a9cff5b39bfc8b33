"""What a rendered picture shall be: the request that goes to a decoding process, as plain values.

Whoever makes a `Rendering` has checked what a caller asked for; the child checks the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

JPEG: Final = "image/jpeg"
PNG: Final = "image/png"
GIF: Final = "image/gif"

QUALITY: Final = 90  # of a JPEG nobody said a quality for


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """One request for pictures of frames of one image (PS3.18 8.3.5).

    `window` is centre, width and function (LINEAR, LINEAR_EXACT, SIGMOID); `viewport` width and
    height in pixels; `box` left, top, right, bottom in pixels of the image, None for its edge. `annotation` holds of
    "patient" and "technique" what shall be burned in, and `icc_profile` is no, yes or srgb.
    """

    media_type: str = JPEG
    transfer_syntax_uid: str = ""
    pixel_tag: int = 0
    pixel_vr: str = "OW"
    frame_numbers: tuple[int, ...] = ()
    has_state: bool = False
    window: tuple[float, float, str] | None = None
    viewport: tuple[int, int] | None = None
    box: tuple[float, float, float | None, float | None] | None = None
    flips_horizontally: bool = False
    flips_vertically: bool = False
    enlarges: bool = True
    quality: int = QUALITY
    annotation: tuple[str, ...] = ()
    icc_profile: str = "no"
    overlays: bool = False

    def request(self) -> dict[str, object]:
        """As the head of a message."""
        return asdict(self)

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Rendering:
        """What `request` gave, after its way through JSON."""
        given: dict[str, Any] = {
            field.name: request[field.name] for field in fields(cls) if field.name in request
        }
        for name, found in given.items():
            given[name] = tuple(found) if isinstance(found, list) else found
        return cls(**given)
