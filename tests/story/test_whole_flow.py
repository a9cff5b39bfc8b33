"""The whole flow, as a hospital would see it: studies in by C-STORE, reports out by DICOMweb.

It runs on the embedded parts and again on a real PostgreSQL and a real S3 server. What is read
back is judged by other people's code: dicomweb-client, pydicom, highdicom and dciodvfy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import highdicom as hd
import numpy as np
import pytest
from dicomweb_client.api import DICOMwebClient
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

import sample_dicom
from sample_dicom.chest import COLUMNS, PIXEL_SPACING_MM, ROWS, lung_mask
from sample_dicom.shapes import axis_mm
from sample_dicom.studies import CT_CHEST, MR_BRAIN, Study
from sample_dicom.truth import CHEST_CT_TRUTH
from tests import make
from tests.story.running import StartedNode, by_tag, started_node

pytestmark = pytest.mark.timeout(180)

SAMPLES: Final = Path(sample_dicom.__file__).parent
SR_CLASS: Final = "1.2.840.10008.5.1.4.1.1.88.34"
SEG_CLASS: Final = "1.2.840.10008.5.1.4.1.1.66.4"
DCIODVFY: Final = shutil.which("dciodvfy")
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
DICE_MIN: Final = 0.95  # a mask that lay one slice off would overlap far less near the ends
SLICE_PIXELS_MIN: Final = 200  # on smaller cross-sections a rim of one pixel is most of the mask


@dataclass(frozen=True)
class Told:
    """A node that has seen two studies and told all it makes of them."""

    node: StartedNode
    client: DICOMwebClient
    chest: dict[str, Any]  # the run on the chest CT

    def result(self, sop_class_uid: str) -> Dataset:
        """The one instance of a class in the chest study, by QIDO-RS and WADO-RS."""
        (row,) = self.client.search_for_instances(
            CT_CHEST.study_instance_uid, search_filters={"SOPClassUID": sop_class_uid}
        )
        place = [row[tag]["Value"][0] for tag in (STUDY, SERIES, INSTANCE)]
        found = self.client.retrieve_instance(*place)
        assert isinstance(found, Dataset)
        return found


@pytest.fixture(scope="module", params=["embedded", "s3 and postgresql"])
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Told]:
    settings = {}
    if request.param != "embedded":
        s3, postgresql = (request.getfixturevalue(f"{n}_server") for n in ("s3", "postgresql"))
        settings = {"store": s3.new_bucket(), "index": postgresql.new_database(migrated=False)}
    with started_node(tmp_path_factory.mktemp("node"), **settings) as node:
        for study in (CT_CHEST, MR_BRAIN):
            sent = node.send([SAMPLES / study.folder])
            assert [outcome.status for outcome in sent] == [0] * len(sent)
        (chest,) = node.wait_for_results(CT_CHEST.study_instance_uid)
        node.wait_for_results(MR_BRAIN.study_instance_uid)
        yield Told(node, DICOMwebClient(node.dicom_web()), chest)
        node.stop()
        checked = node.command("fsck", "--json")
        assert json.loads(checked.stdout)["clean"], checked.stdout


def _files(study: Study) -> list[Path]:
    return sorted((SAMPLES / study.folder).glob("*.dcm"))


def test_a_report_and_a_mask_appear_beside_the_slices(told: Told) -> None:
    rows = told.client.search_for_series(CT_CHEST.study_instance_uid)
    assert sorted(by_tag(rows, "00080060")) == ["CT", "SEG", "SR"]
    (study,) = told.client.search_for_studies(
        search_filters={"StudyInstanceUID": CT_CHEST.study_instance_uid}
    )
    assert study["00201208"]["Value"] == [len(_files(CT_CHEST)) + 2]


def test_the_report_tells_the_truth_of_the_phantom(told: Told) -> None:
    said = _numbers(told.result(SR_CLASS))
    truth = CHEST_CT_TRUTH
    assert said["Volume"] == pytest.approx(truth.lung_volume_ml, rel=0.02)
    assert said["Low attenuation area at or below -950 HU"] == pytest.approx(
        truth.laa950_percent, abs=1
    )
    assert said["15th percentile of lung density"] == pytest.approx(truth.perc15_hu, abs=5)


def _numbers(report: Dataset) -> dict[str, float]:
    """Every NUM of an SR's tree by the meaning of its name."""
    found: dict[str, float] = {}
    waiting = list(report.ContentSequence)
    while waiting:
        item = waiting.pop()
        waiting += item.get("ContentSequence", [])
        if item.ValueType == "NUM":
            name = item.ConceptNameCodeSequence[0].CodeMeaning
            found[name] = float(item.MeasuredValueSequence[0].NumericValue)
    return found


