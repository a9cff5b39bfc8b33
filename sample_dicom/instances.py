"""The ordinary studies as DICOM: each function here yields the files of one study.

A data set is put together from the modules that its instances share (patient and study, series,
equipment) and the attributes of its own IOD (PS3.3). Nothing depends on the clock, on chance or
on a library's version: dates, UIDs, seeds and the implementation's name are fixed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from sample_dicom import chest, phantoms
from sample_dicom.shapes import Floats, axis_mm
from sample_dicom.studies import (
    CR_CHEST,
    CT_CHEST,
    CT_ENHANCED,
    MR_BRAIN,
    US_MULTIFRAME,
    Study,
    uid_of,
)

File = tuple[str, bytes]
"""A path relative to `sample_dicom`, and what the file holds."""

STUDY_DATE, STUDY_TIME, BIRTH_DATE = "20250102", "101500", "19500102"
RESCALE_INTERCEPT_HU = -1024

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2.1"
DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
ULTRASOUND_MULTI_FRAME_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.3.1"

_SHUFFLE_SEED = 7


def data_set(**attributes: object) -> Dataset:
    """A data set of these attributes, named by keyword."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def part10(dataset: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The Part 10 file of a data set, with a file meta group that no library signs (PS3.10 7.1).

    The data set is written in explicit VR, in a syntax nobody has heard of too.
    """
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    dataset.file_meta.ImplementationClassUID = UID(uid_of("implementation"))
    dataset.file_meta.ImplementationVersionName = "ISOCENTER_SAMPLE"
    file = BytesIO()
    dcmwrite(
        file,
        dataset,
        implicit_vr=False,
        little_endian=transfer_syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    return file.getvalue()


def patient_and_study(study: Study) -> Dataset:
    """The modules above the series: Patient and General Study."""
    return data_set(
        PatientName=study.patient_name,
        PatientID=study.patient_id,
        PatientBirthDate=BIRTH_DATE,
        PatientSex="O",
        StudyInstanceUID=study.study_instance_uid,
        StudyDate=STUDY_DATE,
        StudyTime=STUDY_TIME,
        StudyDescription=study.title,
        StudyID="1",
        AccessionNumber=study.patient_id.replace("ISO", "A"),
        ReferringPhysicianName="Phantom^Referrer",
    )


def instance(study: Study, sop_class_uid: str, modality: str, number: int) -> Dataset:
    """All that every instance has: patient, study, the only series, equipment, SOP Common."""
    dataset = patient_and_study(study)
    dataset.update(
        data_set(
            SOPClassUID=sop_class_uid,
            SOPInstanceUID=uid_of(f"{study.folder}/{number}"),
            Modality=modality,
            SeriesInstanceUID=uid_of(f"{study.folder}/series"),
            SeriesNumber=1,
            SeriesDate=STUDY_DATE,
            SeriesTime=STUDY_TIME,
            SeriesDescription=study.title,
            InstanceNumber=number,
            ContentDate=STUDY_DATE,
            ContentTime=STUDY_TIME,
            Manufacturer="Isocenter Phantoms",
            ManufacturerModelName="Ellipsoid",
            DeviceSerialNumber="1",
            SoftwareVersions="1",
            InstitutionName="Isocenter Phantoms",
        )
    )
    return dataset


def pixels_of(image: NDArray[np.uint16] | NDArray[np.uint8], *, bits_stored: int) -> Dataset:
    """The Image Pixel module: grey in 16 bits, (…, rows, columns); RGB in 8, with 3 at the end."""
    in_colour = image.dtype == np.uint8
    rows, columns = image.shape[-3:-1] if in_colour else image.shape[-2:]
    bits_allocated = 8 * image.dtype.itemsize
    module = data_set(
        SamplesPerPixel=3 if in_colour else 1,
        PhotometricInterpretation="RGB" if in_colour else "MONOCHROME2",
        Rows=rows,
        Columns=columns,
        BitsAllocated=bits_allocated,
        BitsStored=bits_stored,
        HighBit=bits_stored - 1,
        PixelRepresentation=0,
    )
    if in_colour:
        module.PlanarConfiguration = 0
    module.add_new("PixelData", "OW" if bits_allocated == 16 else "OB", image.tobytes())
    return module


def coded(value: str, scheme: str, meaning: str) -> list[Dataset]:
    """A code sequence of one item (PS3.3 Table 8.8-1)."""
    return [data_set(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)]


def stored_from(hu: Floats) -> NDArray[np.uint16]:
    """HU as 12 bits, to be read with RESCALE_INTERCEPT_HU."""
    return np.clip(hu - RESCALE_INTERCEPT_HU, 0, 4095).astype(np.uint16)


def ct_image(
    study: Study,
    number: int,
    hu: Floats,
    *,
    spacing_mm: float,
    thickness_mm: float,
    z_mm: float,
    body_part: str,
) -> Dataset:
    """An axial CT image, centred upon the patient's origin in x and y (PS3.3 A.3)."""
    rows, columns = hu.shape
    first_x, first_y = (float(axis_mm(count, spacing_mm)[0]) for count in (columns, rows))
    dataset = instance(study, CT_IMAGE_STORAGE, "CT", number)
    dataset.update(pixels_of(stored_from(hu), bits_stored=12))
    dataset.update(
        data_set(
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            AcquisitionNumber=1,
            BodyPartExamined=body_part,
            PatientPosition="HFS",
            PositionReferenceIndicator="",
            FrameOfReferenceUID=uid_of(f"{study.folder}/frame of reference"),
            ImagePositionPatient=[first_x, first_y, z_mm],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[spacing_mm, spacing_mm],
            SliceThickness=thickness_mm,
            SliceLocation=z_mm,
            KVP=120,
            XRayTubeCurrent=200,
            ExposureTime=500,
            ConvolutionKernel="PHANTOM",
            ReconstructionDiameter=spacing_mm * columns,
            GantryDetectorTilt=0,
            RescaleIntercept=RESCALE_INTERCEPT_HU,
            RescaleSlope=1,
            RescaleType="HU",
            WindowCenter=[-500, 40] if body_part == "CHEST" else 40,
            WindowWidth=[1500, 400] if body_part == "CHEST" else 400,
        )
    )
    return dataset


