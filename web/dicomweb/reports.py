"""A structured report as a small page of HTML: how far it may be trusted, then its content tree.

Who the patient is stands in it only if that was asked for; names of persons in the tree are left
out with it. The tree comes from the DICOM JSON model (PS3.18 F, PS3.3 C.17.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any, Final

ITEMS_MAX: Final = 20_000  # content items of one page; further ones are not shown
DEPTH_MAX: Final = 64  # how deep they may lie; deeper ones are not shown

Model = Mapping[str, Any]

_CONCEPT_NAME, _CONCEPT_CODE, _CONTENT = "0040A043", "0040A168", "0040A730"
_VALUE_TYPE, _MEASURED, _UNITS = "0040A040", "0040A300", "004008EA"
# What a reader must know before anything else (PS3.3 C.17.2): whether somebody stands behind it.
_STANDING: Final = ("0040A491", "0040A496", "0040A493")  # completion, preliminary, verification
_PATIENT: Final = {"Name": "00100010", "ID": "00100020", "Born": "00100030", "Sex": "00100040"}


def html(model: Model, *, with_patient: bool = False) -> str:
    """The page of a report's metadata."""
    title = _meaning(model, _CONCEPT_NAME) or "Structured report"
    rows = [
        f"<p>{escape(label)}: {escape(_text(model, tag))}</p>"
        for label, tag in _PATIENT.items()
        if with_patient and _text(model, tag)
    ]
    standing = ", ".join(filter(None, (_text(model, tag) for tag in _STANDING)))
    rows.insert(0, f"<p><strong>{escape(standing or 'UNVERIFIED')}</strong></p>")
    lines = list(_lines(model, with_patient))
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title></head><body><h1>{escape(title)}</h1>"
        f"{''.join(rows)}{''.join(lines)}</body></html>"
    )


def _lines(model: Model, with_patient: bool) -> Iterator[str]:
    """The tree as nested lists, walked without recursion."""
    waiting: list[Iterator[Model]] = [_items(model, _CONTENT)]
    shown = 0
    yield "<ul>"
    while waiting:
        item = next(waiting[-1], None)
        if item is None or shown >= ITEMS_MAX:
            waiting.pop()
            yield "</ul>"
            continue
        line = _line(item, with_patient)
        if line:
            shown += 1
            yield f"<li>{line}</li>"
        if len(waiting) < DEPTH_MAX and _CONTENT in item:
            waiting.append(_items(item, _CONTENT))
            yield "<ul>"


def _line(item: Model, with_patient: bool) -> str:
    kind = _text(item, _VALUE_TYPE)
    if kind == "PNAME" and not with_patient:
        return ""
    name = escape(_meaning(item, _CONCEPT_NAME))
    found = _VALUES[kind](item) if kind in _VALUES else ""
    return f"{name}: {escape(found)}" if found and name else name or escape(found)


def _measured(item: Model) -> str:
    value = next(_items(item, _MEASURED), {})
    return f"{_text(value, '0040A30A')} {_meaning(value, _UNITS)}".strip()


def _referenced(item: Model) -> str:
    return "instance " + _text(next(_items(item, "00081199"), {}), "00081155")


_VALUES: Final[Mapping[str, Callable[[Model], str]]] = {
    "CODE": lambda item: _meaning(item, _CONCEPT_CODE),
    "NUM": _measured,
    "TEXT": lambda item: _text(item, "0040A160"),
    "DATE": lambda item: _text(item, "0040A121"),
    "TIME": lambda item: _text(item, "0040A122"),
    "DATETIME": lambda item: _text(item, "0040A120"),
    "PNAME": lambda item: _text(item, "0040A123"),
    "UIDREF": lambda item: _text(item, "0040A124"),
    "IMAGE": _referenced,
    "COMPOSITE": _referenced,
    "WAVEFORM": _referenced,
}


def _meaning(model: Model, tag: str) -> str:
    code = next(_items(model, tag), {})
    return _text(code, "00080104") or _text(code, "00080100")


def _items(model: Model, tag: str) -> Iterator[Model]:
    values = model.get(tag, {}).get("Value", [])
    return (one for one in values if isinstance(one, dict))


def _text(model: Model, tag: str) -> str:
    found = next(iter(model.get(tag, {}).get("Value", [])), "")
    if isinstance(found, dict):
        return str(found.get("Alphabetic", ""))
    return "" if found is None else str(found)
