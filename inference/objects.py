"""Findings and their sources to DICOM objects: SEG and Comprehensive 3D SR (PS3.16 TID 1500).

Pure: the same findings, sources and identity give the same bytes, so that a repeated run stores
the same instances. Every object is COMPLETE, UNVERIFIED and PRELIMINARY, names the algorithm with
its version and a Device UID that changes with every change of the model (IHE AIR), and is marked
RESEARCH unless the model is a cleared product. Each kind goes into a series of its own, since
viewers show only the last object of a SEG or SR series. highdicom is imported here alone.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final

import highdicom
import numpy as np
from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentSequence,
    ImageContentItem,
    RelationshipTypeValues,
    TextContentItem,
    UIDRefContentItem,
)
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from inference.findings import (
    PRIVATE_SCHEME,
    Classification,
    Code,
    Measurement,
    Result,
    Segmentation,
)
from inference.registry import Model
from inference.volume import Frame, Grid
from pacs.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, derived_uid

# highdicom writes a patient's name into its log where it doubts the name's form.
logging.getLogger("highdicom").setLevel(logging.CRITICAL)

MANUFACTURER: Final = "Isocenter"
SERIES_NUMBERS: Final[Mapping[str, int]] = {"seg": 9901, "sr": 9902}
OFFSET: Final = re.compile(r"[+-][01]\d[0-5]\d")
LONG_STRING_CHARACTERS_MAX: Final = 64  # PS3.5 6.2, LO; longer descriptions are cut

SUMMARY: Final = Code("111017", "DCM", "CAD Processing and Findings Summary")
SUCCEEDED_WITH_FINDINGS: Final = Code("111242", "DCM", "All algorithms succeeded; with findings")
SUCCEEDED_WITHOUT_FINDINGS: Final = Code(
    "111241", "DCM", "All algorithms succeeded; without findings"
)
COMMENT: Final = Code("121106", "DCM", "Comment")
ALGORITHM_FAMILY: Final = Code("111000", "DCM", "Algorithm Family")
ALGORITHM_MANUFACTURER: Final = Code("122405", "DCM", "Algorithm Manufacturer")
PROBABILITY: Final = Code("122157", "DCM", "Probability")
NO_UNITS: Final = Code("1", "UCUM", "no units")
PRESENT: Final = Code("52101004", "SCT", "Present")
ABSENT: Final = Code("272519000", "SCT", "Absent")
UNDETERMINED: Final = Code("373068000", "SCT", "Undetermined")
IMAGE_LIBRARY: Final = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP: Final = Code("126200", "DCM", "Image Library Group")
MODALITY: Final = Code("121139", "DCM", "Modality")
FRAME_OF_REFERENCE: Final = Code("112227", "DCM", "Frame of Reference UID")
SOURCE: Final = Code("260753009", "SCT", "Source")
PROCESSING_EQUIPMENT: Final = Code("109102", "DCM", "Processing Equipment")

# Modality (0008,0060) as a code (PS3.16 CID 29); another one is left out of the image library.
MODALITIES: Final[Mapping[str, Code]] = {
    "CT": Code("CT", "DCM", "Computed Tomography"),
    "MR": Code("MR", "DCM", "Magnetic Resonance"),
    "PT": Code("PT", "DCM", "Positron emission tomography"),
}
VERDICTS: Final[Mapping[bool | None, Code]] = {True: PRESENT, False: ABSENT, None: UNDETERMINED}

NOT_VERIFIED: Final = "Not verified by a physician. Made by software without human review."

# Type 2 attributes of patient and study, which highdicom insists on; empty where the source has
# none.
REQUIRED_KEYWORDS: Final = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
# What else follows the source where it is there. Not its sequences: one that is malformed would
# make our object invalid too.
OPTIONAL_KEYWORDS: Final = (
    "IssuerOfPatientID",
    "PatientAge",
    "StudyDescription",
    "TimezoneOffsetFromUTC",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "LongitudinalTemporalInformationModified",
)
# What highdicom reads of a source image, but for its plane, which comes from the checked grid.
SOURCE_KEYWORDS: Final = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "InstanceNumber",
    "Rows",
    "Columns",
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes an object the same again: the job's key and when the job was made.

    `made_at` becomes Content Date and Time; a retry must bring the same one.
    """

    job_key: str
    made_at: datetime

    def uid(self, *names: str) -> str:
        """The UID of something this job writes."""
        return derived_uid(self.job_key, *names)


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What all objects of one run share."""

    model: Model
    result: Result
    grid: Grid
    sources: tuple[Dataset, ...]  # as highdicom reads them, in the grid's order
    patient: Dataset  # patient and study attributes, as the sources have them
    acquisition: str  # a sentence on what was read
    identity: Identity

    def tracking_uid(self, finding_id: str) -> str:
        return self.identity.uid("tracking", finding_id)


def device_uid(model: Model) -> str:
    """The UID of model and version as a device: another for every change of its files."""
    return derived_uid("model", model.sha256)


def write_objects(
    model: Model,
    result: Result,
    grid: Grid,
    data_sets: Iterable[Dataset],
    identity: Identity,
    *,
    predecessor: Dataset | None = None,
) -> tuple[Dataset, ...]:
    """The objects of a run that succeeded: the SEG first, where there is one, then the SR.

    data_sets are the source instances, with or without pixels. predecessor is the SR of the
    generation that this one supersedes.
    """
    assert result.state == "succeeded", "only a success is written"
    sources = _sources(grid, data_sets)
    context = Context(
        model=model,
        result=result,
        grid=grid,
        sources=tuple(_readable(source, grid) for source in sources),
        patient=_patient(sources[0]),
        acquisition=_acquisition(grid, sources[0]),
        identity=identity,
    )
    # Viewers reject a SEG with nothing in it; the SR says what was (not) found.
    marked = any(segmentation.mask.any() for segmentation in result.segmentations)
    seg = segmentation_object(context) if marked else None
    report = report_object(context, seg, predecessor)
    return (seg, report) if seg else (report,)


def part10(data_set: Dataset) -> bytes:
    """A written object as a Part 10 file."""
    buffer = io.BytesIO()
    data_set.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def segmentation_object(context: Context) -> Dataset:
    """A BINARY SEG on the grid of its source: frame k lies on source frame k (PS3.3 A.51)."""
    segmentations = context.result.segmentations
    seg = highdicom.seg.Segmentation(
        source_images=list(context.sources),
        pixel_array=_in_source_order(context, segmentations),
        segmentation_type="BINARY",
        segment_descriptions=[
            _segment(context, number, segmentation)
            for number, segmentation in enumerate(segmentations, start=1)
        ],
        series_instance_uid=context.identity.uid("seg", "series"),
        series_number=SERIES_NUMBERS["seg"],
        sop_instance_uid=context.identity.uid("seg", "instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=_long_string(context.model.manifest.metadata.algorithm.name),
        software_versions=context.model.version,
        device_serial_number=context.model.sha256[:16],
        omit_empty_frames=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label="SEGMENTATION",
        content_description=_long_string(context.model.manifest.metadata.title),
        series_description=_long_string(f"{context.model.manifest.metadata.title} (SEG)"),
        contributing_equipment=[_equipment(context)],
    )
    _replace_dimension_uid(seg, context.identity.uid("seg", "dimensions"))
    return _finished(seg, context)


def report_object(
    context: Context, seg: Dataset | None, predecessor: Dataset | None = None
) -> Dataset:
    """A Comprehensive 3D SR with one measurement report (PS3.16 TID 1500)."""
    report = highdicom.sr.MeasurementReport(
        observation_context=highdicom.sr.ObservationContext(
            observer_device_context=_observer(context)
        ),
        procedure_reported=_concept(context.model.manifest.procedure_reported),
        imaging_measurements=[
            *(
                _segment_group(context, number, segmentation, seg)
                for number, segmentation in enumerate(context.result.segmentations, start=1)
                if seg is not None
            ),
            *(_finding_group(context, finding) for finding in context.result.classifications),
            _summary_group(context),
        ],
    )
    _insert_image_library(report[0].ContentSequence, context)
    document = highdicom.sr.Comprehensive3DSR(
        evidence=[*context.sources, *([seg] if seg else [])],
        content=report[0],
        series_instance_uid=context.identity.uid("sr", "series"),
        series_number=SERIES_NUMBERS["sr"],
        sop_instance_uid=context.identity.uid("sr", "instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        previous_versions=[predecessor] if predecessor is not None else None,
        series_description=_long_string(f"{context.model.manifest.metadata.title} (SR)"),
        contributing_equipment=[_equipment(context)],
    )
    document.ManufacturerModelName = _long_string(context.model.manifest.metadata.algorithm.name)
    document.SoftwareVersions = context.model.version
    document.DeviceSerialNumber = context.model.sha256[:16]
    return _finished(document, context)


def _sources(grid: Grid, data_sets: Iterable[Dataset]) -> tuple[Dataset, ...]:
    found = {str(data_set.SOPInstanceUID): data_set for data_set in data_sets}
    return tuple(found[uid] for uid in dict.fromkeys(f.sop_instance_uid for f in grid.frames))


def _readable(source: Dataset, grid: Grid) -> Dataset:
    """A source as highdicom can read it, without a word about the patient.

    An archive holds what scanners sent: no Study ID, a sex of `W`, a name of one component, cosines
    that differ in the last digit. highdicom refuses some of it, and quotes the name in a warning.
    """
    header = Dataset()
    for keyword in SOURCE_KEYWORDS:
        if keyword in source:
            header[keyword] = source[keyword]
    for keyword in REQUIRED_KEYWORDS:
        setattr(header, keyword, "")
    frames = [frame for frame in grid.frames if frame.sop_instance_uid == source.SOPInstanceUID]
    if len(frames) > 1:
        header.NumberOfFrames = len(frames)
        header.SharedFunctionalGroupsSequence = [_shared_plane(grid)]
        header.PerFrameFunctionalGroupsSequence = [
            _frame_plane(frame) for frame in sorted(frames, key=lambda frame: frame.number)
        ]
    else:
        header.update(_measures(grid))
        header.update(_orientation(grid))
        header.ImagePositionPatient = list(frames[0].position_mm)
    return header


def _measures(grid: Grid) -> Dataset:
    measures = Dataset()
    step_mm, row_mm, column_mm = grid.spacing_mm
    measures.PixelSpacing = [
        DSfloat(row_mm, auto_format=True),
        DSfloat(column_mm, auto_format=True),
    ]
    measures.SliceThickness = measures.SpacingBetweenSlices = DSfloat(step_mm, auto_format=True)
    return measures


def _orientation(grid: Grid) -> Dataset:
    orientation = Dataset()
    orientation.ImageOrientationPatient = list(grid.frames[0].orientation)
    return orientation


def _shared_plane(grid: Grid) -> Dataset:
    shared = Dataset()
    shared.PixelMeasuresSequence = [_measures(grid)]
    shared.PlaneOrientationSequence = [_orientation(grid)]
    return shared


def _frame_plane(frame: Frame) -> Dataset:
    position, groups = Dataset(), Dataset()
    position.ImagePositionPatient = list(frame.position_mm)
    groups.PlanePositionSequence = [position]
    return groups


def _acquisition(grid: Grid, source: Dataset) -> str:
    """What moves a density measure: spacing, kernel and contrast."""
    step_mm, row_mm, column_mm = grid.spacing_mm
    kernel = source.get("ConvolutionKernel") or "not stated"
    contrast = source.get("ContrastBolusAgent") or "not stated"
    return (
        f"Read: {grid.shape[0]} slices, {step_mm:.2f} mm apart, pixels of {row_mm:.2f} × "
        f"{column_mm:.2f} mm; convolution kernel {kernel}; contrast agent {contrast}."
    )


def _patient(source: Dataset) -> Dataset:
    """Patient and study attributes for an object in UTF-8."""
    patient = Dataset()
    for keyword in REQUIRED_KEYWORDS:
        setattr(patient, keyword, "")
    for keyword in (*REQUIRED_KEYWORDS, *OPTIONAL_KEYWORDS):
        if keyword in source:
            patient[keyword] = source[keyword]
    for keyword in ("PatientName", "ReferringPhysicianName"):
        # Decoded here: a name keeps the bytes of the character set that it came in.
        patient.add_new(keyword, "PN", str(source.get(keyword) or ""))
    return patient


def _finished(written: Dataset, context: Context) -> Dataset:
    """Patient and study as in the source, times and implementation ours, the research mark."""
    written.update(context.patient)
    written.SpecificCharacterSet = "ISO_IR 192"
    made_at = _local(context.identity.made_at, str(written.get("TimezoneOffsetFromUTC") or ""))
    for kind in ("Content", "InstanceCreation", "Series"):
        setattr(written, f"{kind}Date", made_at.strftime("%Y%m%d"))
        setattr(written, f"{kind}Time", made_at.strftime("%H%M%S.%f"))
    if context.model.manifest.metadata.regulatory.status == "RESEARCH":
        written.ContentQualification = "RESEARCH"
    written.CodingSchemeIdentificationSequence = [_private_scheme()]
    for equipment in written.ContributingEquipmentSequence:
        if "ContributionDateTime" in equipment:  # highdicom signs with the time of the wall clock
            equipment.ContributionDateTime = made_at.strftime("%Y%m%d%H%M%S.%f")
    written.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    written.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return written


def _local(moment: datetime, offset: str) -> datetime:
    """The moment in the zone of the study's own dates (PS3.3 C.12.1.1.8), if it says so."""
    if not OFFSET.fullmatch(offset) or moment.tzinfo is None:
        return moment
    sign, hours, minutes = offset[0], int(offset[1:3]), int(offset[3:])
    ahead = timedelta(hours=hours, minutes=minutes)
    return moment.astimezone(timezone(-ahead if sign == "-" else ahead))


