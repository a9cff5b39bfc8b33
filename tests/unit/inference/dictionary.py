"""The code dictionary of PS3.16 as pydicom ships it."""

from __future__ import annotations

from typing import cast

from pydicom.sr import _concepts_dict

from inference.findings import Code

# By scheme, keyword and value: the meaning and the context groups.
Entries = dict[str, dict[str, tuple[str, list[int]]]]
CONCEPTS = cast(dict[str, Entries], _concepts_dict.concepts)


def is_known(code: Code) -> bool:
    """Whether the dictionary has this value with this meaning, in this scheme."""
    return any(
        code.value in entry and entry[code.value][0].lower() == code.meaning.lower()
        for entry in CONCEPTS[code.scheme].values()
    )