def ct_chest() -> Iterator[File]:
    """The chest CT. Neither file names nor instance numbers follow the geometry: it must be read."""
    numbers = list(range(1, chest.SLICES + 1))
    random.Random(_SHUFFLE_SEED).shuffle(numbers)
    heights_mm = axis_mm(chest.SLICES, chest.SLICE_SPACING_MM)
    for number, hu, z_mm in zip(numbers, chest.chest_ct(), heights_mm, strict=True):
        dataset = ct_image(
            CT_CHEST,
            number,
            hu,
            spacing_mm=chest.PIXEL_SPACING_MM,
            thickness_mm=chest.SLICE_SPACING_MM,
            z_mm=float(z_mm),
            body_part="CHEST",
        )
        yield f"{CT_CHEST.folder}/{number:02d}.dcm", part10(dataset)


def abdomen_slice(study: Study, number: int) -> Dataset:
    """A small CT image, 64 × 64, for the studies whose point is not the picture."""
    index = phantoms.ABDOMEN_SLICES // 2 + number - 1
    heights_mm = axis_mm(phantoms.ABDOMEN_SLICES, phantoms.ABDOMEN_SLICE_SPACING_MM)
    return ct_image(
        study,
        number,
        phantoms.abdomen(index),
        spacing_mm=phantoms.ABDOMEN_SPACING_MM,
        thickness_mm=phantoms.ABDOMEN_SLICE_SPACING_MM,
        z_mm=float(heights_mm[index]),
        body_part="ABDOMEN",
    )


def cr_chest() -> Iterator[File]:
    """A frontal digital radiograph with the patient's name in its pixels (PS3.3 A.26)."""
    dataset = instance(CR_CHEST, DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION, "DX", 1)
    dataset.update(pixels_of(phantoms.radiograph(), bits_stored=12))
    spacing_mm = [phantoms.RADIOGRAPH_SPACING_MM] * 2
    view = coded("399348003", "SCT", "antero-posterior")
    view[0].ViewModifierCodeSequence = []
    dataset.update(
        data_set(
            ImageType=["ORIGINAL", "PRIMARY"],
            PresentationIntentType="FOR PRESENTATION",
            PhotometricInterpretation="MONOCHROME1",
            PresentationLUTShape="INVERSE",
            PixelIntensityRelationship="LOG",
            PixelIntensityRelationshipSign=1,
            RescaleIntercept=0,
            RescaleSlope=1,
            RescaleType="US",
            WindowCenter=2048,
            WindowWidth=4096,
            BurnedInAnnotation="YES",
            LossyImageCompression="00",
            PatientOrientation=["L", "F"],
            ImageLaterality="U",
            BodyPartExamined="CHEST",
            AnatomicRegionSequence=coded("51185008", "SCT", "Chest"),
            PositionerType="NONE",
            ViewPosition="AP",
            ViewCodeSequence=view,
            AcquisitionContextSequence=[],
            DetectorType="DIRECT",
            DetectorConfiguration="AREA",
            ImagerPixelSpacing=spacing_mm,
            PixelSpacing=spacing_mm,
            KVP=110,
        )
    )
    yield f"{CR_CHEST.folder}/1.dcm", part10(dataset)


