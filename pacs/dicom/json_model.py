"""A data set as DICOM JSON, bulk values by reference (PS3.18 annex F).

An element whose value does not fit its VR is left out rather than failing the whole instance: a
viewer can still show the picture. What comes out is JSON in the strict sense, without NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from pydicom import Dataset
from pydicom.dataelem import DataElement

from pacs.dicom.data_sets import UNFIT
from pacs.dicom.part10 import NESTING_MAX

INLINE_BYTES_MAX: Final = 1024  # larger binary values are given as a BulkDataURI

JsonModel = dict[str, Any]

_BULK_VR: Final = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "UN"])


def json_model(header: Dataset, bulk_uri: Callable[[str], str]) -> JsonModel:
    """The DICOM JSON model of a header; bulk_uri turns a path such as `7FE00010` into its URI."""
    model: JsonModel = {}
    for tag in sorted(header.keys()):
        if tag.group in (0x0000, 0x0002) or tag.element == 0:
            continue
        path = f"{int(tag):08X}"
        model[path] = _element(header, int(tag), path, bulk_uri)
    return {path: value for path, value in model.items() if value}


def _element(data_set: Dataset, tag: int, path: str, bulk_uri: Callable[[str], str]) -> JsonModel:
    try:
        element = data_set[tag]
        if element.VR == "SQ":
            # The walk has bounded the depth, save of what a value of unknown VR turned out to hold.
            deep = path.count("/") >= 2 * NESTING_MAX
            return {} if deep else _sequence(element, path, bulk_uri)
        if element.VR in _BULK_VR and len(element.value or b"") > INLINE_BYTES_MAX:
            return {"vr": element.VR, "BulkDataURI": bulk_uri(path)}
        return _plain(element)
    except UNFIT:
        return {}


def _plain(element: DataElement) -> JsonModel:
    model: JsonModel = element.to_json_dict(bulk_data_element_handler=None, bulk_data_threshold=0)
    if element.VR == "PN" and "Value" in model:
        model["Value"] = [value or {} for value in model["Value"]]
    elif element.VR in ("DS", "FD", "FL") and "Value" in model:
        model["Value"] = [_number(value) for value in model["Value"]]
    return model


def _number(value: float | None) -> float | str | None:
    """A number, or the text that table F.2.3-1 gives for what JSON cannot say: NaN, inf, -inf."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else str(value)


def _sequence(element: DataElement, path: str, bulk_uri: Callable[[str], str]) -> JsonModel:
    items = [
        {
            f"{int(tag):08X}": found
            for tag in sorted(item.keys())
            if (found := _element(item, int(tag), f"{path}/{n}/{int(tag):08X}", bulk_uri))
        }
        for n, item in enumerate(element.value, start=1)
    ]
    return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
