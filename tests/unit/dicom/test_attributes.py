"""The one table of attributes agrees with PS3.6 and with itself."""

from __future__ import annotations

import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs.dicom.attributes import INDEXED, UNIQUE_KEY, Level, read_from_data_set


@pytest.mark.parametrize("keyword", sorted(INDEXED))
def test_every_attribute_is_in_the_dictionary(keyword: str) -> None:
    attribute = INDEXED[keyword]
    assert attribute.tag == tag_for_keyword(keyword)
    assert attribute.vr == dictionary_VR(attribute.tag)


def test_every_level_has_a_unique_key_of_its_own() -> None:
    assert [UNIQUE_KEY[level].level for level in Level] == list(Level)
    assert [level.query_retrieve_level for level in Level] == [
        "PATIENT",
        "STUDY",
        "SERIES",
        "IMAGE",
    ]


def test_what_is_counted_is_not_read_and_only_modalities_can_be_matched() -> None:
    counted = {a for a in INDEXED.values() if a.counted}
    read = {a for level in Level for a in read_from_data_set(level)}
    assert counted | read == set(INDEXED.values())
    assert not counted & read
    assert [a.keyword for a in counted if a.matchable] == ["ModalitiesInStudy"]