def mr_brain() -> Iterator[File]:
    """A stack of oblique slices (PS3.3 A.4)."""
    for index in range(phantoms.BRAIN_SLICES):
        dataset = instance(MR_BRAIN, MR_IMAGE_STORAGE, "MR", index + 1)
        dataset.update(pixels_of(phantoms.brain(index), bits_stored=12))
        position = [round(value, 4) for value in phantoms.brain_position_mm(index)]
        dataset.update(
            data_set(
                ImageType=["ORIGINAL", "PRIMARY", "OTHER"],
                BodyPartExamined="BRAIN",
                PatientPosition="HFS",
                PositionReferenceIndicator="",
                FrameOfReferenceUID=uid_of(f"{MR_BRAIN.folder}/frame of reference"),
                ImagePositionPatient=position,
                ImageOrientationPatient=[*phantoms.BRAIN_ROW, *phantoms.BRAIN_COLUMN],
                PixelSpacing=[phantoms.BRAIN_SPACING_MM] * 2,
                SliceThickness=5,
                SpacingBetweenSlices=phantoms.BRAIN_SLICE_SPACING_MM,
                ScanningSequence="SE",
                SequenceVariant="NONE",
                ScanOptions="",
                MRAcquisitionType="2D",
                RepetitionTime=500,
                EchoTime=12,
                EchoTrainLength=1,
                MagneticFieldStrength=1.5,
                WindowCenter=500,
                WindowWidth=1000,
            )
        )
        yield f"{MR_BRAIN.folder}/{index + 1:02d}.dcm", part10(dataset)


def us_multiframe() -> Iterator[File]:
    """A loop in RGB; its one region leaves out the banner with the name (PS3.3 A.7, C.8.5.5)."""
    frames = np.stack([phantoms.echo(frame) for frame in range(phantoms.ECHO_FRAMES)])
    dataset = instance(US_MULTIFRAME, ULTRASOUND_MULTI_FRAME_IMAGE_STORAGE, "US", 1)
    dataset.update(pixels_of(frames, bits_stored=8))
    region = data_set(
        RegionSpatialFormat=1,  # two-dimensional
        RegionDataType=1,  # tissue
        RegionFlags=0,
        RegionLocationMinX0=0,
        RegionLocationMinY0=phantoms.ECHO_BANNER_ROWS,
        RegionLocationMaxX1=phantoms.ECHO_COLUMNS - 1,
        RegionLocationMaxY1=phantoms.ECHO_ROWS - 1,
        PhysicalUnitsXDirection=3,  # cm
        PhysicalUnitsYDirection=3,
        PhysicalDeltaX=0.1,
        PhysicalDeltaY=0.1,
    )
    dataset.update(
        data_set(
            ImageType=["ORIGINAL", "PRIMARY", "TTE", "0001"],
            NumberOfFrames=phantoms.ECHO_FRAMES,
            FrameIncrementPointer=0x00181063,
            FrameTime=40,
            BurnedInAnnotation="YES",
            LossyImageCompression="00",
            BodyPartExamined="HEART",
            PatientOrientation="",
            SequenceOfUltrasoundRegions=[region],
        )
    )
    yield f"{US_MULTIFRAME.folder}/1.dcm", part10(dataset)


def ct_enhanced() -> Iterator[File]:
    """An abdomen as one enhanced multi-frame CT (PS3.3 A.38)."""
    slices = range(phantoms.ABDOMEN_SLICES)
    frames = np.stack([stored_from(phantoms.abdomen(index)) for index in slices])
    dataset = instance(CT_ENHANCED, ENHANCED_CT_IMAGE_STORAGE, "CT", 1)
    dataset.update(pixels_of(frames, bits_stored=12))
    dimensions = uid_of(f"{CT_ENHANCED.folder}/dimensions")
    dataset.update(
        data_set(
            ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
            PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
            ContentQualification="RESEARCH",
            AcquisitionDateTime=STUDY_DATE + STUDY_TIME,
            AcquisitionDuration=10.0,
            NumberOfFrames=phantoms.ABDOMEN_SLICES,
            BurnedInAnnotation="NO",
            LossyImageCompression="00",
            PresentationLUTShape="IDENTITY",
            BodyPartExamined="ABDOMEN",
            PatientPosition="HFS",
            PositionReferenceIndicator="",
            FrameOfReferenceUID=uid_of(f"{CT_ENHANCED.folder}/frame of reference"),
            AcquisitionContextSequence=[],
            DimensionOrganizationType="3D",
            DimensionOrganizationSequence=[data_set(DimensionOrganizationUID=dimensions)],
            DimensionIndexSequence=[
                data_set(
                    DimensionOrganizationUID=dimensions,
                    DimensionIndexPointer=pointer,
                    FunctionalGroupPointer=0x00209111,  # Frame Content Sequence
                    DimensionDescriptionLabel=label,
                )
                for pointer, label in ((0x00209056, "Stack ID"), (0x00209057, "In-Stack Position"))
            ],
            SharedFunctionalGroupsSequence=[_groups_of_all_frames()],
            PerFrameFunctionalGroupsSequence=[_groups_of_frame(index) for index in slices],
        )
    )
    yield f"{CT_ENHANCED.folder}/1.dcm", part10(dataset)