def test_the_report_is_marked_as_nobodys_finding_yet(told: Told) -> None:
    report = told.result(SR_CLASS)
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert report.PatientID == CT_CHEST.patient_id
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    named = {
        i.ReferencedSOPInstanceUID for series in evidence for i in series.ReferencedSOPSequence
    }
    assert {dcmread(path).SOPInstanceUID for path in _files(CT_CHEST)} <= named


def test_the_mask_lies_over_the_lungs_of_each_slice(told: Told) -> None:
    mask = hd.seg.Segmentation.from_dataset(told.result(SEG_CLASS))
    compared = 0
    for path in _files(CT_CHEST):
        source = dcmread(path)
        lungs = _lungs_of(source)
        if lungs.sum() < SLICE_PIXELS_MIN:
            continue
        found = mask.get_pixels_by_source_instance(
            [source.SOPInstanceUID], combine_segments=True, ignore_spatial_locations=False
        )[0].astype(bool)
        dice = 2 * (found & lungs).sum() / (found.sum() + lungs.sum())
        assert dice > DICE_MIN, (path.name, dice)
        compared += 1
    assert compared > 40


def _lungs_of(source: Dataset) -> NDArray[np.bool_]:
    """Where the phantom's lungs are in a slice, shape (rows, columns), from its formula."""
    x, y = axis_mm(COLUMNS, PIXEL_SPACING_MM), axis_mm(ROWS, PIXEL_SPACING_MM)
    z = np.float64(source.ImagePositionPatient[2])
    return lung_mask(x[np.newaxis, :], y[:, np.newaxis], np.full((1, 1), z))


def test_the_mask_has_the_geometry_of_its_source(told: Told) -> None:
    mask = hd.seg.Segmentation.from_dataset(told.result(SEG_CLASS))
    sources = {source.SOPInstanceUID: source for source in map(dcmread, _files(CT_CHEST))}
    some = next(iter(sources.values()))
    assert (mask.Rows, mask.Columns) == (some.Rows, some.Columns)
    assert mask.FrameOfReferenceUID == some.FrameOfReferenceUID
    for frame in mask.PerFrameFunctionalGroupsSequence:
        derived = frame.DerivationImageSequence[0].SourceImageSequence[0]
        source = sources[derived.ReferencedSOPInstanceUID]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == pytest.approx(
            [float(millimetre) for millimetre in source.ImagePositionPatient]
        )


@pytest.mark.skipif(
    DCIODVFY is None, reason="dciodvfy is not installed: apt-get install dicom3tools"
)
@pytest.mark.parametrize("sop_class_uid", [SR_CLASS, SEG_CLASS])
def test_dciodvfy_finds_no_error(told: Told, sop_class_uid: str, tmp_path: Path) -> None:
    assert DCIODVFY is not None
    told.result(sop_class_uid).save_as(tmp_path / "made.dcm")
    command = [DCIODVFY, str(tmp_path / "made.dcm")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in said.stderr.splitlines() if line.startswith("Error")] == []


def test_a_study_that_fits_no_model_is_skipped_with_the_reason(told: Told) -> None:
    (run,) = told.node.visible_runs(MR_BRAIN.study_instance_uid)
    assert run["state"] == "skipped"
    assert "MR" in run["reason"]["sentence"]
    assert run["findings"] == run["objects"] == []


def test_every_slice_comes_back_as_it_was_sent(told: Told) -> None:
    for path in _files(MR_BRAIN)[:3] + _files(CT_CHEST)[:3]:
        sent = dcmread(path)
        assert told.node.data_set(_url(sent)) == make.data_set_bytes(sent)


def _url(of: Dataset) -> str:
    return (
        f"/dicom-web/studies/{of.StudyInstanceUID}/series/{of.SeriesInstanceUID}"
        f"/instances/{of.SOPInstanceUID}"
    )


