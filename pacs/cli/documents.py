"""The tables of the documents, written by the code they describe.

`python -m pacs.cli.documents` writes them anew between their marks in `docs/`; a test fails while
a document is stale. So the conformance statement cannot promise what does not run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydicom.uid import UID

from pacs.config import Config, known_keys
from pacs.decode.syntaxes import DECODERS, ENCODABLE, ENCODERS, NATIVE
from pacs.dicom import part10
from pacs.dicom.attributes import INDEXED, WORKLIST, Level
from pacs.dimse import messages
from pacs.dimse.status import FIND, PROCEDURE_STEP, RETRIEVE, STORE
from pacs.dimse.upper_layer import DimseLimits
from pacs.errors import NodeError
from pacs.procedure_steps import RULES, Rule
from pacs.workitems import Status
from web import dicomweb
from web.dicomweb import wado_uri
from web.dicomweb.store import FAILURE_REASON
from web.errors import STATUS
from web.openapi import DescribedApp

DOCUMENTS: Final = Path(__file__).parents[2] / "docs"

_MARK: Final = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", r"\|")


def _query_keys() -> str:
    rows = (
        (
            level.query_retrieve_level,
            attribute.keyword,
            f"({attribute.tag >> 16:04X},{attribute.tag & 0xFFFF:04X})",
            attribute.vr,
            _matching(attribute.vr) if attribute.matchable else "returned only",
        )
        for level in Level
        for attribute in INDEXED.values()
        if attribute.level is level
    )
    return table(("Level", "Keyword", "Tag", "VR", "Matching"), rows)


def _worklist_keys() -> str:
    rows = (
        (
            "step" if attribute.level is Level.SERIES else "above",
            attribute.keyword,
            f"({attribute.tag >> 16:04X},{attribute.tag & 0xFFFF:04X})",
            attribute.vr,
            _matching(attribute.vr).replace(", fuzzy", ""),
        )
        for attribute in WORKLIST.values()
    )
    return table(("Place", "Keyword", "Tag", "VR", "Matching"), rows)


def _step_attributes() -> str:
    return table(("Attribute", "N-CREATE", "N-SET", "At the end"), _of_rules(RULES, ""))


def _of_rules(rules: Iterable[Rule], depth: str) -> Iterator[tuple[str, str, str, str]]:
    for rule in rules:
        may = "may change" if rule.may_be_set else "-" if depth else "not allowed"
        yield f"{depth}{rule.keyword}", f"type {rule.type}", may, "type 1" if rule.is_final else "-"
        yield from _of_rules(rule.items, f"{depth}> ")


def _matching(vr: str) -> str:
    by_vr = {
        "UI": "UID list",
        "DA": "single value, range",
        "TM": "single value, range",
        "IS": "single value",
        "US": "single value",
        "PN": "single value, wildcard, fuzzy; case and marks folded, all three groups",
    }
    return by_vr.get(vr, "single value, wildcard")


def _statuses(codes: Iterable[tuple[type[NodeError], int]], shape: str) -> str:
    rows = ((shape.format(int(code)), _meaning(error)) for error, code in codes)
    return table(("Status", "When"), rows)


def _meaning(error: type[NodeError]) -> str:
    return str(error.__doc__).partition("\n")[0]


def _workitem_statuses() -> str:
    rows = (
        (f"{one.code:04X}", f"{one.sentence[:1].upper()}{one.sentence[1:]}.")
        for one in Status
        if one.code
    )
    return table(("Status", "When"), rows)


def _decoders() -> str:
    native = ((uid, "no codec needed") for uid in sorted(NATIVE))
    rows = (
        (uid, UID(uid).name, decoder, ENCODERS.get(uid, "pacs" if uid in ENCODABLE else "–"))
        for uid, decoder in (*native, *DECODERS.items())
    )
    return table(("Transfer syntax", "Name", "Decoded by", "Made by"), rows)


def _settings() -> str:
    rows = (
        (f"`{key}`", f"`ISOCENTER_{key.upper().replace('.', '__')}`", _default(key), _text(key))
        for key in known_keys()
    )
    return table(("Key", "Environment", "Default", "Meaning"), rows)


def _default(key: str) -> str:
    value: object = Config()
    for part in key.split("."):
        value = getattr(value, part)
    if value in ("", None):
        return "embedded" if key in ("store", "index", "models") else "none"
    return f"`{value}`"


def _text(key: str) -> str:
    return str(known_keys()[key].description)


def _limits() -> str:
    rows = (
        ("Nested sequences", part10.NESTING_MAX, "refused (C000)"),
        ("Elements of one data set", part10.ELEMENTS_MAX, "refused (C000)"),
        ("Inflated bytes of a deflated data set", part10.INFLATED_BYTES_MAX, "refused (C000)"),
        (
            f"Inflation factor beyond {part10.INFLATION_FREE_BYTES >> 20} MiB",
            part10.INFLATION_RATIO_MAX,
            "refused (C000)",
        ),
        ("Bytes of a file meta group", part10.META_BYTES_MAX, "refused (C000)"),
        ("Bytes of a data set by C-STORE", DimseLimits().data_set_bytes_max, "refused (A700)"),
        ("Bytes of any other data set by DIMSE", messages.OTHER_BYTES_MAX, "A-ABORT"),
    )
    return table(("What", "Limit", "Beyond it"), rows)


def _resources() -> str:
    """What DICOMweb serves, from its own description."""
    app = DescribedApp()
    for router in (dicomweb.router, dicomweb.worklist):
        app.include_router(router, prefix=dicomweb.IDENTIFIED)
    app.include_router(wado_uri.router)
    rows = (
        (method.upper(), f"`{path.removeprefix(dicomweb.IDENTIFIED)}`", *_answers(operation))
        for path, operations in sorted(app.openapi()["paths"].items())
        if not path.startswith("/research") and path != dicomweb.IDENTIFIED
        for method, operation in operations.items()
    )
    return table(("Method", "Path", "What it does", "Answers", "Problems"), rows)


def _answers(operation: Mapping[str, Any]) -> tuple[str, str, str]:
    codes = [int(status) for status in operation["responses"]]
    told = [", ".join(str(one) for one in codes if (one < 400) is well) for well in (True, False)]
    return (operation["summary"], *told)


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "query-keys": _query_keys,
    "c-store-statuses": lambda: _statuses(STORE.items(), "{:04X}"),
    "c-find-statuses": lambda: _statuses(FIND.items(), "{:04X}"),
    "worklist-keys": _worklist_keys,
    "procedure-step-attributes": _step_attributes,
    "procedure-step-statuses": lambda: _statuses(PROCEDURE_STEP.items(), "{:04X}"),
    "retrieve-statuses": lambda: _statuses(RETRIEVE.items(), "{:04X}"),
    "stow-failure-reasons": lambda: _statuses(FAILURE_REASON.items(), "{:04X}"),
    "dicomweb-resources": _resources,
    "http-statuses": lambda: _statuses(STATUS.items(), "{}"),
    "ups-statuses": _workitem_statuses,
    "decoders": _decoders,
    "settings": _settings,
    "limits": _limits,
}


def fresh(text: str) -> str:
    """A document with its tables written anew."""
    return _MARK.sub(lambda mark: f"{mark[1]}{TABLES[mark[2]]()}{mark[3]}", text)


def main() -> None:
    """Write every document's tables anew."""
    for path in sorted(DOCUMENTS.glob("*.md")):
        path.write_text(fresh(path.read_text()))


if __name__ == "__main__":
    main()
