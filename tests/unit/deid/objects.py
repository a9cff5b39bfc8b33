"""Synthetic objects for the tests of `pacs.deid`: nobody's images, written by hand."""

from __future__ import annotations

from io import BytesIO
from typing import Final

from pydicom import dcmread, dcmwrite
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

KEY: Final = bytes(range(32))
CT_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.2"

TRANSFER_SYNTAXES: Final = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)


def chest_ct(
    sop_instance_uid: str = "1.2.826.0.1.11111.4.1", patient_id: str = "MRN0077"
) -> Dataset:
    """A complete CT Image of four by four pixels that the Basic Profile may release."""
    ct = Dataset()
    ct.SpecificCharacterSet = "ISO_IR 100"
    ct.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ct.SOPClassUID = CT_IMAGE
    ct.SOPInstanceUID = sop_instance_uid
    ct.StudyDate = ct.SeriesDate = ct.AcquisitionDate = ct.ContentDate = "20240229"
    ct.StudyTime = ct.SeriesTime = ct.AcquisitionTime = ct.ContentTime = "101500"
    ct.AccessionNumber = "ACC4711"
    ct.Modality = "CT"
    ct.Manufacturer = "Siemens"
    ct.ManufacturerModelName = "Sensation 10"
    ct.InstitutionName = "Saint Nowhere Hospital"
    ct.ReferringPhysicianName = "Quartermain^Allan"
    ct.StudyDescription = "CT CHEST"
    ct.PatientName = "Vandermolen^Aleida"
    ct.PatientID = patient_id
    ct.PatientBirthDate = "19510203"
    ct.PatientSex = "F"
    ct.BodyPartExamined = "CHEST"
    ct.SliceThickness = "5"
    ct.KVP = "120"
    ct.SoftwareVersions = "VA10A"
    ct.ConvolutionKernel = "B40f"
    ct.PatientPosition = "HFS"
    ct.StudyInstanceUID = "1.2.826.0.1.11111.2"
    ct.SeriesInstanceUID = "1.2.826.0.1.11111.3"
    ct.StudyID = "S-1"
    ct.SeriesNumber = 1
    ct.AcquisitionNumber = 1
    ct.InstanceNumber = 1
    ct.ImagePositionPatient = [0, 0, 0]
    ct.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ct.FrameOfReferenceUID = "1.2.826.0.1.11111.9"
    ct.PositionReferenceIndicator = ""
    ct.SamplesPerPixel = 1
    ct.PhotometricInterpretation = "MONOCHROME2"
    ct.Rows = ct.Columns = 4
    ct.PixelSpacing = [1, 1]
    ct.BitsAllocated = 16
    ct.BitsStored = 12
    ct.HighBit = 11
    ct.PixelRepresentation = 0
    ct.RescaleIntercept = "-1024"
    ct.RescaleSlope = "1"
    ct.add_new("PixelData", "OW", bytes(range(32)))
    return ct


def set_bytes(data_set: Dataset, keyword: str, value: bytes) -> None:
    """Give an attribute these bytes, as a file in Explicit VR Little Endian would."""
    tag = Tag(keyword)
    vr = dictionary_VR(tag)
    data_set[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def part10(data_set: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    """The bytes of a Part 10 file with this data set; the data set is left as it is."""
    copy = Dataset(data_set)
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    output = BytesIO()
    dcmwrite(output, copy, enforce_file_format=True)
    return output.getvalue()


def read_back(data_set: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> Dataset:
    """The data set as an archive meets it: undecoded, from a file."""
    return dcmread(BytesIO(part10(data_set, transfer_syntax_uid)))