def test_the_research_copy_is_reachable_under_pseudonyms_only(told: Told) -> None:
    research = DICOMwebClient(told.node.dicom_web("demo"))
    (study,) = research.search_for_studies()  # the brain may show a face, so it was withheld
    copies = research.retrieve_study(study[STUDY]["Value"][0])
    originals = {source.SOPInstanceUID: source for source in map(dcmread, _files(CT_CHEST))}
    assert len(copies) == len(originals)
    some = next(iter(originals.values()))
    for copy in copies:
        assert copy.PatientID != CT_CHEST.patient_id
        assert "Phantom" not in str(copy.PatientName)
        assert copy.PatientIdentityRemoved == "YES"
        assert copy.SOPInstanceUID not in originals
        assert copy.StudyInstanceUID != some.StudyInstanceUID
        assert copy.FrameOfReferenceUID != some.FrameOfReferenceUID
    pixels = {bytes(copy.PixelData) for copy in copies}
    assert pixels == {bytes(source.PixelData) for source in originals.values()}


def test_the_originals_uids_lead_nowhere_in_research(told: Told) -> None:
    study = f"/dicom-web/studies/{CT_CHEST.study_instance_uid}"
    instance = _url(dcmread(_files(CT_CHEST)[0]))
    assert told.node.client.get("/research/demo" + instance).status_code == 404
    assert told.node.client.get(study + "/metadata").status_code == 200
    assert told.node.client.get("/research/demo" + study).status_code == 404
    assert told.node.client.get("/research/demo" + study + "/metadata").status_code == 404
    assert told.node.json(f"/research/demo{study}/instances") == []


def test_a_late_slice_makes_a_report_that_supersedes_the_first(told: Told, tmp_path: Path) -> None:
    upwards = sorted(_files(CT_CHEST), key=lambda path: dcmread(path).ImagePositionPatient[2])
    *early, late = (_moved(path, tmp_path) for path in upwards)  # no slice between is missing
    told.node.send(early)
    study = str(dcmread(late).StudyInstanceUID)
    (first,) = told.node.wait_for_results(study)
    assert (first["generation"], first["state"]) == (1, "succeeded"), first["reason"]

    told.node.send([late])
    (second,) = told.node.wait_for_results(study, generation=2)
    assert (second["generation"], second["state"]) == (2, "succeeded")
    assert [run["state"] for run in told.node.runs(study)] == ["succeeded", "superseded"]

    reports = [_of_kind(run, "SR") for run in (second, first)]
    newest = dcmread(BytesIO(_part10(told.node, reports[0]["url"])))
    (predecessor,) = newest.PredecessorDocumentsSequence
    (series,) = predecessor.ReferencedSeriesSequence
    assert (
        series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == (reports[1]["sop_instance_uid"])
    )
    evidence = newest.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    named = {i.ReferencedSOPInstanceUID for one in evidence for i in one.ReferencedSOPSequence}
    assert dcmread(late).SOPInstanceUID in named

    _resend_and_expect_nothing(told.node, study, [*early, late])


def _resend_and_expect_nothing(node: StartedNode, study: str, paths: list[Path]) -> None:
    """The same instances again are success, and neither a generation nor a job comes of them."""
    jobs, runs = node.jobs(study), node.runs(study)
    instances = node.json(f"/dicom-web/studies/{study}/instances")
    assert {outcome.status for outcome in node.send(paths)} == {0}
    assert node.json("/api/worklist-status")["studies"][study]["state"] == "complete"
    assert (node.jobs(study), node.runs(study)) == (jobs, runs)
    assert node.json(f"/dicom-web/studies/{study}/instances") == instances


def _moved(path: Path, folder: Path) -> Path:
    """A copy of a sample whose UIDs are those of another study, in a file of its own."""
    copy = dcmread(path)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(copy, keyword, make.uid("late", copy[keyword].value))
    target = folder / path.name
    target.write_bytes(make.part10_bytes(copy))
    return target


def _of_kind(run: dict[str, Any], kind: str) -> dict[str, str]:
    (found,) = (one for one in run["objects"] if one["kind"] == kind)
    return dict(found)


def _part10(node: StartedNode, url: str) -> bytes:
    return node.client.get(url, headers={"Accept": "application/dicom"}).content
