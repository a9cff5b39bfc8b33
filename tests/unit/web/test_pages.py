"""The pages: what they show, that nothing in them runs, and that a person can find a way around."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests import make
from tests.unit.web.analysed import CANARY, TEMPLATE_CANARY, Analysed, analysed
from tests.unit.web.node import Served, serving
from web.pages import HEADERS, STUDIES_PER_PAGE

__all__ = ["analysed"]  # the fixture, for pytest to find

VOID = {"br", "hr", "img", "input", "link", "meta"}
LOADING = {"src", "href", "action"}


class Page(HTMLParser):
    """A page taken apart; one whose tags do not close is no page."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self._open: list[str] = []
        self._inputs_in_labels = 0
        self.feed(answer.text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        self.addresses += [value or "" for name, value in attrs if name in LOADING]
        self._inputs_in_labels += tag == "input" and "label" in self._open
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def every_input_has_a_label(self) -> bool:
        return self._inputs_in_labels == self.tags["input"]


@pytest.fixture
def addresses(analysed: Analysed) -> list[str]:
    return [
        *("/", "/models", "/jobs", "/studies/1.2.3", "/?name=nobody", "/?date_from=nonsense"),
        *(f"/studies/{uid}" for uid in (analysed.chest, analysed.hostile, analysed.receiving)),
        f"/fragments/study/{analysed.chest}",
        f"/fragments/study/{analysed.hostile}",
    ]


def test_nothing_on_a_page_runs_or_comes_from_elsewhere(
    analysed: Analysed, addresses: list[str]
) -> None:
    for address in addresses:
        answer = analysed.client.get(address)
        page = Page(answer)
        assert page.tags["script"] == page.tags["iframe"] == page.tags["style"] == 0, address
        assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
        assert all(
            not urlsplit(found).scheme and not urlsplit(found).netloc for found in page.addresses
        )
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS, address
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_every_page_has_landmarks_and_one_heading(analysed: Analysed, addresses: list[str]) -> None:
    for address in addresses:
        page = Page(analysed.client.get(address))
        assert page.tags["main"] == page.tags["h1"] == page.tags["title"] == 1, address
        assert ("lang", "en") in page.attributes
        assert page.every_input_has_a_label, address
        if "/fragments/" not in address:
            assert page.tags["header"] >= 1
            assert page.tags["footer"] == 1


def test_every_link_on_a_page_leads_somewhere(analysed: Analysed, addresses: list[str]) -> None:
    found = {link for a in addresses for link in Page(analysed.client.get(a)).addresses}
    for address in sorted(found - {"#content"}):
        assert analysed.client.get(address).status_code == 200, address


def test_a_hostile_name_stays_text(analysed: Analysed) -> None:
    for address in (
        *("/", f"/studies/{analysed.hostile}", f"/fragments/study/{analysed.hostile}"),
        "/?name=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E",
    ):
        answer = analysed.client.get(address)
        assert CANARY not in answer.text, address
        assert TEMPLATE_CANARY in answer.text or "?" in address
        assert "<script" not in answer.text
        assert Page(answer).tags["img"] <= 1  # the mark of the node alone


def test_the_worklist_says_what_ai_found_in_words(analysed: Analysed) -> None:
    page = Page(analysed.client.get("/"))
    for expected in ("Late, Lou", "2024-02-29", "receiving", "not applicable", "result", "LAA-950"):
        assert expected in page.words, expected


def test_the_study_page_shows_numbers_units_model_and_warning(analysed: Analysed) -> None:
    page = Page(analysed.client.get(f"/studies/{analysed.chest}"))
    for expected in (
        *("CT lung densitometry", "Volume", "ml", "HU", "%", "ct-lung-densitometry 1."),
        *("Research use only.", "Not verified by a physician.", "structured report"),
        *("segmentation", "UNVERIFIED", "generation 1"),
    ):
        assert expected in page.words, expected
    assert f"/api/studies/{analysed.chest}/results" in page.addresses


def test_a_skipped_run_is_called_not_applicable_and_says_why(analysed: Analysed) -> None:
    page = Page(analysed.client.get(f"/studies/{analysed.hostile}"))
    assert "not applicable" in page.words
    assert "Modality is CR." in page.words


def test_a_page_that_waits_asks_again_and_one_that_is_done_does_not(analysed: Analysed) -> None:
    waits = {
        uid: ("http-equiv", "refresh") in Page(analysed.client.get(f"/studies/{uid}")).attributes
        for uid in (analysed.receiving, analysed.chest)
    }
    assert waits == {analysed.receiving: True, analysed.chest: False}


def test_an_error_is_a_page_with_its_status(analysed: Analysed) -> None:
    unknown = analysed.client.get("/studies/1.2.3")
    assert (unknown.status_code, Page(unknown).tags["h1"]) == (404, 1)
    assert analysed.client.get("/?date_from=nonsense").status_code == 400
    assert analysed.client.get("/static/../pages.py").status_code == 404
    assert analysed.client.get("/static/pages.py").status_code == 404


def test_a_style_sheet_may_be_kept_and_its_address_changes_with_it(analysed: Analysed) -> None:
    (address,) = {
        found for found in Page(analysed.client.get("/")).addresses if "style.css" in found
    }
    answer = analysed.client.get(address)
    assert answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]
    assert "url(" not in answer.text
    assert "@import" not in answer.text


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Served]:
    """Thirty studies of thirty patients, one a day."""
    with serving(tmp_path) as served:
        for number in range(1, 31):
            data_set = make.data_set(
                study_instance_uid=make.uid("many", number),
                patient_id=f"P-{number:02d}",
                patient_name=f"Müller^Nr{number:02d}",
                AccessionNumber=f"ACC{number:02d}",
                StudyDate=f"202401{number:02d}",
                SpecificCharacterSet="ISO_IR 192",
            )
            served.archive.store(make.SCANNER, make.incoming(data_set))
        yield served


def patients(served: Served, address: str) -> list[str]:
    words = Page(served.client.get(address)).words
    return [f"{number:02d}" for number in range(1, 31) if f"Müller, Nr{number:02d}" in words]


def test_the_search_form_finds_parts_of_names_ids_and_accession_numbers(many: Served) -> None:
    assert patients(many, "/?name=muller%5Enr07") == ["07"]
    assert patients(many, "/?id=-12") == ["12"]
    assert patients(many, "/?accession=cc3") == []
    assert patients(many, "/?accession=CC30") == ["30"]
    assert patients(many, "/?date_from=2024-01-05&date_to=2024-01-06") == ["05", "06"]
    assert patients(many, "/?date_from=2024-01-29") == ["29", "30"]
    assert patients(many, "/?modality=mr") == []
    assert "Nothing fits" in Page(many.client.get("/?modality=mr")).words


def test_pages_of_the_worklist_hold_every_study_once_and_keep_the_search(many: Served) -> None:
    first = Page(many.client.get("/?name=muller"))
    (following,) = [found for found in first.addresses if "page=2" in found]
    assert "name=muller" in following
    shown = patients(many, "/?name=muller"), patients(many, following)
    assert len(shown[0]) == STUDIES_PER_PAGE
    assert sorted(shown[0] + shown[1]) == [f"{number:02d}" for number in range(1, 31)]
