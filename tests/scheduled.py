"""Entries for a worklist and the messages of procedure steps, each valid and easily spoiled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from pacs.access import Actor
from tests import make

RIS = Actor("user", "ris")
SCANNER = Actor("peer", "CT1", "192.0.2.7")
STEP = "ScheduledProcedureStepSequence"


def entry(number: int = 1, *, step: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:  # noqa: ANN401 - of any VR
    """One scheduled CT of the day 2026-03-04, as plain JSON."""
    return {
        "PatientName": "Phantom^One",
        "PatientID": "P-1",
        "PatientBirthDate": "19700101",
        "PatientSex": "O",
        "AccessionNumber": f"A-{number}",
        "RequestedProcedureID": f"R-{number}",
        "RequestedProcedureDescription": "Chest",
        STEP: [
            {
                "ScheduledStationAETitle": "CT1",
                "ScheduledProcedureStepStartDate": "20260304",
                "ScheduledProcedureStepStartTime": "1000",
                "Modality": "CT",
                "ScheduledPerformingPhysicianName": "Performer^Pat",
                "ScheduledProcedureStepID": f"S-{number}",
                "ScheduledProcedureStepDescription": "Chest, low dose",
                **(step or {}),
            }
        ],
        **given,
    }


def creation(
    study_instance_uid: str = make.uid("study"),
    *,
    step_id: str = "S-1",
    **given: Any,  # noqa: ANN401 - of any VR
) -> Dataset:
    """The attributes of an N-CREATE (PS3.4 table F.7.2-1)."""
    scheduled = Dataset()
    scheduled.StudyInstanceUID = study_instance_uid
    scheduled.ReferencedStudySequence = Items([])
    scheduled.AccessionNumber = "A-1"
    scheduled.RequestedProcedureID = "R-1"
    scheduled.RequestedProcedureDescription = "Chest"
    scheduled.ScheduledProcedureStepID = step_id
    scheduled.ScheduledProcedureStepDescription = "Chest, low dose"
    scheduled.ScheduledProtocolCodeSequence = Items([])
    made = Dataset()
    made.ScheduledStepAttributesSequence = Items([scheduled])
    made.PatientName = "Phantom^One"
    made.PatientID = "P-1"
    made.PatientBirthDate = "19700101"
    made.PatientSex = "O"
    made.ReferencedPatientSequence = Items([])
    made.PerformedProcedureStepID = "PPS-1"
    made.PerformedStationAETitle = "CT1"
    made.PerformedStationName = ""
    made.PerformedLocation = ""
    made.PerformedProcedureStepStartDate = "20260304"
    made.PerformedProcedureStepStartTime = "100500"
    made.PerformedProcedureStepStatus = "IN PROGRESS"
    made.PerformedProcedureStepDescription = ""
    made.PerformedProcedureTypeDescription = ""
    made.ProcedureCodeSequence = Items([])
    made.PerformedProcedureStepEndDate = ""
    made.PerformedProcedureStepEndTime = ""
    made.Modality = "CT"
    made.StudyID = "1"
    made.PerformedProtocolCodeSequence = Items([])
    made.PerformedSeriesSequence = Items([])
    return changed(made, **given)


def completion(
    instances: Iterable[Dataset] = (),
    *,
    state: str = "COMPLETED",
    **given: Any,  # noqa: ANN401 - of any VR
) -> Dataset:
    """The attributes of the N-SET that ends a step, with one series of these instances."""
    made = Dataset()
    made.PerformedProcedureStepStatus = state
    made.PerformedProcedureStepEndDate = "20260304"
    made.PerformedProcedureStepEndTime = "101500"
    made.PerformedSeriesSequence = Items([series(instances)])
    return changed(made, **given)


def series(instances: Iterable[Dataset] = ()) -> Dataset:
    """One performed series that lists instances."""
    made = Dataset()
    made.PerformingPhysicianName = ""
    made.ProtocolName = "Thorax"
    made.OperatorsName = ""
    made.SeriesInstanceUID = make.uid("performed series")
    made.SeriesDescription = ""
    made.RetrieveAETitle = ""
    made.ReferencedImageSequence = Items([reference(one) for one in instances])
    made.ReferencedNonImageCompositeSOPInstanceSequence = Items([])
    return made


def reference(instance: Dataset) -> Dataset:
    """What names an instance."""
    made = Dataset()
    made.ReferencedSOPClassUID = instance.SOPClassUID
    made.ReferencedSOPInstanceUID = instance.SOPInstanceUID
    return made


def changed(made: Dataset, **given: Any) -> Dataset:  # noqa: ANN401 - of any VR
    """A data set with attributes by keyword, without those that are None."""
    for keyword, value in given.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def encoded(made: Dataset) -> tuple[bytes, str]:
    """A message's attributes and how they are encoded."""
    return make.data_set_bytes(made), make.EXPLICIT
