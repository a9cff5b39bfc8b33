"""The bench makes its table and file of what it is given, and its parts speak to each other.

No test looks at how long anything took: figures belong to the machine.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from bench import ceiling, figures
from bench.figures import Figure
from bench.inference import enlarged, sample_slices
from bench.load import ct_slices, send
from bench.query import QUESTIONS, Query
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, scan
from pacs.errors import Broken

FIGURES = (
    Figure("ingest", "1 association", 312.4, "instances/s", 484.0),
    Figure("ingest", "8 associations", 1234.5, "instances/s"),
    Figure("query", "newest 100, p50", 6.04, "ms", 0.302),
)


def test_the_table_has_a_heading_for_each_topic_and_a_line_for_each_figure() -> None:
    assert figures.table(FIGURES).splitlines() == [
        "ingest               figure  unit        yardstick   ratio",
        "  1 association         312  instances/s       484   0.645",
        "  8 associations      1,234  instances/s",
        "query                figure  unit        yardstick   ratio",
        "  newest 100, p50      6.04  ms              0.302    20.0",
    ]


def test_the_report_holds_every_figure_with_its_ratio() -> None:
    report = json.loads(json.dumps(figures.report(FIGURES, quick=True, sync_ms=0.5)))
    assert report["quick"] is True
    assert [one["ratio"] for one in report["figures"]] == [0.645, None, 20.0]
    assert report["figures"][2] == {
        "topic": "query",
        "name": "newest 100, p50",
        "value": 6.04,
        "unit": "ms",
        "yardstick": 0.302,
        "ratio": 20.0,
    }


def test_the_report_tells_what_kind_of_machine_and_not_whose() -> None:
    report = figures.report((), quick=False, sync_ms=0.5)
    assert set(report) == {"at", "commit", "quick", "machine", "figures"}
    assert set(report["machine"]) == {
        *("cores", "memory_gib", "architecture", "kernel", "python", "sync_ms")
    }


def test_a_file_is_named_by_day_and_commit() -> None:
    name = figures.file_name({"at": "2026-01-02T03:04:05+00:00", "commit": "0123abc"})
    assert name == "2026-01-02-0123abc.json"


def test_a_percentile_is_one_of_the_values() -> None:
    assert figures.percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert figures.percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert figures.percentile(range(1, 21), 0.95) == 19


def test_slices_are_new_instances_of_one_series() -> None:
    first, second = (scan(one.data_set, EXPLICIT_VR_LITTLE_ENDIAN) for one in ct_slices(2))
    assert first.text("SeriesInstanceUID") == second.text("SeriesInstanceUID")
    assert first.text("SOPInstanceUID") != second.text("SOPInstanceUID")
    assert first.value(0x7FE00010) != second.value(0x7FE00010)
    assert len(first.data) > 512 * 512 * 2


@pytest.mark.parametrize("quickack", [True, False])
def test_the_ceiling_keeps_what_the_senders_send(tmp_path: Path, quickack: bool) -> None:
    with ceiling.receiving(tmp_path) as address:
        sent = send(address, "CEILING", 4, associations=2, quickack=quickack)
    assert len(sent.took_s) == 4
    kept = [scan(file.read_bytes(), EXPLICIT_VR_LITTLE_ENDIAN) for file in tmp_path.iterdir()]
    assert len({one.text("SOPInstanceUID") for one in kept}) == 4
    assert {len(one.value(0x7FE00010) or b"") for one in kept} == {512 * 512 * 2}


def test_a_sender_without_a_receiver_is_an_error_and_no_figure(tmp_path: Path) -> None:
    with ceiling.receiving(tmp_path) as address:
        pass
    with pytest.raises(Broken):
        send(address, "CEILING", 1, associations=1, quickack=True)


def test_the_large_chest_is_the_small_one_on_finer_pixels() -> None:
    small = list(islice(sample_slices(), 1))
    (large,) = enlarged(small, 512)
    assert large.pixel_array.shape == (512, 512)
    assert small[0].pixel_array.shape == (192, 192)
    assert large.pixel_array[::8, ::8].tolist() == small[0].pixel_array[::3, ::3].tolist()
    assert large.PixelSpacing[0] * 512 == pytest.approx(small[0].PixelSpacing[0] * 192)


def test_every_question_is_answered_by_a_node(tmp_path: Path) -> None:
    told: list[str] = []
    found = list(Query(studies=50, requests=2).measure(tmp_path, told.append))
    assert len(found) == 2 * (len(QUESTIONS) + 1)
    assert {figure.name for figure in found} >= {"PatientID, p50", "offset 25, p95"}
    assert all(figure.value > 0 and figure.yardstick > 0 for figure in found)
    assert told
