"""Why an object is not released: a closed list of reason codes, each with its sentence.

An object that cannot be cleaned is withheld as a whole. Nothing partly cleaned ever leaves the
engine, and the reason names a rule, never a value of the object.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pacs.errors import Fact, Refused

REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "body_part_unknown": "Nothing says which part of the body is shown, so it may be the head.",
        "burned_in_text_possible": "The pixels may show text, and this profile cleans no pixels.",
        "encapsulated_document": "No way to clean an encapsulated document is defined.",
        "face_possible": "The pixels may show a face, and this profile cleans no pixels.",
        "nested_too_deep": "Its sequences are nested deeper than the limit.",
        "object_type_not_cleaned": "This profile has no rules for this type of object.",
        "overlay_in_pixel_data": "An overlay lies in unused bits of the pixel data.",
        "pixel_data_length": "The pixel data is not as long as its attributes say.",
        "presentation_state": "The annotations of a presentation state cannot be cleaned yet.",
        "private_sop_class": "PS3.15 defines no cleaning of a private SOP class.",
        "required_attribute_missing": "A UID that every object must have is missing.",
        "residue": "An identifier of the original was found again after cleaning.",
        "structured_report": "The text of a structured report cannot be cleaned yet.",
        "undecodable": "A part of the object cannot be read, so it cannot be cleaned.",
        "unknown_sop_class": "This node does not know the SOP class.",
    }
)


class Withheld(Refused):
    """This object may not be released.

    `code` is a key of `REASONS`. It may be shown, counted and logged; it holds nothing of the
    object itself.
    """

    def __init__(self, code: str, **facts: Fact) -> None:
        assert code in REASONS, code
        self.code = code
        super().__init__(REASONS[code], code=code, **facts)