def _private_scheme() -> Dataset:
    """Who answers for the codes of our own (PS3.3 C.12.1.1.1)."""
    scheme = Dataset()
    scheme.CodingSchemeDesignator = PRIVATE_SCHEME
    scheme.CodingSchemeName = "Isocenter codes"
    scheme.CodingSchemeResponsibleOrganization = "Isocenter"
    return scheme


def _in_source_order(context: Context, segmentations: Sequence[Segmentation]) -> NDArray[np.uint8]:
    """Masks as highdicom takes them: (frame, row, column, segment).

    Single-frame sources stand in the grid's order already; a multi-frame source, which then is
    the only one, keeps its own order of frames.
    """
    masks = np.stack([segmentation.mask for segmentation in segmentations], axis=-1)
    frames = np.empty(masks.shape, np.uint8)
    several = len(context.sources) > 1
    for index, frame in enumerate(context.grid.frames):
        frames[index if several else frame.number - 1] = masks[index]
    return frames


def _segment(
    context: Context, number: int, segmentation: Segmentation
) -> highdicom.seg.SegmentDescription:
    algorithm = context.model.manifest.metadata.algorithm
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segmentation.label,
        segmented_property_category=_concept(segmentation.category),
        segmented_property_type=_concept(segmentation.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm.name,
            family=_concept(algorithm.family),
            version=context.model.version,
            source=algorithm.manufacturer,
        ),
        tracking_uid=context.tracking_uid(segmentation.id),
        tracking_id=f"{context.model.id}.{segmentation.id}",
        display_color=highdicom.color.CIELabColor.from_rgb(*segmentation.color_rgb),
    )


