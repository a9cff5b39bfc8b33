"""The right series is read, and every other one is told why it was not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pydicom import Dataset

from inference.manifest import Selection as Wanted
from inference.manifest import read_manifest
from inference.registry import BUILT_IN
from inference.selection import Selection, select
from pacs.dicom.uids import derived_uid
from tests.unit.inference.stacks import ct_stack

WANTED: Wanted = read_manifest(BUILT_IN / "ct_lung_densitometry").selection


def series(name: str, *, slices: int = 30, step_mm: float = 5.0) -> list[Dataset]:
    return ct_stack(np.zeros((slices, 4, 4), np.int16), series=name, step_mm=(0, 0, step_mm))


def uid(name: str) -> str:
    return derived_uid("test", name)


def codes(selection: Selection) -> dict[str, str]:
    return {verdict.series_instance_uid: verdict.code for verdict in selection.verdicts}


def having(stack: list[Dataset], keyword: str, value: object) -> list[Dataset]:
    for data_set in stack:
        setattr(data_set, keyword, value)
    return stack


def test_the_thinnest_series_is_taken_and_the_others_ranked() -> None:
    study = [*series("thick"), *series("thin", slices=100, step_mm=1.5), *series("mid", step_mm=3)]
    selection = select(WANTED, study)
    assert selection.series_instance_uid == uid("thin")
    assert codes(selection) == {
        uid("thin"): "selected",
        uid("thick"): "ranked_lower",
        uid("mid"): "ranked_lower",
    }
    assert selection.sop_instance_uids == {d.SOPInstanceUID for d in study[30:130]}


def test_of_equal_spacing_the_longer_series_is_taken() -> None:
    selection = select(WANTED, [*series("short"), *series("long", slices=40)])
    assert selection.series_instance_uid == uid("long")


@pytest.mark.parametrize(
    ("keyword", "value", "code"),
    [
        ("Modality", "PT", "modality"),
        ("Modality", None, "modality"),
        ("ImageType", ["DERIVED", "PRIMARY", "AXIAL"], "image_type"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"], "image_type"),
        ("BodyPartExamined", "HEAD", "body_part"),
        ("BodyPartExamined", "CHEST", "selected"),
        ("BodyPartExamined", "", "selected"),
    ],
)
def test_a_condition_that_fails_gives_its_code(keyword: str, value: object, code: str) -> None:
    selection = select(WANTED, having(series("one"), keyword, value))
    assert codes(selection) == {uid("one"): code}
    assert (selection.grid is None) == (code != "selected")


def test_a_localizer_within_the_series_is_left_out() -> None:
    stack = series("one")
    stack[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    selection = select(WANTED, stack)
    assert selection.grid is not None
    assert selection.grid.shape[0] == 29


Breakage = Callable[[list[Dataset]], object]


@pytest.mark.parametrize(
    ("breakage", "code"),
    [
        (lambda s: s.pop(7), "missing_slices"),
        (lambda s: s.append(s[7]), "duplicate_positions"),
        (lambda s: [s.pop() for _ in range(15)], "too_few_slices"),
    ],
)
def test_a_lone_series_that_does_not_fit_gives_the_studys_reason(
    breakage: Breakage, code: str
) -> None:
    stack = series("one")
    breakage(stack)
    scout = having(series("scout", slices=2), "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    selection = select(WANTED, [*stack, *scout])
    assert selection.series_instance_uid is None
    assert selection.reason.code == code


def test_a_broken_series_gives_way_to_the_next_best() -> None:
    broken = series("thin", slices=100, step_mm=1.5)
    broken.pop(50)
    selection = select(WANTED, [*broken, *series("thick")])
    assert selection.series_instance_uid == uid("thick")
    assert codes(selection)[uid("thin")] == "missing_slices"


def test_a_study_without_any_series_says_so() -> None:
    selection = select(WANTED, [])
    assert (selection.reason.code, selection.verdicts) == ("no_series", ())
    assert "empty" in selection.reason.sentence


def test_headers_without_geometry_get_a_verdict() -> None:
    report = Dataset()
    report.SOPInstanceUID, report.SeriesInstanceUID, report.Modality = "1.2.3", "1.2.4", "SR"
    bare = Dataset()
    bare.SeriesInstanceUID, bare.Modality = "1.2.5", "CT"
    bare.ImageType = ["ORIGINAL", "PRIMARY"]
    assert codes(select(WANTED, [report, bare])) == {"1.2.4": "modality", "1.2.5": "no_geometry"}
