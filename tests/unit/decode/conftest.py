"""One decoding process for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pacs.decode import Decoder


@pytest.fixture(scope="module")
def drawer() -> Iterator[Decoder]:
    with Decoder(children_max=1) as decoder:
        yield decoder