def _equipment(context: Context) -> highdicom.ContributingEquipment:
    """The model as equipment. highdicom's constructor has no Device UID, which IHE AIR asks for."""
    equipment = highdicom.ContributingEquipment(
        manufacturer=context.model.manifest.metadata.algorithm.manufacturer,
        purpose_of_reference=_concept(PROCESSING_EQUIPMENT),
        manufacturer_model_name=context.model.id,
        software_versions=context.model.version,
        contribution_datetime=context.identity.made_at.replace(tzinfo=None),
        contribution_description=_long_string(context.model.manifest.metadata.title),
    )
    equipment.DeviceUID = device_uid(context.model)
    return equipment


def _observer(context: Context) -> highdicom.sr.ObserverContext:
    metadata = context.model.manifest.metadata
    return highdicom.sr.ObserverContext(
        observer_type=highdicom.sr.CodedConcept("121007", "DCM", "Device"),
        observer_identifying_attributes=highdicom.sr.DeviceObserverIdentifyingAttributes(
            uid=device_uid(context.model),
            name=metadata.id,
            manufacturer_name=metadata.algorithm.manufacturer,
            model_name=metadata.algorithm.name,
            serial_number=context.model.sha256[:16],
        ),
    )


def _replace_dimension_uid(seg: Dataset, uid: str) -> None:
    """highdicom makes this UID up anew each time; ours follows from the job."""
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _segment_group(
    context: Context, number: int, segmentation: Segmentation, seg: Dataset
) -> highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """What was measured in one segment (TID 1411).

    The reference is built by hand: highdicom cannot read it from a SEG of one segment.
    """
    group = highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(context, segmentation.id),
        referenced_segment=highdicom.sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=number,
            source_series=highdicom.sr.SourceSeriesForSegmentation(
                context.sources[0].SeriesInstanceUID
            ),
        ),
        finding_category=_concept(segmentation.category),
        finding_type=_concept(segmentation.type),
        finding_sites=[_site(segmentation.site, segmentation.laterality)],
        algorithm_id=_algorithm(context),
        measurements=[
            _measurement(measurement)
            for measurement in context.result.measurements
            if measurement.of == segmentation.id
        ],
    )
    _complete_algorithm(group[0].ContentSequence, context)
    return group


