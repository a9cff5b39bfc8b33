"""A measurement report read back as sentences, for the demo, a page or a terminal.

Any report in the shape of PS3.16 TID 1500 will do; nothing is taken from the model that wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydicom import Dataset

# Concept names by code value; all of them are DCM but for the last two, which are SCT.
IMAGING_MEASUREMENTS: Final = "126010"
FINDING: Final = "121071"
DERIVATION: Final = "121401"
COMMENT: Final = "121106"
FINDING_CATEGORY: Final = "276214006"
FINDING_SITE: Final = "363698007"

# Coded items of a measurement group that say what is evaluated, not how it turned out.
NOT_EVALUATIONS: Final = frozenset({FINDING, FINDING_CATEGORY, FINDING_SITE})
# Units as people write them; another unit is shown by its code.
UNIT_WORDS: Final[Mapping[str, str]] = {"cm3": "ml", "[hnsf'U]": "HU", "1": ""}


def in_words(report: Dataset) -> list[str]:
    """A measurement report (TID 1500) as sentences: what it is, what was found, what to know."""
    flags = (report.get(k) for k in ("PreliminaryFlag", "VerificationFlag", "ContentQualification"))
    lines = [f"{_name(report)}: {', '.join(str(flag) for flag in flags if flag)}"]
    for container in _items(report, "CONTAINER"):
        if _code_of(container) != IMAGING_MEASUREMENTS:
            continue
        for group in _items(container, "CONTAINER"):
            lines += _group_in_words(group)
    return lines


def _group_in_words(group: Dataset) -> list[str]:
    finding = next((_value(i) for i in _items(group, "CODE") if _code_of(i) == FINDING), None)
    measured = [f"{finding or 'Measured'}: {_number(item)}" for item in _items(group, "NUM")]
    evaluated = [
        f"{_name(item)}: {_value(item)}"
        for item in _items(group, "CODE")
        if item.RelationshipType == "CONTAINS" and _code_of(item) not in NOT_EVALUATIONS
    ]
    comments = [str(item.TextValue) for item in _items(group, "TEXT") if _code_of(item) == COMMENT]
    return [*measured, *evaluated, *comments]


def _number(item: Dataset) -> str:
    measured = item.MeasuredValueSequence[0]
    unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
    derivations = [_value(i) for i in _items(item, "CODE") if _code_of(i) == DERIVATION]
    name = ", ".join([_name(item), *derivations])
    return f"{name} {float(measured.NumericValue):g} {UNIT_WORDS.get(unit, unit)}".rstrip()


def _items(parent: Dataset, value_type: str) -> list[Dataset]:
    items = parent.get("ContentSequence") or []
    return [item for item in items if item.get("ValueType") == value_type]


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def _code_of(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].get("CodeValue", ""))


def _value(item: Dataset) -> str:
    return str(item.ConceptCodeSequence[0].CodeMeaning)
