"""SEG and SR: aligned with their source, the same on every run, and right in a validator's eyes."""

from __future__ import annotations

import io
import shutil
import subprocess
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from inference import objects
from inference.findings import Classification, Code, Reason, Result
from inference.models.ct_lung_densitometry.build import vector_instance
from inference.objects import Identity, device_uid, part10, write_objects
from inference.registry import Registry
from inference.run import infer, load
from inference.selection import Selection, select
from inference.words import in_words
from tests.unit.inference.dictionary import is_known
from tests.unit.inference.stacks import CHEST_SPACING_MM, chest_hu, ct_stack

MODEL = Registry().get("ct-lung-densitometry")
LOADED = load(MODEL, device="cpu")
IDENTITY = Identity("infer/study/1", datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC))
CANARY = "Canary^Yellow"


def chest() -> list[Dataset]:
    stack = ct_stack(chest_hu(), spacing_mm=CHEST_SPACING_MM, origin_mm=(-190, -160, 40))
    for data_set in stack:
        data_set.PatientName = CANARY
        data_set.StudyDate, data_set.StudyTime = "20260101", "120000"
    return stack


def run(study: list[Dataset]) -> tuple[Selection, Result]:
    selection = select(MODEL.manifest.selection, study)
    return selection, infer(LOADED, selection, study)


STUDY = chest()
SELECTION, RESULT = run(STUDY)


def written(
    study: list[Dataset] = STUDY,
    selection: Selection = SELECTION,
    result: Result = RESULT,
    *,
    identity: Identity = IDENTITY,
    predecessor: Dataset | None = None,
) -> list[Dataset]:
    """The objects as a receiver reads them, from their Part 10 bytes."""
    assert selection.grid is not None
    made = write_objects(MODEL, result, selection.grid, study, identity, predecessor=predecessor)
    return [pydicom.dcmread(io.BytesIO(part10(data_set))) for data_set in made]


SEG, SR = written()


def test_every_frame_of_the_seg_lies_on_its_source_slice() -> None:
    seg = highdicom.seg.Segmentation.from_dataset(SEG)
    uids = [frame.sop_instance_uid for frame in SELECTION.grid.frames] if SELECTION.grid else []
    masks = seg.get_pixels_by_source_instance(uids, ignore_spatial_locations=True)
    assert np.array_equal(masks[..., 0].astype(bool), RESULT.segmentations[0].mask)
    positions = {
        tuple(map(float, frame.PlanePositionSequence[0].ImagePositionPatient))
        for frame in SEG.PerFrameFunctionalGroupsSequence
    }
    assert positions == {tuple(map(float, d.ImagePositionPatient)) for d in STUDY}
    measures = SEG.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(x) for x in measures.PixelSpacing] == list(CHEST_SPACING_MM)


def test_the_seg_of_a_multi_frame_source_lies_on_its_frames() -> None:
    instance = vector_instance()
    instance.PerFrameFunctionalGroupsSequence = list(
        reversed(instance.PerFrameFunctionalGroupsSequence)
    )
    pixels = instance.pixel_array[::-1]
    instance.PixelData = np.ascontiguousarray(pixels).astype("<i2").tobytes()
    selection, result = run([instance])
    seg, _ = written([instance], selection, result)
    numbers = list(range(1, int(instance.NumberOfFrames) + 1))
    masks = highdicom.seg.Segmentation.from_dataset(seg).get_pixels_by_source_frame(
        instance.SOPInstanceUID, numbers, ignore_spatial_locations=True
    )
    assert np.array_equal(masks[::-1, ..., 0].astype(bool), result.segmentations[0].mask)


def test_the_same_job_writes_the_same_bytes() -> None:
    assert SELECTION.grid is not None
    first, second = (
        [part10(d) for d in write_objects(MODEL, RESULT, SELECTION.grid, study, IDENTITY)]
        for study in (STUDY, chest()[::-1])
    )
    assert first == second


def test_another_job_writes_other_instances() -> None:
    seg, report = written(identity=replace(IDENTITY, job_key="infer/study/2"))
    assert seg.SOPInstanceUID != SEG.SOPInstanceUID
    assert report.SeriesInstanceUID != SR.SeriesInstanceUID


@pytest.mark.parametrize("data_set", [SEG, SR], ids=["SEG", "SR"])
def test_objects_belong_to_the_patient_and_study_and_say_what_made_them(data_set: Dataset) -> None:
    assert data_set.PatientName == CANARY
    assert data_set.PatientID == STUDY[0].PatientID
    assert data_set.StudyInstanceUID == STUDY[0].StudyInstanceUID
    assert data_set.SeriesInstanceUID != STUDY[0].SeriesInstanceUID
    assert data_set.ContentQualification == "RESEARCH"
    assert (data_set.ContentDate, data_set.ContentTime) == ("20260203", "040506.000000")
    ours = [e for e in data_set.ContributingEquipmentSequence if "DeviceUID" in e]
    assert [e.DeviceUID for e in ours] == [device_uid(MODEL)]
    assert ours[0].ManufacturerModelName == MODEL.id