def _finding_group(
    context: Context, finding: Classification
) -> highdicom.sr.MeasurementsAndQualitativeEvaluations:
    """One finding that is present or absent (TID 1501): negatives are stated too."""
    probability = [] if finding.probability is None else [finding.probability]
    group = highdicom.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(context, finding.id),
        finding_type=_concept(finding.finding),
        finding_sites=[_site(finding.site)] if finding.site else None,
        algorithm_id=_algorithm(context),
        measurements=[
            highdicom.sr.Measurement(_concept(PROBABILITY), value, _concept(NO_UNITS))
            for value in probability
        ],
        qualitative_evaluations=[
            highdicom.sr.QualitativeEvaluation(
                _concept(finding.finding), _concept(VERDICTS[finding.present])
            )
        ],
    )
    _complete_algorithm(group[0].ContentSequence, context)
    return group


def _summary_group(context: Context) -> highdicom.sr.MeasurementsAndQualitativeEvaluations:
    """That the run succeeded, and what a reader must know: TID 1501 admits comments."""
    found = context.result.measurements or any(
        finding.present for finding in context.result.classifications
    )
    group = highdicom.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(context, "run"),
        algorithm_id=_algorithm(context),
        qualitative_evaluations=[
            highdicom.sr.QualitativeEvaluation(
                _concept(SUMMARY),
                _concept(SUCCEEDED_WITH_FINDINGS if found else SUCCEEDED_WITHOUT_FINDINGS),
            )
        ],
    )
    items = group[0].ContentSequence
    _complete_algorithm(items, context)
    warnings = [f"Warning: {warning.sentence}." for warning in context.result.warnings]
    intended = f"Intended use: {context.model.manifest.metadata.intended_use}"
    for sentence in (NOT_VERIFIED, intended, context.acquisition, *warnings):
        items.append(_text(COMMENT, sentence, RelationshipTypeValues.CONTAINS))
    return group


