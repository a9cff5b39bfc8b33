"""What a request says of the picture it wants: query parameters checked, as a `Rendering`.

WADO-RS and WADO-URI name the same things differently (PS3.18 8.3.5 and 9.1.2); both end here. A
parameter that cannot be read is refused, with its name and never its value; an unknown one is
ignored, as the standard wants.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from starlette.exceptions import HTTPException

from pacs.decode import Rendering

SIDE_MAX: Final = 16_384  # pixels of a viewport's side; a longer one is refused
VIEWPORT_PIXELS_MAX: Final = 1 << 25  # and so is a viewport of more pixels
REGION_MAX: Final = 1e6  # pixels; a region that lies or reaches farther is refused
THUMBNAIL_SIDE: Final = 128

FUNCTIONS: Final[Mapping[str, str]] = {
    "": "LINEAR",
    "linear": "LINEAR",
    "linear-exact": "LINEAR_EXACT",
    "linear_exact": "LINEAR_EXACT",
    "sigmoid": "SIGMOID",
}
ANNOTATIONS: Final = ("patient", "technique")
ICC_PROFILES: Final = ("no", "yes", "srgb")

_INTEGER = re.compile(r"\d{1,9}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d{1,12}(\.\d{0,12})?|\.\d{1,12})([eE][+-]?\d{1,2})?", re.ASCII)

Given = Mapping[str, str]


class BadParameter(HTTPException):
    """A parameter that cannot be read, by its name."""

    def __init__(self, name: str, rule: str) -> None:
        super().__init__(400, f"{name} {rule}")


def rendering_of(given: Given, *, thumbnail: bool = False) -> Rendering:
    """What the parameters of a rendered resource ask for (PS3.18 8.3.5.1). Raises BadParameter."""
    asked = _with(Rendering(), given, _BY_PARAMETER)
    if not thumbnail:
        return asked
    return replace(asked, viewport=asked.viewport or (THUMBNAIL_SIDE,) * 2, enlarges=False)


def uri_rendering_of(given: Given) -> Rendering:
    """What the parameters of WADO-URI ask for (PS3.18 9.1.2.2). Raises BadParameter."""
    asked = _with(Rendering(), given, _BY_URI_PARAMETER)
    center, width = given.get("windowCenter"), given.get("windowWidth")
    if (center is None) != (width is None):
        raise BadParameter("windowCenter", "and windowWidth go together")
    if center is not None and width is not None:
        asked = replace(asked, window=_window(f"{center},{width}"))
    rows, columns = given.get("rows"), given.get("columns")
    if rows is None and columns is None:
        return asked
    height = SIDE_MAX if rows is None else _side("rows", rows)
    return replace(
        asked, viewport=(SIDE_MAX if columns is None else _side("columns", columns), height)
    )


def unknown_annotations(given: Given) -> list[str]:
    """Whether a request wants texts that nobody here knows; then it is warned (8.3.5.1.1)."""
    wanted = filter(None, given.get("annotation", "").lower().split(","))
    return [one for one in wanted if one not in ANNOTATIONS]


def region_of(given: Given, columns: int, rows: int) -> tuple[float, float, float, float] | None:
    """The region of WADO-URI, left, top, right and bottom from 0 to 1, in pixels of an image."""
    text = given.get("region")
    if text is None:
        return None
    found = [_decimal("region", part) for part in text.split(",")]
    if len(found) != 4 or not 0 <= found[0] < found[2] <= 1 or not 0 <= found[1] < found[3] <= 1:
        raise BadParameter("region", "is left,top,right,bottom, each from 0 to 1")
    left, top, right, bottom = found
    return left * columns, top * rows, right * columns, bottom * rows


def _with(
    asked: Rendering, given: Given, table: Mapping[str, Callable[[Rendering, str], Rendering]]
) -> Rendering:
    for name, change in table.items():
        if name in given:
            asked = change(asked, given[name])
    return asked


def _with_viewport(asked: Rendering, text: str) -> Rendering:
    """vw,vh[,sx,sy,sw,sh]: a region that is left out is the whole, a negative side is flipped."""
    parts = text.split(",")
    if len(parts) not in (2, 6):
        raise BadParameter("viewport", "is vw,vh or vw,vh,sx,sy,sw,sh")
    width, height = (_side("viewport", part) for part in parts[:2])
    if width * height > VIEWPORT_PIXELS_MAX:
        raise BadParameter("viewport", f"has more than {VIEWPORT_PIXELS_MAX} pixels")
    asked = replace(asked, viewport=(width, height))
    if len(parts) == 2 or not any(parts[2:]):
        return asked
    left, top, across, down = (_decimal("viewport", part or "0") for part in parts[2:])
    if max(map(abs, (left, top, across, down))) > REGION_MAX:
        raise BadParameter("viewport", "has a region beyond any image")
    return replace(
        asked,
        box=(left, top, left + abs(across) if across else None, top + abs(down) if down else None),
        flips_horizontally=across < 0,
        flips_vertically=down < 0,
    )


def _window(text: str) -> tuple[float, float, str]:
    center, width, function = [*text.split(","), "", ""][:3]
    named = FUNCTIONS.get(function.strip().lower())
    if named is None or text.count(",") not in (1, 2):
        raise BadParameter("window", "is center,width,function: linear, linear-exact or sigmoid")
    found = _decimal("window", center), _decimal("window", width)
    if found[1] < (1 if named == "LINEAR" else math.ulp(0)):
        raise BadParameter("window", "has a width that is too small")
    return (*found, named)


def _quality(text: str) -> int:
    if not _INTEGER.fullmatch(text) or not 1 <= int(text) <= 100:
        raise BadParameter("quality", "is a whole number from 1 to 100")
    return int(text)


def _icc_profile(text: str) -> str:
    if text.lower() not in ICC_PROFILES:
        raise BadParameter("iccprofile", "is none of no, yes and srgb, which are made here")
    return text.lower()


def _annotation(text: str) -> tuple[str, ...]:
    wanted = text.lower().split(",")
    return tuple(one for one in ANNOTATIONS if one in wanted)


def _side(name: str, text: str) -> int:
    if not _INTEGER.fullmatch(text) or not 1 <= int(text) <= SIDE_MAX:
        raise BadParameter(name, f"has a side that is no whole number from 1 to {SIDE_MAX}")
    return int(text)


def _decimal(name: str, text: str) -> float:
    found = float(text) if _DECIMAL.fullmatch(text.strip()) else math.nan
    if not math.isfinite(found):
        raise BadParameter(name, "holds something else than decimal numbers")
    return found


_BY_PARAMETER: Final[Mapping[str, Callable[[Rendering, str], Rendering]]] = {
    "window": lambda asked, text: replace(asked, window=_window(text)),
    "viewport": _with_viewport,
    "quality": lambda asked, text: replace(asked, quality=_quality(text)),
    "annotation": lambda asked, text: replace(asked, annotation=_annotation(text)),
    "iccprofile": lambda asked, text: replace(asked, icc_profile=_icc_profile(text)),
    "overlay": lambda asked, text: replace(asked, overlays=text.lower() == "yes"),
}
_BY_URI_PARAMETER: Final = {
    "imageQuality": _BY_PARAMETER["quality"],
    "annotation": _BY_PARAMETER["annotation"],
}
