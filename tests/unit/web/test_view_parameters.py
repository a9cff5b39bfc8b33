"""Query parameters of pictures, read exactly or refused."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from web.dicomweb.view_parameters import (
    SIDE_MAX,
    VIEWPORT_PIXELS_MAX,
    BadParameter,
    region_of,
    rendering_of,
    uri_rendering_of,
)

TEXTS = st.text(alphabet="0123456789.,-+eExnaif \u0661", max_size=20)
NAMES = ("window", "viewport", "quality", "annotation", "iccprofile", "overlay")
URI_NAMES = ("windowCenter", "windowWidth", "rows", "columns", "imageQuality", "region")


@given(st.dictionaries(st.sampled_from(NAMES), TEXTS))
def test_any_text_is_read_within_bounds_or_refused(parameters: dict[str, str]) -> None:
    try:
        asked = rendering_of(parameters)
    except BadParameter:
        return
    assert 1 <= asked.quality <= 100
    if asked.viewport is not None:
        assert all(1 <= side <= SIDE_MAX for side in asked.viewport)
        assert math.prod(asked.viewport) <= VIEWPORT_PIXELS_MAX
    if asked.window is not None:
        assert math.isfinite(asked.window[0])
        assert 0 < asked.window[1] < math.inf


@given(st.dictionaries(st.sampled_from(URI_NAMES), TEXTS))
def test_the_same_holds_for_wado_uri(parameters: dict[str, str]) -> None:
    try:
        asked = uri_rendering_of(parameters)
        region = region_of(parameters, 100, 200)
    except BadParameter:
        return
    assert asked.window is None or all(map(math.isfinite, asked.window[:2]))
    if region is not None:
        assert 0 <= region[0] < region[2] <= 100
        assert 0 <= region[1] < region[3] <= 200