def _tracking(context: Context, finding_id: str) -> highdicom.sr.TrackingIdentifier:
    return highdicom.sr.TrackingIdentifier(
        uid=context.tracking_uid(finding_id),
        identifier=f"{context.model.id}.{finding_id}",
    )


def _site(site: Code, laterality: Code | None = None) -> highdicom.sr.FindingSite:
    return highdicom.sr.FindingSite(
        _concept(site), laterality=_concept(laterality) if laterality else None
    )


def _measurement(measurement: Measurement) -> highdicom.sr.Measurement:
    return highdicom.sr.Measurement(
        name=_concept(measurement.concept),
        value=measurement.value,
        unit=_concept(measurement.unit),
        derivation=_concept(measurement.derivation) if measurement.derivation else None,
        method=_concept(measurement.method) if measurement.method else None,
    )


def _algorithm(context: Context) -> highdicom.sr.AlgorithmIdentification:
    parameters = [f"model_sha256={context.model.sha256}", f"provider={context.result.provider}"]
    return highdicom.sr.AlgorithmIdentification(
        name=context.model.manifest.metadata.algorithm.name,
        version=context.model.version,
        parameters=parameters,
    )


def _complete_algorithm(items: ContentSequence, context: Context) -> None:
    """The rows of TID 4019 that highdicom does not write."""
    algorithm = context.model.manifest.metadata.algorithm
    modifies = RelationshipTypeValues.HAS_CONCEPT_MOD
    items.append(_text(ALGORITHM_MANUFACTURER, algorithm.manufacturer, modifies))
    items.append(
        CodeContentItem(
            name=_concept(ALGORITHM_FAMILY),
            value=_concept(algorithm.family),
            relationship_type=modifies,
        )
    )


