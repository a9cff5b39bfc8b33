"""Synthetic CT stacks for the tests of inference: a few lines make any geometry, whole or broken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from pacs.dicom.uids import derived_uid

Numbers = Sequence[float] | NDArray[np.float64]

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
INTERCEPT = -1024


def ct_slice(
    hu: NDArray[np.int16],
    position_mm: Numbers,
    *,
    orientation: Numbers = AXIAL,
    spacing_mm: Numbers = (2.0, 2.0),
    series: str = "series",
    name: str = "",
) -> Dataset:
    """One single-frame CT instance with these Hounsfield units at this position."""
    data_set = Dataset()
    data_set.SOPClassUID = CTImageStorage
    data_set.SOPInstanceUID = derived_uid("test", series, name or str(tuple(position_mm)))
    data_set.StudyInstanceUID = derived_uid("test", "study")
    data_set.SeriesInstanceUID = derived_uid("test", series)
    data_set.FrameOfReferenceUID = derived_uid("test", "frame of reference")
    data_set.Modality = "CT"
    data_set.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data_set.PatientID, data_set.PatientName = "T-1", "Test^Stack"
    data_set.Rows, data_set.Columns = hu.shape
    data_set.ImagePositionPatient = [round(float(x), 6) for x in position_mm]
    data_set.ImageOrientationPatient = [round(float(x), 9) for x in orientation]
    data_set.PixelSpacing = list(spacing_mm)
    data_set.RescaleSlope, data_set.RescaleIntercept = 1, INTERCEPT
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = 16, 12, 11
    data_set.PixelRepresentation = 0
    data_set.PixelData = (hu.astype(np.int32) - INTERCEPT).astype("<u2").tobytes()
    data_set["PixelData"].VR = "OW"
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data_set


def ct_stack(
    hu: NDArray[np.int16],
    *,
    step_mm: Numbers = (0.0, 0.0, 5.0),
    origin_mm: Numbers = (0.0, 0.0, 0.0),
    orientation: Numbers = AXIAL,
    spacing_mm: Numbers = (2.0, 2.0),
    series: str = "series",
) -> list[Dataset]:
    """A series of slices, each one step from the one before."""
    return [
        ct_slice(
            plane,
            np.asarray(origin_mm) + index * np.asarray(step_mm),
            orientation=orientation,
            spacing_mm=spacing_mm,
            series=series,
        )
        for index, plane in enumerate(hu)
    ]


def chest_hu() -> NDArray[np.int16]:
    """A coarse chest, (slice, row, column) of 5 × 3 × 3 mm: body, two lungs, trachea, table."""
    z, y, x = np.meshgrid(
        (np.arange(50) - 24.5) * 5.0,
        (np.arange(112) - 55.5) * 3.0,
        (np.arange(128) - 63.5) * 3.0,
        indexing="ij",
    )
    hu = np.full(z.shape, -1000, np.int16)
    hu[(np.abs(y - 140) < 5) & (np.abs(x) < 180)] = 100
    hu[(x / 165) ** 2 + (y / 115) ** 2 <= 1] = 40
    for side in (-1, 1):
        hu[(z / 100) ** 2 + (y / 72) ** 2 + ((x - side * 78) / 50) ** 2 <= 1] = -860
    hu[(np.hypot(x, y - 5) <= 9) & (z > 20)] = -1000
    return hu


CHEST_SPACING_MM = (3.0, 3.0)