def test_the_report_is_complete_unverified_and_preliminary() -> None:
    flags = (SR.CompletionFlag, SR.VerificationFlag, SR.PreliminaryFlag)
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert SR.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_the_report_gives_every_measurement_with_its_codes() -> None:
    document = highdicom.sr.Comprehensive3DSR.from_dataset(SR)
    report = cast(highdicom.sr.MeasurementReport, document.content)
    (group,) = report.get_volumetric_roi_measurement_groups()
    found = {m.name.value: (m.value, m.unit.value) for m in group.get_measurements()}
    truth = {m.concept.value: (m.value, m.unit.value) for m in RESULT.measurements}
    assert found == truth
    assert group.tracking_uid == IDENTITY.uid("tracking", "lungs")
    segment = group.referenced_segment
    assert segment is not None
    assert segment.referenced_sop_instance_uid == SEG.SOPInstanceUID
    assert str(SEG.SegmentSequence[0].TrackingUID) == group.tracking_uid


def test_a_generation_that_supersedes_names_its_predecessor() -> None:
    later = replace(IDENTITY, job_key="infer/study/2")
    _, report = written(identity=later, predecessor=SR)
    (study,) = report.PredecessorDocumentsSequence
    referenced = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert referenced.ReferencedSOPInstanceUID == SR.SOPInstanceUID


def test_the_report_can_be_read_in_words() -> None:
    warned = replace(RESULT, warnings=(Reason("lungs_cut", "the lungs are cut off"),))
    _, report = written(result=warned)
    words = in_words(report)
    volume = next(m.value for m in RESULT.measurements if m.id == "lung_volume")
    assert words[0] == "Imaging Measurement Report: PRELIMINARY, UNVERIFIED, RESEARCH"
    assert f"Lung: Volume {volume:g} ml" in words
    assert any("Not verified by a physician" in line for line in words)
    assert any("5.00 mm apart" in line for line in words)
    assert "Warning: the lungs are cut off." in words
    assert "CAD Processing and Findings Summary: All algorithms succeeded; with findings" in words


def test_a_negative_finding_is_stated() -> None:
    pneumothorax = Code("36118008", "SCT", "Pneumothorax")
    negative = Classification("ptx", pneumothorax, present=False, probability=0.04)
    quiet = replace(RESULT, segmentations=(), measurements=(), classifications=(negative,))
    (report,) = written(result=quiet)
    words = in_words(report)
    assert "Pneumothorax: Probability 0.04" in words
    assert "Pneumothorax: Absent" in words
    assert any("All algorithms succeeded; without findings" in line for line in words)


@pytest.mark.parametrize(
    "keyword", ["PatientSex", "StudyID", "AccessionNumber", "ReferringPhysicianName", "PatientID"]
)
@pytest.mark.parametrize("value", [None, "", "W"])
def test_headers_as_scanners_send_them_do_not_stop_a_result(
    keyword: str, value: str | None
) -> None:
    study = chest()
    for data_set in study:
        setattr(data_set, keyword, value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, report = written(study)
    assert str(report[keyword].value or "") == (value or "")
    assert not [w for w in caught if "Canary" in str(w.message)]


def test_a_name_in_another_character_set_arrives() -> None:
    study = chest()
    for data_set in study:
        data_set.SpecificCharacterSet = "GB18030"
        data_set.PatientName = "Wang^XiaoDong=王^小东"
    buffers = [io.BytesIO() for _ in study]
    for data_set, buffer in zip(study, buffers, strict=True):
        data_set.save_as(buffer, enforce_file_format=True)
        buffer.seek(0)
    seg, report = written([pydicom.dcmread(buffer) for buffer in buffers])
    assert str(seg.PatientName) == str(report.PatientName) == "Wang^XiaoDong=王^小东"
    assert report.SpecificCharacterSet == "ISO_IR 192"


def test_times_are_in_the_zone_of_the_study() -> None:
    study = chest()
    for data_set in study:
        data_set.TimezoneOffsetFromUTC = "-0530"
    seg, _ = written(study)
    assert (seg.ContentDate, seg.ContentTime) == ("20260202", "223506.000000")
    assert seg.TimezoneOffsetFromUTC == "-0530"


def test_single_frames_that_count_their_frames_are_single_frames() -> None:
    study = chest()
    for data_set in study:
        data_set.NumberOfFrames = 1
    seg, _ = written(study)
    assert seg.PixelData == SEG.PixelData


def test_every_code_that_is_written_is_the_dictionarys() -> None:
    codes = [value for value in vars(objects).values() if isinstance(value, Code)]
    codes += objects.MODALITIES.values()
    assert len(codes) > 15
    unknown = [code for code in codes if not is_known(code)]
    # pydicom's dictionary calls it "Source (attribute)"; PS3.16 TID 1601 has the plain word.
    assert unknown == [Code("260753009", "SCT", "Source")]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
@pytest.mark.parametrize("data_set", [SEG, SR], ids=["SEG", "SR"])
def test_the_validator_finds_no_error(data_set: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "object.dcm"
    path.write_bytes(part10(data_set))
    program = shutil.which("dciodvfy")
    assert program is not None
    done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "Error" in line] == []
    assert done.returncode == 0