def _text(name: Code, value: str, relationship: RelationshipTypeValues) -> TextContentItem:
    return TextContentItem(name=_concept(name), value=value, relationship_type=relationship)


def _insert_image_library(items: ContentSequence, context: Context) -> None:
    """What was read (TID 1600), before the measurements: the order of TID 1500 is significant."""
    contains = RelationshipTypeValues.CONTAINS
    group = ContainerContentItem(_concept(IMAGE_LIBRARY_GROUP), relationship_type=contains)
    group.ContentSequence = ContentSequence(
        [
            *_modality(context.sources[0]),
            UIDRefContentItem(
                _concept(FRAME_OF_REFERENCE),
                context.grid.frames[0].frame_of_reference_uid,
                RelationshipTypeValues.HAS_ACQ_CONTEXT,
            ),
            *(
                ImageContentItem(
                    name=_concept(SOURCE),
                    referenced_sop_class_uid=source.SOPClassUID,
                    referenced_sop_instance_uid=source.SOPInstanceUID,
                    relationship_type=contains,
                )
                for source in context.sources
            ),
        ]
    )
    library = ContainerContentItem(_concept(IMAGE_LIBRARY), relationship_type=contains)
    library.ContentSequence = ContentSequence([group])
    items.insert(len(items) - 1, library)


def _modality(source: Dataset) -> list[CodeContentItem]:
    code = MODALITIES.get(str(source.get("Modality")))
    acquired = RelationshipTypeValues.HAS_ACQ_CONTEXT
    return [CodeContentItem(_concept(MODALITY), _concept(code), acquired)] if code else []


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)


def _long_string(text: str) -> str:
    return text[:LONG_STRING_CHARACTERS_MAX]
