"""The ordinary studies are sound DICOM and say only what is invented."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

import sample_dicom
from sample_dicom import phantoms
from sample_dicom.encoders import JPEG_LS_ERROR_MAX
from sample_dicom.instances import stored_from
from sample_dicom.studies import (
    COMPRESSED,
    CR_CHEST,
    CT_ENHANCED,
    MR_BRAIN,
    STUDIES,
    US_MULTIFRAME,
    Study,
    uid_of,
)

FOLDER = Path(sample_dicom.__file__).parent
FILES = sorted(path for study in STUDIES for path in (FOLDER / study.folder).iterdir())

by_study = partial(pytest.mark.parametrize, "study", ids=lambda study: study.folder)
by_file = partial(pytest.mark.parametrize, "path", ids=lambda path: str(path.relative_to(FOLDER)))


def test_a_uid_depends_on_its_name_alone() -> None:
    assert uid_of("ct_chest") == "2.25.154787919897859130628643813743799898745"
    assert uid_of("ct_chest") != uid_of("ct_chest/series")


def test_no_two_instances_share_a_uid() -> None:
    uids = [dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in FILES]
    assert len(set(uids)) == len(uids) >= 64 + 1 + 20 + 1 + 1
    assert all(UID(uid).is_valid for uid in uids)


@by_study(argvalues=STUDIES)
def test_a_folder_holds_the_study_it_should(study: Study) -> None:
    for path in (FOLDER / study.folder).iterdir():
        dataset = dcmread(path, stop_before_pixels=True)
        assert study.study_instance_uid == dataset.StudyInstanceUID
        assert study.patient_id == dataset.PatientID
        assert study.patient_name == dataset.PatientName


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy is missing: install dicom3tools")
@by_file(argvalues=FILES)
def test_dciodvfy_reports_no_error(path: Path) -> None:
    if dcmread(path).file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        pytest.skip("dciodvfy does not inflate")
    verdict = subprocess.run(
        ["dciodvfy", str(path)],  # noqa: S607 - wherever the machine has it
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Error" not in verdict.stderr


LOSSLESS = ("rle", "jpeg_lossless", "jpeg_ls", "jpeg_2000", "deflated", "big_endian")


@pytest.mark.parametrize("name", [*LOSSLESS, "jpeg_ls_near"])
def test_a_compressed_slice_decodes_to_what_was_encoded(name: str) -> None:
    image = dcmread(FOLDER / COMPRESSED[name].folder / "1.dcm").pixel_array
    original = stored_from(phantoms.abdomen(phantoms.ABDOMEN_SLICES // 2))
    difference_max = abs(image.astype(np.int64) - original).max()
    assert difference_max <= (0 if name in LOSSLESS else JPEG_LS_ERROR_MAX)


@pytest.mark.parametrize("name", ["jpeg_baseline", "jpeg_ls_near", "jpeg_2000_lossy"])
def test_a_lossy_instance_admits_its_loss(name: str) -> None:
    dataset = dcmread(FOLDER / COMPRESSED[name].folder / "1.dcm")
    assert dataset.LossyImageCompression == "01"
    assert dataset.ImageType[0] == "DERIVED"
    assert float(dataset.LossyImageCompressionRatio) > 2


def test_every_compressed_study_has_a_syntax_of_its_own_and_bears_its_name() -> None:
    names = [
        dcmread(FOLDER / study.folder / "1.dcm").file_meta.TransferSyntaxUID.name
        for study in COMPRESSED.values()
    ]
    assert len(set(names)) == len(COMPRESSED)


def test_the_radiograph_has_a_name_burnt_into_its_pixels() -> None:
    dataset = dcmread(FOLDER / CR_CHEST.folder / "1.dcm")
    assert (dataset.PhotometricInterpretation, dataset.BurnedInAnnotation) == ("MONOCHROME1", "YES")
    mask = phantoms.lettering("PHANTOM^RADIOGRAPH", scale=2)
    corner = dataset.pixel_array[6 : 6 + mask.shape[0], 6 : 6 + mask.shape[1]]
    assert mask.sum() > 1000
    assert (corner[mask] == 0).all()
    assert (corner[~mask] > 0).all()


def test_the_brain_is_oblique_and_evenly_spaced() -> None:
    datasets = [dcmread(path) for path in sorted((FOLDER / MR_BRAIN.folder).iterdir())]
    row, column = np.split(np.array(datasets[0].ImageOrientationPatient, dtype=np.float64), 2)
    normal = np.cross(row, column)
    assert normal == pytest.approx(phantoms.BRAIN_NORMAL)
    assert (abs(normal) < 0.99).all()
    positions = np.array([d.ImagePositionPatient for d in datasets], dtype=np.float64)
    steps = np.diff(positions, axis=0)
    assert np.allclose(steps, normal * phantoms.BRAIN_SLICE_SPACING_MM, atol=1e-3)


def test_all_burnt_in_text_of_the_ultrasound_lies_outside_its_region() -> None:
    dataset = dcmread(FOLDER / US_MULTIFRAME.folder / "1.dcm")
    frames = dataset.pixel_array
    assert frames.shape == (phantoms.ECHO_FRAMES, phantoms.ECHO_ROWS, phantoms.ECHO_COLUMNS, 3)
    (region,) = dataset.SequenceOfUltrasoundRegions
    banner = frames[:, : region.RegionLocationMinY0]
    text_rows = np.flatnonzero(banner.any(axis=(0, 2, 3)))
    assert len(text_rows) > 5
    assert text_rows.max() < region.RegionLocationMinY0 - 1


def test_each_frame_of_the_enhanced_ct_has_a_place_and_an_index() -> None:
    dataset = dcmread(FOLDER / CT_ENHANCED.folder / "1.dcm")
    groups = dataset.PerFrameFunctionalGroupsSequence
    indices = [list(g.FrameContentSequence[0].DimensionIndexValues) for g in groups]
    heights_mm = [float(g.PlanePositionSequence[0].ImagePositionPatient[2]) for g in groups]
    assert indices == [[1, frame] for frame in range(1, phantoms.ABDOMEN_SLICES + 1)]
    assert set(np.diff(heights_mm)) == {phantoms.ABDOMEN_SLICE_SPACING_MM}
    assert len(dataset.pixel_array) == len(groups) == dataset.NumberOfFrames
