"""The floor plan of docs/architecture.md holds: a module imports lower floors and its own package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("pacs", "inference", "web", "sample_dicom")
ROW = re.compile(r"^\| (\d+) \|[^|]*\|([^|]*)\|", re.MULTILINE)


def floors() -> dict[str, int]:
    """Floor by module, from the table: `pacs.store` also stands for what lies below it."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    return {
        name: int(number)
        for number, modules in ROW.findall(text)
        for name in re.findall(r"`([a-z_.]+)`", modules)
    }


FLOORS = floors()


def home(module: str) -> str | None:
    """The row of the table that a module belongs to: its longest prefix."""
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in FLOORS), None)


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if "migrations" not in parts:
                yield ".".join(part for part in parts if part != "__init__"), path


def imported(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, local imports and `TYPE_CHECKING` ones too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.partition(".")[0] in PACKAGES)


def test_the_table_is_read() -> None:
    assert FLOORS["pacs.errors"] < FLOORS["pacs.dicom"] < FLOORS["pacs.archive"] < FLOORS["web"]


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: str(value)[-40:])
def test_a_module_looks_down_and_never_up(module: str, path: Path) -> None:
    own = home(module)
    if own is None:
        assert module in ("pacs", "pacs.__main__"), f"{module} stands on no floor"
        return
    for name in imported(path):
        other = home(name)
        if other not in (None, own):
            assert FLOORS[other] < FLOORS[own], f"{module} ({own}) imports {name}"


@pytest.mark.parametrize(
    ("library", "corners"),
    [
        ("highdicom", {"inference.objects", "inference.words"}),
        ("pynetdicom", {"pacs.dimse"}),
        ("fastapi", {"web"}),
        (
            "sqlalchemy",
            {
                *("pacs.index", "pacs.archive", "pacs.workflow"),
                *("pacs.workitems", "pacs.forwarding", "pacs.delivery", "pacs.procedure_steps"),
                *("pacs.commitment", "pacs.availability"),
            },
        ),
        ("minio", {"pacs.store"}),
        ("onnxruntime", {"inference"}),
        ("typer", {"pacs.cli"}),
    ],
)
def test_a_library_stays_in_its_corner(library: str, corners: set[str]) -> None:
    for module, path in modules():
        inside = any(module == c or module.startswith(f"{c}.") for c in corners)
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "module", None) if isinstance(node, ast.ImportFrom) else None
            names = [name] if name else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            used = any(str(n).partition(".")[0] == library for n in names)
            assert inside or not used, f"{module} imports {library}"