def _groups_of_all_frames() -> Dataset:
    """What the frames of the enhanced CT have in common (PS3.3 Table A.38-2)."""
    pixel_spacing_mm = [phantoms.ABDOMEN_SPACING_MM] * 2
    return data_set(
        PixelMeasuresSequence=[
            data_set(
                PixelSpacing=pixel_spacing_mm, SliceThickness=phantoms.ABDOMEN_SLICE_SPACING_MM
            )
        ],
        PlaneOrientationSequence=[data_set(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        FrameAnatomySequence=[
            data_set(
                FrameLaterality="U",
                AnatomicRegionSequence=coded("818983003", "SCT", "Abdomen"),
            )
        ],
        CTImageFrameTypeSequence=[
            data_set(
                FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
                PixelPresentation="MONOCHROME",
                VolumetricProperties="VOLUME",
                VolumeBasedCalculationTechnique="NONE",
            )
        ],
        CTAcquisitionTypeSequence=[
            data_set(AcquisitionType="SEQUENCED", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")
        ],
        CTAcquisitionDetailsSequence=[
            data_set(
                RotationDirection="CW",
                RevolutionTime=0.5,
                SingleCollimationWidth=8.0,
                TotalCollimationWidth=8.0,
                TableHeight=0.0,
                GantryDetectorTilt=0.0,
                DataCollectionDiameter=500.0,
            )
        ],
        CTTableDynamicsSequence=[Dataset()],  # the table stands still while a slice is taken
        CTGeometrySequence=[
            data_set(DistanceSourceToDetector=1000.0, DistanceSourceToDataCollectionCenter=500.0)
        ],
        CTReconstructionSequence=[
            data_set(
                ReconstructionAlgorithm="FILTER_BACK_PROJ",
                ConvolutionKernel="PHANTOM",
                ConvolutionKernelGroup="SOFT_TISSUE",
                ReconstructionDiameter=phantoms.ABDOMEN_SPACING_MM * phantoms.ABDOMEN_COLUMNS,
                ReconstructionPixelSpacing=pixel_spacing_mm,
                ReconstructionAngle=360.0,
                ImageFilter="NONE",
            )
        ],
        CTExposureSequence=[
            data_set(
                ExposureTimeInms=500.0,
                XRayTubeCurrentInmA=200.0,
                ExposureInmAs=100.0,
                ExposureModulationType="NONE",
            )
        ],
        CTXRayDetailsSequence=[
            data_set(KVP=120, FocalSpots=[1.0], FilterType="NONE", FilterMaterial="ALUMINUM")
        ],
        PixelValueTransformationSequence=[
            data_set(RescaleIntercept=RESCALE_INTERCEPT_HU, RescaleSlope=1, RescaleType="HU")
        ],
        FrameVOILUTSequence=[data_set(WindowCenter=40, WindowWidth=400)],
        IrradiationEventIdentificationSequence=[
            data_set(IrradiationEventUID=uid_of(f"{CT_ENHANCED.folder}/irradiation"))
        ],
    )


def _groups_of_frame(index: int) -> Dataset:
    """What one frame has of its own: when and where."""
    spacing_mm = phantoms.ABDOMEN_SPACING_MM
    first_x = float(axis_mm(phantoms.ABDOMEN_COLUMNS, spacing_mm)[0])
    first_y = float(axis_mm(phantoms.ABDOMEN_ROWS, spacing_mm)[0])
    z = float(axis_mm(phantoms.ABDOMEN_SLICES, phantoms.ABDOMEN_SLICE_SPACING_MM)[index])
    moment = f"{STUDY_DATE}1015{index:02d}"
    return data_set(
        FrameContentSequence=[
            data_set(
                FrameAcquisitionNumber=1,
                FrameReferenceDateTime=moment,
                FrameAcquisitionDateTime=moment,
                FrameAcquisitionDuration=500.0,
                StackID="1",
                InStackPositionNumber=index + 1,
                DimensionIndexValues=[1, index + 1],
            )
        ],
        PlanePositionSequence=[data_set(ImagePositionPatient=[first_x, first_y, z])],
        CTPositionSequence=[
            data_set(
                TablePosition=z,
                DataCollectionCenterPatient=[0.0, 0.0, z],
                ReconstructionTargetCenterPatient=[0.0, 0.0, z],
            )
        ],
    )


def ordinary_files() -> Iterator[File]:
    """The five studies that are stored as they were made, uncompressed."""
    for study in (ct_chest, cr_chest, mr_brain, us_multiframe, ct_enhanced):
        yield from study()
