"""The documents are fresh, name what exists, and leak nothing of the machines they were written on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pacs.cli.documents import DOCUMENTS, TABLES, fresh

ROOT = Path(__file__).parents[2]
MARKDOWN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("path", sorted(DOCUMENTS.glob("*.md")), ids=lambda path: path.name)
def test_the_tables_are_those_of_the_code(path: Path) -> None:
    assert path.read_text() == fresh(path.read_text()), "run: python -m pacs.cli.documents"


def test_every_table_stands_in_some_document() -> None:
    text = "".join(path.read_text() for path in MARKDOWN)
    missing = [name for name in TABLES if f"<!-- table: {name} -->" not in text]
    assert not missing


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_documents_exist(path: Path) -> None:
    for name in re.findall(
        r"`((?:pacs|web|inference|tests|docs|bench)/[\w/.-]+?)[`:]", path.read_text()
    ):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=str)
def test_a_decision_says_what_would_change_our_mind(path: Path) -> None:
    text = path.read_text()
    for part in ("**Context.**", "**Decision.**", "**Price.**", "**What would change our mind.**"):
        assert part in text
    assert len(text.splitlines()) < 45, "half a page"


def test_the_project_names_no_machine_and_no_registry() -> None:
    tracked = subprocess.run(
        ["git", "grep", "-nIE", PLACES, "--", "."],  # noqa: S607 - git, wherever it is
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not tracked.stdout, tracked.stdout


# Written with brackets, so that this file does not find itself.
PLACES = "/wor[k]/|/far[m]/|pypi[.]org|pythonhoste[d]|npmjs[.]org"
