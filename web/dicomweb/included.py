"""What rows tell beyond the index: `includefield`, read from stored objects (PS3.18 8.3.4.3).

A row of a study or series is told of by its first instance. Only the header is read, and only what
was asked for becomes JSON.
"""

from __future__ import annotations

from typing import Any, Final

from pydicom.datadict import tag_for_keyword

from pacs.archive import Archive, Instance
from pacs.dicom.attributes import Level
from pacs.dicom.data_sets import read_header
from pacs.dicom.json_model import json_model
from pacs.errors import Broken, Missing, Refused

ALL: Final = 0  # stands among the tags for every attribute of the row's level

Included = frozenset[int]  # tags

_SPECIFIC_CHARACTER_SET: Final = 0x00080005


def _tags(keywords: str) -> frozenset[int]:
    found = [tag_for_keyword(keyword) for keyword in keywords.split()]
    assert all(found), keywords
    return frozenset(tag for tag in found if tag is not None)


# The modules of the levels (PS3.3 C.7.1.1, C.7.1.3; C.7.2.1, C.7.2.2; C.7.3.1, C.7.4.1, C.7.5.1).
_OF_PATIENT: Final = _tags(
    "IssuerOfPatientIDQualifiersSequence OtherPatientIDsSequence OtherPatientNames TypeOfPatientID"
    " PatientBirthTime EthnicGroup QualityControlSubject PatientComments PatientSpeciesDescription"
    " PatientSpeciesCodeSequence PatientBreedDescription ResponsiblePerson ResponsiblePersonRole"
    " PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence"
    " ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialSiteID ClinicalTrialSubjectID"
)
_OF_STUDY: Final = _tags(
    "TimezoneOffsetFromUTC ReferringPhysicianIdentificationSequence PhysiciansOfRecord"
    " NameOfPhysiciansReadingStudy RequestingService ReferencedStudySequence ProcedureCodeSequence"
    " IssuerOfAccessionNumberSequence AdmittingDiagnosesDescription PatientAge PatientSize"
    " PatientWeight SmokingStatus PregnancyStatus LastMenstrualDate AdditionalPatientHistory"
    " MedicalAlerts Allergies AdmissionID InstitutionName InstitutionalDepartmentName Occupation"
)
_OF_SERIES: Final = _tags(
    "Laterality PerformingPhysicianName ProtocolName SeriesDescriptionCodeSequence OperatorsName"
    " ReferencedPerformedProcedureStepSequence PatientPosition SmallestPixelValueInSeries"
    " LargestPixelValueInSeries RequestAttributesSequence PerformedProcedureStepID"
    " PerformedProcedureStepDescription PerformedProtocolCodeSequence PositionReferenceIndicator"
    " InstitutionAddress StationName ManufacturerModelName DeviceSerialNumber SoftwareVersions"
)
_EVERY: Final = {
    Level.PATIENT: _OF_PATIENT,
    Level.STUDY: _OF_PATIENT | _OF_STUDY,
    Level.SERIES: _OF_PATIENT | _OF_STUDY | _OF_SERIES,
}


def included_elements(
    archive: Archive, instance: Instance, included: Included, level: Level, service_path: str
) -> dict[str, Any]:
    """What an instance says of the attributes that were asked for, as DICOM JSON.

    One that cannot be read tells nothing: a row with gaps is better than no answer.
    """
    try:
        header = read_header(archive.header(instance), instance.transfer_syntax_uid)
    except (Refused, Missing, Broken):
        return {}
    wanted = included | _EVERY.get(level, frozenset(header.keys())) if ALL in included else included
    for tag in set(header.keys()) - wanted - {_SPECIFIC_CHARACTER_SET}:
        del header[tag]
    told = json_model(header, lambda path: f"{_address(instance, service_path)}/bulkdata/{path}")
    if _SPECIFIC_CHARACTER_SET not in included:
        told.pop(f"{_SPECIFIC_CHARACTER_SET:08X}", None)
    return told


def _address(instance: Instance, service_path: str) -> str:
    return (
        f"{service_path}/studies/{instance.study_instance_uid}"
        f"/series/{instance.series_instance_uid}/instances/{instance.sop_instance_uid}"
    )
