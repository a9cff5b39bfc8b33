"""Where the two data files of `pacs/deid` come from, and how they are written again.

`table.csv` is PS3.15 Table E.1-1 as dicom-anonymizer carries it; `iod_types.json` says which
attributes the information object definitions of PS3.3 require, as highdicom carries them. Both
packages are read for their data only, here and nowhere else, so that the product does not lean on
another package's private files. To write the files again after an update of either package:

    python -m tests.unit.deid.standard_sources
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom.datadict import dictionary_VR, tag_for_keyword

EDITION: Final = "2026c"

# The names of dicom-anonymizer's lists, and the actions as Table E.1-1 prints them.
ACTIONS: Final = {
    "D_TAGS": "D",
    "Z_TAGS": "Z",
    "X_TAGS": "X",
    "U_TAGS": "U",
    "Z_D_TAGS": "Z/D",
    "X_Z_TAGS": "X/Z",
    "X_D_TAGS": "X/D",
    "X_Z_D_TAGS": "X/Z/D",
    "X_Z_U_STAR_TAGS": "X/Z/U*",
}

# Attributes of these representations are judged by their Type, whatever the table says of them.
TEXT_VRS: Final = frozenset(
    ["AE", "AS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"]
)

Types = dict[int, str]  # tag -> "1" or "2"; the conditional Types count as the plain ones


def table_csv() -> str:
    """The whole text of `pacs/deid/table.csv`."""
    rows = sorted(_table_rows())
    first = f"# PS3.15 Table E.1-1, edition {EDITION}; x stands for any hexadecimal digit\n"
    return first + "tag,basic\n" + "".join(f"{tag},{action}\n" for tag, action in rows)


def iod_types_json() -> str:
    """The whole text of `pacs/deid/iod_types.json`, one SOP class or sequence per line."""
    root, nested = _required()
    facts = {
        "about": "Type 1 and Type 2 attributes (1C as 1, 2C as 2) that the table or the text rule"
        " needs; nested ones by the tag of their sequence, the strictest IOD speaking for all",
        "source": f"PS3.3 by highdicom {version('highdicom')}",
    }
    return (
        "{\n"
        + "".join(f"{json.dumps(key)}: {json.dumps(text)},\n" for key, text in facts.items())
        + f'"root": {{\n{_lines(root)}\n}},\n"nested": {{\n{_lines(nested)}\n}}\n}}\n'
    )


def _table_rows() -> Iterable[tuple[str, str]]:
    table = dicom_anonymization_database_selector(f"dicomfields_{EDITION}")
    for name, action in ACTIONS.items():
        for entry in table[name]:
            yield _tag_text(*entry), action


def _tag_text(
    group: int, element: int, group_mask: int = 0xFFFF, element_mask: int = 0xFFFF
) -> str:
    value, mask = f"{group:04X}{element:04X}", f"{group_mask:04X}{element_mask:04X}"
    return "".join("x" if m == "0" else v for v, m in zip(value, mask, strict=True))


def _required() -> tuple[dict[str, Types], dict[str, Types]]:
    """Required attributes per SOP class at the root, and per sequence beneath it."""
    iod_of_sop_class, modules_of_iod, attributes_of_module = (
        _standard(name) for name in ("sop_class_iod_map", "iod_module_map", "module_attribute_map")
    )
    root: dict[str, Types] = {}
    nested: dict[str, Types] = defaultdict(dict)
    for sop_class_uid, iod in sorted(iod_of_sop_class.items()):
        root[sop_class_uid] = {}
        for module in modules_of_iod[iod]:
            for attribute in attributes_of_module.get(module["key"], ()):
                path = attribute["path"]
                there = nested[_hexadecimal(path[-1])] if path else root[sop_class_uid]
                _add(there, attribute["keyword"], attribute["type"])
    return root, {parent: types for parent, types in sorted(nested.items()) if types}


def _add(types: Types, keyword: str, type_: str | None) -> None:
    tag, needed = tag_for_keyword(keyword), (type_ or "3")[0]
    if tag is not None and needed in "12" and _is_asked_for(tag):
        types[tag] = min(needed, types.get(tag, "2"))


def _is_asked_for(tag: int) -> bool:
    action = _action_by_tag().get(f"{tag:08X}")
    return dictionary_VR(tag) in TEXT_VRS if action is None else action not in ("X", "D", "U")


@cache
def _action_by_tag() -> dict[str, str]:
    return dict(_table_rows())


def _hexadecimal(keyword: str) -> str:
    return f"{tag_for_keyword(keyword):08X}"


def _lines(types: dict[str, Types]) -> str:
    return ",\n".join(
        f"{json.dumps(key)}: "
        + json.dumps({t: " ".join(f"{tag:08X}" for tag in sorted(d) if d[tag] == t) for t in "12"})
        for key, d in types.items()
    )


def _standard(name: str) -> Any:  # noqa: ANN401 - another package's JSON, of a shape of its own
    return json.loads(files("highdicom").joinpath(f"_standard/{name}.json").read_text())


def write() -> None:
    """Write both data files where the package keeps them."""
    folder = Path(str(files("pacs.deid")))
    (folder / "table.csv").write_text(table_csv())
    (folder / "iod_types.json").write_text(iod_types_json())


if __name__ == "__main__":
    write()
